"""Comparisons of methods, densities and settings over seeds."""
