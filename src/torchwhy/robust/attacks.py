"""Changes of an input, too small for people to mind, that raise a model's loss."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeAlias

import torch
from torch import Tensor

from torchwhy.core.errors import TorchwhyError, UnsupportedError, closest
from torchwhy.core.guard import as_arguments, call, untouched
from torchwhy.core.inputs import broadcast, check_inputs, leaf
from torchwhy.core.options import at_least
from torchwhy.core.target import as_tensor, main_part, resolve
from torchwhy.core.tensors import TensorOrTensors, Tensors, align, as_tensors
from torchwhy.engines.noise import check_seed, draws

Loss: TypeAlias = Callable[[Any, Any], Tensor]
Size: TypeAlias = float | Tensor  # one for all examples, or one for each (B,)
Norm: TypeAlias = Literal["Linf", "L2"]


def selected(values: Tensor, target: Any) -> Tensor:
    """The value (B,) of each example's target."""
    if target is None and values[0].numel() != 1:
        raise TorchwhyError("say the target: the true class, or with targeted=True the one wanted")
    return resolve(target, values, len(values))(values, torch.arange(len(values), device=values.device))


def cross_entropy(output: Any, target: Any) -> Tensor:
    """Minus the log-probability (B,) of the target class, from logits (B, C, ...)."""
    logits = as_tensor(main_part(output))
    if logits.ndim < 2 or logits.shape[1] < 2:
        raise TorchwhyError(
            f"an output of shape {tuple(logits.shape)} has no classes: say what to raise, with "
            f"loss_func=lambda output, target: ..."
        )
    return selected(-logits.log_softmax(1), target)


@dataclass(eq=False)
class Attack(ABC):
    """An attack on a model.

    Args:
        model: a module or function.
        loss_func: from the model's output and the target to a loss, a number or (B,); None is the cross-entropy of
            logits.
        lower_bound: that no element of a changed input falls below: a number, or a tensor that broadcasts to the input.
        upper_bound: that no element rises above.
    """

    default_loss: ClassVar[Loss] = staticmethod(cross_entropy)
    zero_thresh: ClassVar[float] = 0.0
    """Slopes up to this size count as none."""

    model: Any
    loss_func: Loss | None = None
    lower_bound: float | Tensor = -math.inf
    upper_bound: float | Tensor = math.inf

    def __post_init__(self) -> None:
        if not callable(self.model):
            raise TorchwhyError(f"a model is a module or a function, not {type(self.model).__name__}")
        low, high = torch.as_tensor(self.lower_bound), torch.as_tensor(self.upper_bound)
        if not (low <= high).all():
            raise TorchwhyError(f"lower_bound={self.lower_bound} lies above upper_bound={self.upper_bound}")

    @abstractmethod
    def perturb(self, inputs: TensorOrTensors, *args: Any, **kwargs: Any) -> TensorOrTensors:
        """The changed inputs."""

    def __call__(self, inputs: TensorOrTensors, *args: Any, **kwargs: Any) -> TensorOrTensors:
        """As `perturb`."""
        return self.perturb(inputs, *args, **kwargs)

    def _slopes(self, inputs: Tensors, target: Any, extra: Any) -> Tensors:
        """The gradient of the loss at the inputs."""
        leaves = inputs.map(leaf)
        with untouched(self.model, inputs.device), torch.enable_grad():
            output = call(self.model, leaves.map(torch.clone), as_arguments(extra))
            loss = (self.loss_func or type(self).default_loss)(output, target)
            if not isinstance(loss, Tensor) or not loss.requires_grad:
                raise UnsupportedError("the loss does not depend on the inputs through operations with a derivative")
            slopes = torch.autograd.grad(loss.sum(), leaves.parts, allow_unused=True)
        found = Tensors(torch.zeros_like(t) if g is None else g for g, t in zip(slopes, leaves, strict=True))
        for g in found:
            if not g.isfinite().all():
                raise TorchwhyError("the gradient of the loss is not finite: does the loss take a logarithm of 0?")
        return found

    def _bound(self, inputs: Tensors) -> Tensors:
        low, high = (torch.as_tensor(b, dtype=torch.float64) for b in (self.lower_bound, self.upper_bound))
        return inputs.map(lambda t: t.clamp(low.to(t), high.to(t)))

    def _signs(self, slopes: Tensors) -> Tensors:
        return slopes.map(lambda g: torch.where(g.abs() > self.zero_thresh, g.sign(), torch.zeros_like(g)))


@dataclass(eq=False)
class FGSM(Attack):
    r"""Fast gradient sign method: one step that raises the loss as fast as a bound on each element allows.

    .. math:: x' = \operatorname{clip}(x + \epsilon \operatorname{sign} \nabla_x L(f(x), y))

    and minus, towards a class of choice.

    Paper: I. Goodfellow, J. Shlens, C. Szegedy, ICLR 2015, arXiv:1412.6572.

    >>> model = torch.nn.Linear(2, 2, bias=False)
    >>> _ = torch.nn.init.eye_(model.weight)
    >>> FGSM(model, upper_bound=1.0).perturb(torch.tensor([[0.5, 0.9]]), epsilon=0.25, target=0)
    tensor([[0.2500, 1.0000]])
    """

    def perturb(
        self,
        inputs: TensorOrTensors,
        epsilon: Size,
        target: Any,
        additional_forward_args: Any = None,
        targeted: bool = False,
        mask: TensorOrTensors | None = None,
    ) -> TensorOrTensors:
        """The changed inputs.

        Args:
            inputs: (B, ...) or a tuple of such.
            epsilon: by how much each element changes, a number or (B,).
            target: the true class, or with ``targeted`` the one wanted; whatever the loss takes.
            additional_forward_args: further arguments of the model.
            targeted: lower the loss of the target.
            mask: 1 where an element may change and 0 elsewhere; broadcasts to the inputs.
        """
        point, was_tuple = _opened(inputs)
        steps = _allowed(self._signs(self._slopes(point, target, additional_forward_args)), mask)
        moved = point + steps.scale(_sizes("epsilon", epsilon, point) * (-1 if targeted else 1))
        return self._bound(moved).unwrap(was_tuple)


