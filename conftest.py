"""For tests and doctests alike."""

import torch

import torchwhy  # noqa: F401  before doctests are collected by path, which would import its modules a second time

# Small computations run fastest on one thread, and do not slow each other down on a shared machine.
torch.set_num_threads(1)
