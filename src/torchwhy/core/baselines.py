"""What the inputs, or what a layer holds, are compared with, as a user gives it."""

from __future__ import annotations

from typing import Any

from torchwhy.core.errors import TorchwhyError
from torchwhy.core.inputs import broadcast, cast
from torchwhy.core.site import Place, Sites
from torchwhy.core.tensors import Tensors, as_tensors


def of_inputs(given: Any, inputs: Tensors, *, as_set: bool) -> Tensors:
    """One baseline for each example, (B, ...): of a set of rows it is their mean, of nothing zero."""
    if given is None:
        given = 0.0
    elif as_set:
        rows = background(given, inputs)
        given = rows.map(lambda t: t.mean(0, keepdim=True) if t.is_floating_point() else t[:1]).parts
    return broadcast(given, inputs, "baselines", "the inputs")


def of_layers(given: Any, site: Place | None, layout: list[list[int]], held: Tensors) -> Tensors:
    """One baseline for what each example holds at a place (B, ...): given for all, for each layer or for each tensor.

    Args:
        given: what the user gave.
        site: the place.
        layout: how many tensors each call of each layer holds.
        held: what it holds.
    """
    if not isinstance(given, list):
        return broadcast(given, held, "layer_baselines", "what the layer holds")
    if not isinstance(site, Sites) or len(given) != len(layout):
        raise TorchwhyError(f"a list of {len(given)} layer_baselines was given for {site!r}: give one for each layer")
    parts: list[Any] = []
    for one, calls in zip(given, layout, strict=True):
        parts += one if isinstance(one, tuple) else [one] * sum(calls)
    if len(parts) != len(held):
        raise TorchwhyError(
            f"layer_baselines: {len(parts)} given for {len(held)} tensors of {site!r}; give each layer one "
            f"number or tensor, or a tuple of one for each tensor it holds"
        )
    return broadcast(tuple(parts), held, "layer_baselines", "what the layer holds")


def background(rows: Any, inputs: Tensors) -> Tensors:
    """A set of N rows to compare with, in the form of the inputs, (N, ...)."""
    if rows is None:
        raise TorchwhyError(
            "this method compares with a set of examples: give baselines of shape (N, ...), some rows of your data"
        )
    given, _ = as_tensors(rows, "baselines")
    if len(given) != len(inputs) or any(
        g.ndim == 0 or len(g) == 0 or g.shape[1:] != t.shape[1:] for g, t in zip(given, inputs, strict=True)
    ):
        raise TorchwhyError(
            f"baselines are a set of rows like the inputs, (N, ...) with inputs {inputs.shapes}, not {given.shapes}"
        )
    if len({len(g) for g in given}) > 1:
        raise TorchwhyError(f"the baselines of a tuple of inputs are rows of the same examples, not {given.shapes}")
    return given.map(lambda g, t: cast(g, t, "baselines"), inputs)
