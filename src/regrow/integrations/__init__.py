"""Helpers for other people's training loops.

`lightning` and `huggingface` need the packages that they are named after; the others need only torch.
"""
