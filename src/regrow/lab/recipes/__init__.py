"""Recipes, settings and methods of training."""
