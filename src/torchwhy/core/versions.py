"""What a result was made with."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

import torch


def versions() -> dict[str, str]:
    """The versions that decide numbers: of torchwhy, PyTorch and Python.

    >>> sorted(versions())
    ['python', 'torch', 'torchwhy']
    """
    try:
        own = version("torchwhy")
    except PackageNotFoundError:  # run from a folder that is not installed
        own = "0+unknown"
    return {"torchwhy": own, "torch": str(torch.__version__), "python": platform.python_version()}
