"""One line to an answer."""

from __future__ import annotations

from typing import Any

from torchwhy.core.errors import TorchwhyError, UnsupportedError
from torchwhy.core.explanation import Explanation
from torchwhy.core.site import At
from torchwhy.core.target import TargetLike
from torchwhy.core.tensors import TensorOrTensors, as_tensors
from torchwhy.methods import FeatureAblation, IntegratedGradients, Level, Method
from torchwhy.registry import lookup


def explain(
    model: Any,
    inputs: TensorOrTensors,
    target: TargetLike = None,
    *,
    method: str | type[Method] | Method | None = None,
    at: At = None,
    baselines: Any = None,
    additional_forward_args: Any = None,
    check: Level = "free",
    data: tuple[Any, Any] | None = None,
    classes: tuple[str, ...] | None = None,
    **options: Any,
) -> Explanation:
    """Why did the model decide as it did?

    Args:
        model: a module or function from the inputs to an output.
        inputs: (B, ...) or a tuple of such.
        target: what to explain, see `torchwhy.core.target`; None is the model's own prediction.
        method: a method, its class or its name; None is integrated gradients, and feature ablation where the model has
            no gradient.
        at: a layer to explain at, instead of the input, or a list of layers.
        baselines: what to compare with, where the method does.
        additional_forward_args: further arguments of the model, a tuple, or a dict of those that go by name.
        check: how much evidence to gather, "free", "basic" or "full", see `torchwhy.trust`.
        data: with ``check="full"``, reference inputs and their classes, to measure the model's accuracy on.
        classes: names of the model's outputs.
        options: of the method.

    Returns:
        An `Explanation`: values and evidence, to print, plot, save or show in a notebook.

    Raises:
        TorchwhyError: what was given does not fit; the message says what to do.

    >>> import torch
    >>> found = explain(torch.nn.Linear(3, 2), torch.ones(1, 3), target=0)
    >>> found.values.shape, found.verdict.status
    (torch.Size([1, 3]), 'pass')
    """
    asked: dict[str, Any] = {
        "baselines": baselines,
        "target": target,
        "additional_forward_args": additional_forward_args,
        "check": check,
        "data": data,
        "classes": classes,
    }
    if method is None:
        floats = all(t.is_floating_point() for t in as_tensors(inputs)[0])
        if floats or at is not None:
            try:
                return IntegratedGradients(model, at=at).explain(inputs, **asked, **options)
            except UnsupportedError:
                if options:
                    raise
        return FeatureAblation(model, at=at).explain(inputs, **asked, **options)
    if isinstance(method, Method):
        if at is not None:
            options["at"] = at
        if method.model != model:  # two looks at a bound method are equal, not the same
            raise TorchwhyError("the method was made for another model: give its class or name instead")
        return method.explain(inputs, **asked, **options)
    cls = lookup(method) if isinstance(method, str) else method
    if not (isinstance(cls, type) and issubclass(cls, Method) and hasattr(cls, "info")):
        raise TorchwhyError(f"a method is a name, a class or an object of torchwhy.Method, not {cls!r}")
    if not cls.info.standalone:
        raise TorchwhyError(f"{cls.__name__} goes around another method: make it yourself and call its explain()")
    return cls(model, at=at).explain(inputs, **asked, **options)
