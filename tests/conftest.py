"""Lets tests import `oracle` wherever pytest is started, and keeps torch to one thread: the nets here are tiny."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
torch.set_num_threads(1)
