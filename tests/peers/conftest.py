"""Peers that bring torchvision have an environment of their own: `make peers` runs these tests in it."""

import importlib.util
import sys
from pathlib import Path

if importlib.util.find_spec("zennit") is None:
    collect_ignore_glob = ["test_*.py"]
else:
    sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
    from common import any_torchvision  # noqa: F401  before a peer is imported