@dataclass(eq=False)
class PGD(Attack):
    r"""Projected gradient descent: steps that raise the loss, pulled back into a ball around the input.

    .. math:: x_{t+1} = \Pi_{\lVert x' - x \rVert \le r} \left( x_t + \alpha s_t \right)

    with :math:`s` the sign of the gradient for the ball of ``"Linf"`` and the gradient at length 1 for that of
    ``"L2"``, per example over all its elements.

    Args:
        seed: of the random start, which is uniform in the ball.

    Paper: A. Madry et al., ICLR 2018, arXiv:1706.06083.

    >>> model = torch.nn.Linear(2, 2, bias=False)
    >>> _ = torch.nn.init.eye_(model.weight)
    >>> found = PGD(model).perturb(torch.zeros(1, 2), radius=1.0, step_size=0.5, step_num=10, target=0, norm="L2")
    >>> (2**0.5 * found).round(decimals=4)
    tensor([[-1.,  1.]])
    """

    unit_steps: ClassVar[bool] = True
    """Whether steps in the ball of ``"L2"`` go along the gradient, rather than along its sign."""

    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_seed(self.seed)

    def perturb(
        self,
        inputs: TensorOrTensors,
        radius: Size,
        step_size: Size,
        step_num: int,
        target: Any,
        additional_forward_args: Any = None,
        targeted: bool = False,
        random_start: bool = False,
        norm: Norm = "Linf",
        mask: TensorOrTensors | None = None,
    ) -> TensorOrTensors:
        """The changed inputs.

        Args:
            inputs: (B, ...) or a tuple of such.
            radius: of the ball, a number or (B,).
            step_size: the length of a step, a number or (B,).
            step_num: steps.
            target: as for `FGSM`.
            additional_forward_args: further arguments of the model.
            targeted: lower the loss of the target.
            random_start: begin anywhere in the ball.
            norm: "Linf" bounds every element's change, "L2" its Euclidean length, of each tensor of a tuple.
            mask: as for `FGSM`.
        """
        if norm not in ("Linf", "L2"):
            raise TorchwhyError(f"norm is 'Linf' or 'L2', not {norm!r}{closest(str(norm), ('Linf', 'L2'))}")
        at_least("step_num", step_num, 0)
        point, was_tuple = _opened(inputs)
        radii, length = _sizes("radius", radius, point), _sizes("step_size", step_size, point)
        moved = point
        if random_start:
            moved = self._bound(point + _allowed(_anywhere(point, radii, norm, self.seed), mask))
        for _ in range(step_num):
            slopes = self._slopes(moved, target, additional_forward_args)
            unit = norm == "L2" and self.unit_steps
            steps = _allowed(slopes.map(_normalized) if unit else self._signs(slopes), mask)
            moved = moved + steps.scale(length * (-1 if targeted else 1))
            moved = self._bound(point + (moved - point).map(lambda d: _into_ball(d, radii, norm)))
        return moved.unwrap(was_tuple)


def _opened(inputs: TensorOrTensors) -> tuple[Tensors, bool]:
    tensors, was_tuple = as_tensors(inputs)
    check_inputs(tensors)
    return tensors.map(torch.Tensor.detach), was_tuple


def _sizes(name: str, given: Size, inputs: Tensors) -> Tensor:
    """One size for every example (B,)."""
    sizes = torch.as_tensor(given, device=inputs.device, dtype=torch.float64)
    if sizes.shape not in ((), (inputs.size,)) or not (sizes >= 0).all():
        raise TorchwhyError(f"{name} is a number of at least 0, or one for each of the {inputs.size} examples: {given}")
    return sizes.expand(inputs.size)


def _allowed(steps: Tensors, mask: TensorOrTensors | None) -> Tensors:
    return steps if mask is None else steps * broadcast(mask, steps, "mask", "the inputs")


def _lengths(t: Tensor) -> Tensor:
    lengths: Tensor = torch.linalg.vector_norm(t.flatten(1) if t.ndim > 1 else t[:, None], dim=1)
    return lengths


def _normalized(t: Tensor) -> Tensor:
    return t / align(_lengths(t).clamp_min(torch.finfo(t.dtype).tiny), t)


def _into_ball(change: Tensor, radii: Tensor, norm: Norm) -> Tensor:
    if norm == "Linf":
        r = align(radii, change)
        return change.clamp(-r, r)
    lengths = _lengths(change)
    return change * align((radii.to(lengths) / lengths.clamp_min(torch.finfo(change.dtype).tiny)).clamp_max(1), change)


def _anywhere(point: Tensors, radii: Tensor, norm: Norm, seed: int) -> Tensors:
    """Uniform in the ball, the same way off for all examples: none depends on the others."""

    def drawn(part: int, t: Tensor) -> Tensor:
        generator = draws(seed, stream=50 + part)
        if norm == "Linf":
            return 2 * torch.rand(t.shape[1:], generator=generator, dtype=torch.float64) - 1
        direction = torch.randn(t.shape[1:], generator=generator, dtype=torch.float64)
        share = torch.rand((), generator=generator, dtype=torch.float64) ** (1 / direction.numel())
        way: Tensor = direction * share / torch.linalg.vector_norm(direction)
        return way

    return Tensors(drawn(part, t).to(t) * align(radii, t) for part, t in enumerate(point))
