"""How many decisions stay right as inputs are changed more and more."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from torchwhy.core.errors import TorchwhyError
from torchwhy.core.guard import as_arguments, untouched
from torchwhy.core.inputs import check_inputs
from torchwhy.core.progress import Progress
from torchwhy.core.tensors import TensorOrTensors, as_tensors
from torchwhy.robust.corruptions import CORRUPTIONS, SEVERITIES, check_severity, corrupt
from torchwhy.robust.search import mistaken, wrongly


@dataclass(frozen=True)
class RobustnessCurve:
    """Accuracy against the size of a change.

    Attributes:
        name: of the change.
        sizes: of it, the first is 0.
        accuracy: the share of examples that are right.
        standard_error: of the accuracy, binomial.
    """

    name: str
    sizes: tuple[float, ...]
    accuracy: tuple[float, ...]
    standard_error: tuple[float, ...]

    def __str__(self) -> str:
        told = (
            f"{s:g}: {a:.1%} ± {e:.1%}" for s, a, e in zip(self.sizes, self.accuracy, self.standard_error, strict=True)
        )
        return f"{self.name}: {', '.join(told)}"

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "name": self.name,
            "sizes": list(self.sizes),
            "accuracy": list(self.accuracy),
            "standard_error": list(self.standard_error),
        }


def accuracy_curve(
    model: Any,
    attack: Callable[[TensorOrTensors, float], TensorOrTensors],
    inputs: TensorOrTensors,
    target: Any,
    sizes: Sequence[float],
    *,
    name: str = "attack",
    cumulative: bool = True,
    wrong: Callable[[Any, Any], Tensor] = mistaken,
    additional_forward_args: Any = None,
    progress: bool | None = None,
) -> RobustnessCurve:
    """The accuracy under an attack of each size.

    Args:
        model: a module or function.
        attack: from inputs and a size to changed inputs, such as
            ``lambda x, size: FGSM(model).perturb(x, size, labels)``.
        inputs: (B, ...) or a tuple of such.
        target: the true classes.
        sizes: increasing.
        name: of the attack, for people.
        cumulative: an example fooled by a smaller change counts as fooled by a larger: what an attacker with this
            budget can do.
        wrong: from the model's output and the target to whether each example is taken wrongly, (B,).
        additional_forward_args: further arguments of the model.
        progress: show a progress bar; None does on a terminal.

    >>> import torch
    >>> model = torch.nn.Linear(2, 2, bias=False)
    >>> _ = torch.nn.init.eye_(model.weight)
    >>> x, labels = torch.tensor([[1.0, 0.0], [0.0, 0.1]]), [0, 1]
    >>> from torchwhy.robust import FGSM
    >>> print(accuracy_curve(model, lambda x, size: FGSM(model).perturb(x, size, labels), x, labels, [0.2, 0.6]))
    attack: 0: 100.0% ± 0.0%, 0.2: 50.0% ± 35.4%, 0.6: 0.0% ± 0.0%
    """
    sizes = tuple(float(s) for s in sizes)
    if not sizes or list(sizes) != sorted(sizes) or not sizes[0] > 0 or not math.isfinite(sizes[-1]):
        raise TorchwhyError(f"sizes are numbers above 0 in increasing order, not {sizes}")
    point, was_tuple = as_tensors(inputs)
    check_inputs(point)
    extra = as_arguments(additional_forward_args)
    rows = [wrongly(model, point, extra, target, wrong)]
    with Progress(progress).task(name, len(sizes)) as advance:
        for size in sizes:
            changed = as_tensors(attack(point.unwrap(was_tuple), size))[0]
            now = wrongly(model, changed, extra, target, wrong)
            rows.append(now | rows[-1] if cumulative else now)
            advance(1)
    shares = [1 - row.double().mean().item() for row in rows]
    errors = [math.sqrt(a * (1 - a) / point.size) for a in shares]
    return RobustnessCurve(name, (0.0, *sizes), tuple(shares), tuple(errors))


def corruption_curves(
    model: Any,
    images: Tensor,
    target: Any,
    kinds: Sequence[str] | None = None,
    *,
    severities: Sequence[int] = SEVERITIES,
    preprocess: Callable[[Tensor], Tensor] = lambda images: images,
    seed: int = 0,
    additional_forward_args: Any = None,
    progress: bool | None = None,
) -> list[RobustnessCurve]:
    """The accuracy under common corruptions of each severity, a curve for each kind.

    Args:
        model: a module or function.
        images: (B, C, H, W) with values from 0 to 1.
        target: the true classes.
        kinds: some of `CORRUPTIONS`; None takes all.
        severities: from 1 to 5.
        preprocess: from images to what the model takes, such as a normalisation.
        seed: of what is random.
        additional_forward_args: further arguments of the model.
        progress: show a progress bar; None does on a terminal.
    """

    def prepared(x: Tensor, *args: Any, **kwargs: Any) -> Any:
        return model(preprocess(x), *args, **kwargs)

    def corrupted(kind: str) -> Callable[[Any, float], Tensor]:
        return lambda x, size: corrupt(x, kind, int(size), seed)

    curves = []
    kinds, severities = list(CORRUPTIONS) if kinds is None else list(kinds), list(severities)
    for severity in severities:
        check_severity(severity)
    # Guarded here, as inside `prepared` the model cannot be seen.
    with untouched(model, images.device), Progress(progress).task("corrupting", len(kinds)) as advance:
        for kind in kinds:
            curves.append(
                accuracy_curve(
                    prepared,
                    corrupted(kind),
                    images,
                    target,
                    severities,
                    name=kind,
                    cumulative=False,
                    additional_forward_args=additional_forward_args,
                    progress=False,
                )
            )
            advance(1)
    return curves
