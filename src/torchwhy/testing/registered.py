"""The methods of this library on the cases: what their facts promise, they must keep."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

from torch import Tensor, nn

from torchwhy import registry
from torchwhy.methods import Method, Saliency
from torchwhy.testing.cases import AXIOMS, Case, cases
from torchwhy.testing.judge import EXPECTED, Report, score

SKIPPED = {"map": "its values are of a map", "pairs": "its values are of pairs of features"}
REPEATS, SAMPLES = 32, 16  # of what is kept in expectation, which few samples keep as well as many

# What a method computes, where it is one of the concepts; its options say where it is not so by default.
COMPUTES: dict[str, tuple[str, dict[str, Any]]] = {
    "Saliency": ("gradient", {"abs": False}),
    "InputXGradient": ("input x gradient", {}),
    "IntegratedGradients": ("integrated gradients", {}),
    "ShapleyValues": ("Shapley values", {}),
    "KernelShap": ("Shapley values", {}),
}


def selftest(name: str | None = None) -> dict[str, Report]:
    """Hold every method, or one of them, to what its facts promise.

    Methods of which the values are not in the form of the input are skipped, and those that go around another method
    go around the gradient.

    >>> selftest("integrated-gradients")["IntegratedGradients"].computes
    ('integrated gradients',)
    """
    chosen = registry.methods() if name is None else {(cls := registry.lookup(name)).__name__: cls}
    known = cases()
    return {label: _report(cls, known) for label, cls in chosen.items()}


def _report(cls: type[Method], known: dict[str, Case]) -> Report:
    reason = SKIPPED.get(cls.info.form, "")
    if reason:
        return Report(cls.__name__, (), reason)
    concept, options = COMPUTES.get(cls.__name__, ("", {}))
    claims = [p for p in cls.info.promises if p.startswith(AXIOMS)] + ([concept] if concept else [])
    random = any(claim.endswith(EXPECTED) for claim in claims)
    few = _known(cls, {"n_samples": SAMPLES})
    repeats = [_explainer(cls, options | few | {"seed": seed}) for seed in range(REPEATS)] if random else []
    return score(_explainer(cls, options), claims, name=cls.__name__, only=known, repeats=repeats)


def _known(cls: type[Method], options: dict[str, Any]) -> dict[str, Any]:
    names = {f.name for f in fields(cls)}
    return {name: value for name, value in options.items() if name in names}


def _explainer(cls: type[Method], options: dict[str, Any]) -> Callable[..., Tensor]:
    def explain(model: nn.Module, inputs: Tensor, target: int, baselines: Tensor) -> Tensor:
        method = cls(model if cls.info.standalone else Saliency(model, abs=False), progress=False, **options)
        given = None if cls.info.baselines == "none" else baselines
        found = method.attribute(inputs, given, target)
        assert isinstance(found, Tensor)
        return found

    return explain
