"""What a contract test needs: every method ready to run, small networks, a memory of how all was."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from torchwhy import Explanation, Method, Saliency, registry
from torchwhy.methods import Level

# A contract holds for a few steps and samples as well as for many.
QUICK = {"n_steps": 8, "n_samples": 6, "nt_samples": 4, "budget": 200}
# A regression over up to 75 units of a layer needs more rows than it has unknowns; a comparison, more than one output.
LEAST = {"FinerCAM": {"alpha": 0}, "KernelShap": {"n_samples": 200}}
# These add up the channels of what has spatial dimensions.
ONE_CHANNEL = {"FullGrad"}


class Net(nn.Module):
    """(B, 1, 5, 5) to (B, 4). Smooth; one layer runs twice; buffers and dropout betray training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3)
        self.norm = nn.BatchNorm2d(3)
        self.act = nn.Tanh()
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(27, 4)
        generator = torch.Generator().manual_seed(0)
        for t in self.state_dict().values():
            if t.is_floating_point():
                t.copy_(torch.randn(t.shape, generator=generator) / 2)
        self.norm.running_var.uniform_(0.5, 2, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.norm(self.conv(x)))
        return self.fc(self.drop(self.act(2 * x)).flatten(1))


class Pair(nn.Module):
    """(B, 1, 5, 5) and (B, 2) to (B, 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.side = Net(), nn.Linear(2, 4)
        with torch.no_grad():
            self.side.weight.copy_(torch.linspace(-1, 1, 8).view(4, 2))
            self.side.bias.zero_()

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.net(a) + torch.tanh(self.side(b))


def images(count: int = 3, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 1, 5, 5, generator=generator, dtype=torch.float64).to(dtype)


def sides(count: int = 3, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(count, 2, generator=generator, dtype=torch.float64).to(dtype)


@dataclasses.dataclass(frozen=True)
class Case:
    """A registered method with what it needs to run: baselines, a method to go around, few samples."""

    cls: type[Method]

    @property
    def needs_layer(self) -> bool:
        """Its values have the form of a layer's map, even where no layer was named."""
        return self.cls.info.form == "map"

    @property
    def in_pairs(self) -> bool:
        """Its values are of pairs of features, one matrix whatever was given."""
        return self.cls.info.form == "pairs"

    @property
    def needs_map(self) -> bool:
        """It looks at a layer's map, as its values or as a weight; a function's layers cannot be searched for one."""
        return self.needs_layer or "layer" in {f.name for f in dataclasses.fields(self.cls)}

    def looking_at(self, layer: Any) -> dict[str, Any]:
        """The options that say which layer's map, where it needs one."""
        return {} if not self.needs_map else {"at": layer} if self.needs_layer else {"layer": layer}

    def form(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Of the values for what has a shape."""
        if self.in_pairs:
            return (shape[0], math.prod(shape[1:]), math.prod(shape[1:]))
        one = self.needs_layer or (self.cls.__name__ in ONE_CHANNEL and len(shape) > 2)
        return (shape[0], 1, *shape[2:]) if one else shape

    def method(self, model: Any, at: Any = None, **options: Any) -> Method:
        if self.cls.info.standalone:
            return self.cls(model, at=at, **_known(self.cls, QUICK | LEAST.get(self.cls.__name__, {}) | options))
        inner = Saliency(model, at=at, abs=False)
        return self.cls(inner, **_known(self.cls, QUICK | LEAST.get(self.cls.__name__, {}) | options))

    def attribute(
        self,
        model: Any,
        inputs: Any,
        *,
        at: Any = None,
        target: Any = None,
        extra: Any = None,
        **options: Any,
    ) -> Any:
        return self.method(model, at, **options).attribute(
            inputs, self.baselines(inputs), target=target, additional_forward_args=extra
        )

    def explain(
        self,
        model: Any,
        inputs: Any,
        *,
        at: Any = None,
        target: Any = None,
        extra: Any = None,
        check: Level = "basic",
        **options: Any,
    ) -> Explanation:
        return self.method(model, at, **options).explain(
            inputs, self.baselines(inputs), target=target, additional_forward_args=extra, check=check
        )

    def baselines(self, inputs: Any) -> Any:
        """Four rows per input for a method that compares with a set, else nothing."""
        if self.cls.info.baselines != "set":
            return None

        def rows(t: Tensor) -> Tensor:
            shape = (4, *t.shape[1:])
            return torch.linspace(-1, 1, torch.Size(shape).numel(), dtype=torch.float64).view(shape).to(t.dtype)

        return tuple(map(rows, inputs)) if isinstance(inputs, tuple) else rows(inputs)


def _known(cls: type[Method], options: dict[str, Any]) -> dict[str, Any]:
    names = {f.name for f in dataclasses.fields(cls)}
    return {name: value for name, value in options.items() if name in names}


# Methods that read attention have none to read in the networks here: tests/unit/test_attention.py holds them to this.
CASES = [cls for cls in registry.methods().values() if cls.info.family != "attention"]


@pytest.fixture(params=CASES, ids=lambda cls: cls.__name__)
def case(request: pytest.FixtureRequest) -> Case:
    return Case(request.param)


@pytest.fixture
def net() -> nn.Module:
    return Net().eval()


@pytest.fixture
def pair() -> nn.Module:
    return Pair().eval()


@pytest.fixture
def x() -> Tensor:
    return images()


@pytest.fixture
def both() -> tuple[Tensor, Tensor]:
    return images(), sides()


@pytest.fixture
def remember() -> Callable[..., Callable[[], list[str]]]:
    """``changes = remember(model, *tensors)``; later ``changes()`` names whatever is not as it was."""

    def start(model: nn.Module, *tensors: Tensor) -> Callable[[], list[str]]:
        before = _state(model, tensors)

        def changes() -> list[str]:
            after = _state(model, tensors)
            return [name for name in before | after if not _same(before.get(name), after.get(name))]

        return changes

    return start


def _state(model: nn.Module, tensors: tuple[Tensor, ...]) -> dict[str, Any]:
    state: dict[str, Any] = {
        "torch random state": torch.random.get_rng_state(),
        "numpy random state": torch.from_numpy(np.random.get_state()[1].astype(np.int64)),  # noqa: NPY002  the global one
        "numpy random position": np.random.get_state()[2],  # noqa: NPY002
        "python random state": random.getstate(),
        "gradient mode": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "default dtype": torch.get_default_dtype(),
    }
    for name, module in model.named_modules():
        state[f"{name} training"] = module.training
        for hooks, found in vars(module).items():
            if hooks.endswith("hooks") or "_hooks_" in hooks:
                state[f"{name} {hooks}"] = list(found)
    held = {
        **dict(model.named_parameters()),
        **dict(model.named_buffers()),
        **{f"tensor {i}": t for i, t in enumerate(tensors)},
    }
    for name, t in held.items():
        state[f"{name} value"] = t.detach().clone()
        state[f"{name} requires_grad"] = t.requires_grad
        if t.is_leaf:
            state[f"{name} grad"] = None if t.grad is None else t.grad.clone()
    return state


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return torch.equal(a, b)
    return type(a) is type(b) and a == b
