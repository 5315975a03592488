"""Optimizers, seen by the updaters: hooks, what one does with a sparse weight, and state that moves along."""
