"""What is tried of each method, and what judges them: the one table of both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

Place: TypeAlias = Literal["last", "halfway"]
Base: TypeAlias = Literal["given", "mean"]


@dataclass(frozen=True)
class Setting:
    """Options of a method that are tried together.

    Attributes:
        options: by name.
        layer: of a method that looks at a layer's map: the last one, or the one halfway to it.
        base: what a method that compares with one baseline gets: the one given, or the mean of the background.
        window: the side of a sliding window, over all channels; None leaves it to the method.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    layer: Place = "last"
    base: Base = "given"
    window: int | None = None


def _each(name: str, *values: Any) -> tuple[Setting, ...]:
    return tuple(Setting({name: value}) for value in values)


_LAYERS = (Setting(), Setting(layer="halfway"))
_NOISE = tuple(Setting({"n_samples": 20, "noise_level": level}) for level in (0.05, 0.15, 0.3))

# The cheapest setting comes first: it finds out whether the method runs at all. Methods that are not named here have
# their defaults alone.
SETTINGS: dict[str, tuple[Setting, ...]] = {
    "Banzhaf": _each("budget", 512, 2048),
    "BetaSmooth": _each("beta", 1.0, 10.0),
    "DeepLift": (Setting(), Setting({"rule": "reveal-cancel"}), Setting(base="mean")),
    "EigenCAM": _LAYERS,
    "EigenGradCAM": _LAYERS,
    "FinerCAM": _LAYERS,
    "GradCAM": _LAYERS,
    "GradCAMElementWise": _LAYERS,
    "GradCAMPlusPlus": _LAYERS,
    "GradientShap": _each("n_samples", 20, 50),
    "HSICAttribution": _each("n_samples", 250, 1000),
    "HiResCAM": _LAYERS,
    "IntegratedGradients": (Setting({"n_steps": 10}), Setting({"n_steps": 50}), Setting({"n_steps": 50}, base="mean")),
    "KernelShap": _each("n_samples", 512, 2048),
    "LRP": _each("composite", "epsilon-plus", "epsilon", "epsilon-alpha2beta1"),
    "LayerCAM": _LAYERS,
    "Lime": tuple(Setting({"n_samples": n, "kernel_width": w}) for n, w in ((300, 0.25), (1000, 0.25), (1000, 0.75))),
    "Occlusion": (Setting(), Setting(window=1), Setting(window=3), Setting(window=5)),
    "OwenSampling": _each("n_samples", 2, 10),
    "PartitionShap": _each("budget", 256, 1024),
    "RISE": tuple(Setting({"n_samples": n, "cells": c}) for n, c in ((250, 7), (1000, 4), (1000, 7))),
    "RectGrad": _each("q", 90.0, 98.0),
    "ScoreCAM": _LAYERS,
    "ShapleyCAM": _LAYERS,
    "ShapleyValueSampling": _each("n_samples", 3, 10),
    "ShapleyValues": _each("budget", 512, 2048),
    "SmoothGrad": _NOISE,
    "SmoothGradSquared": _NOISE,
    "SobolAttribution": tuple(Setting({"cells": c, "n_samples": n}) for c, n in ((4, 8), (8, 8))),
    "VarGrad": _NOISE,
    "XGradCAM": _LAYERS,
}

LEFT_OUT = {
    "Conductance": "it explains a layer; at the input it is IntegratedGradients",
    "InternalInfluence": "it explains a layer; at the input it is the mean gradient of IntegratedGradients",
    "RandomCAM": "it is a control: its weights are random",
}
"""Methods that are not tried unless asked for, and why."""

LEFT_OUT_AT_A_LAYER = {"RandomCAM": LEFT_OUT["RandomCAM"]}
"""The same where a layer is explained."""

JUDGES: dict[str, Mapping[str, Any]] = {
    "Deletion": {"n_steps": 10},
    "Insertion": {"n_steps": 10},
    "MuFidelity": {"n_subsets": 50},
    "AvgSensitivity": {"n_samples": 4},
}
"""The metrics, with their options, that judge where none are named."""

FAMILIES = ("faithfulness", "robustness")
"""Of metrics that a comparison can be made on."""
