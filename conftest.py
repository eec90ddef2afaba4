"""For tests and doctests alike."""

import pytest
import torch

import torchwhy  # noqa: F401  before doctests are collected by path, which would import its modules a second time

# Small computations run fastest on one thread, and do not slow each other down on a shared machine.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """What a test draws from the global generator is the same in every run."""
    torch.manual_seed(0)
