"""Momentum of inactive weights: the rules of optimizers, and how it is collected during training."""
