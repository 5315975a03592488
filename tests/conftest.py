"""Keeps torch to one thread: the networks here are tiny."""

import torch

torch.set_num_threads(1)
