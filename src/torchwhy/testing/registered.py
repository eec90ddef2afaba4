"""The methods of this library on the cases: what their facts promise, they must keep."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

from torch import Tensor, nn

from torchwhy import registry
from torchwhy.methods import Method, Saliency
from torchwhy.testing.cases import AXIOMS, FORMS, LAYER, Case, cases
from torchwhy.testing.judge import EXPECTED, Report, score

SKIPPED = {"attention": "its values are of the tokens of a transformer, of which no case knows any"}
REPEATS, SAMPLES = 32, 16  # of what is kept in expectation, which few samples keep as well as many

# What a method computes, where it is one of the concepts; its options say where it is not so by default.
COMPUTES: dict[str, tuple[str, dict[str, Any]]] = {
    "Saliency": ("gradient", {"abs": False}),
    "InputXGradient": ("input x gradient", {}),
    "IntegratedGradients": ("integrated gradients", {}),
    "ShapleyValues": ("Shapley values", {}),
    "KernelShap": ("Shapley values", {}),
    "ShapleyInteractions": ("pair interactions", {}),
    "HiResCAM": ("class activation map", {}),
    "GradCAM": ("class activation map for a mean over places", {}),
    "ShapleyCAM": ("class activation map for a mean over places", {}),
    "XGradCAM": ("class activation map for a mean over places", {}),
}

# Of maps, what their definitions imply: each place gets its own share, or no more than a weight of its channels.
OF_MAPS = {
    **dict.fromkeys(("EigenGradCAM", "GradCAMElementWise", "HiResCAM", "LayerCAM"), "sensitivity"),
    **dict.fromkeys(
        ("AblationCAM", "EigenCAM", "FinerCAM", "GradCAM", "GradCAMPlusPlus", "RandomCAM", "ScoreCAM", "ShapleyCAM"),
        "sensitivity for a mean over places",
    ),
}


def selftest(name: str | None = None) -> dict[str, Report]:
    """Hold every method, or one of them, to what its facts promise.

    Class activation maps are asked of the layer that the cases of that form name, and methods that go around another
    one go around the gradient. Maps of a transformer's tokens are skipped: no case knows them.

    >>> selftest("integrated-gradients")["IntegratedGradients"].computes
    ('integrated gradients',)
    """
    chosen = registry.methods() if name is None else {(cls := registry.lookup(name)).__name__: cls}
    known = {form: cases(form) for form in FORMS}
    return {label: _report(cls, known[cls.info.form]) for label, cls in chosen.items()}


def _report(cls: type[Method], known: dict[str, Case]) -> Report:
    reason = SKIPPED.get(cls.info.family, "")
    if reason:
        return Report(cls.__name__, (), reason)
    concept, options = COMPUTES.get(cls.__name__, ("", {}))
    claims = [p for p in cls.info.promises if p.startswith(AXIOMS)]
    claims += [claim for claim in (concept, OF_MAPS.get(cls.__name__)) if claim]
    random = any(claim.endswith(EXPECTED) for claim in claims)
    few = _known(cls, {"n_samples": SAMPLES})
    options = options | ({"at": LAYER} if cls.info.form == "map" else {})
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
