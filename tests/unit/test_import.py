"""What `import torchwhy` brings and what it does not."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType

import torchwhy
from torchwhy import registry

MODULES = {"activations", "fills", "masks", "metrics", "robust"}  # to reach as why.metrics
# What only a part of the package needs, and is loaded there.
HEAVY = [
    "PIL",
    "jinja2",
    "matplotlib",
    "pandas",
    "rich",
    "safetensors",
    "scipy",
    "skimage",
    "sklearn",
    "typer",
]


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def test_heavy_packages_stay_outside():
    code = f"import sys, torchwhy; print([name for name in {HEAVY} if name in sys.modules])"
    assert run(code) == "[]"


def test_explaining_loads_none_of_them_either():
    code = (
        "import sys, torch, torchwhy\n"
        "model = torch.nn.Sequential(torch.nn.Linear(4, 3))\n"
        "torchwhy.explain(model, torch.ones(2, 4), check='basic')\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    assert run(code) == "[]"


def test_importing_draws_nothing_and_changes_nothing():
    code = (
        "import random, torch, numpy\n"
        "def state():\n"
        "    drawn = random.getstate(), torch.get_rng_state().tolist(), str(numpy.random.get_state())\n"
        "    return drawn, torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_num_threads()\n"
        "before = state(); import torchwhy; print(state() == before)"
    )
    assert run(code) == "True"


def test_public_names_are_sorted_and_all_there():
    # Acronyms, then classes, then functions, as the linter sorts them.
    assert torchwhy.__all__ == sorted(torchwhy.__all__, key=lambda n: (not n.isupper(), n.islower(), n))
    assert len(set(torchwhy.__all__)) == len(torchwhy.__all__)
    public = {
        name for name, value in vars(torchwhy).items() if not name.startswith("_") and not isinstance(value, ModuleType)
    }
    assert public | MODULES == set(torchwhy.__all__)
    assert all(isinstance(getattr(torchwhy, name), ModuleType) for name in MODULES)


def test_all_methods_and_errors_are_public():
    assert set(registry.methods()) <= set(torchwhy.__all__)
    assert issubclass(torchwhy.UnsupportedError, torchwhy.TorchwhyError)
    assert issubclass(torchwhy.MissingExtraError, torchwhy.TorchwhyError)
    assert issubclass(torchwhy.TorchwhyError, ValueError)
