"""Tables and plots, made from result files alone; matplotlib is imported by `plots` when something is drawn."""
