"""What can be trained: recipes, settings and methods."""
