"""Metrics beside Quantus: the same question to both, and whether they give the same.

Both are asked to leave attributions as they are, and to remove by zeros. While they are timed, each draws for itself;
where their numbers are compared, both get the same draws.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass, field, fields, replace
from io import StringIO
from typing import Any
from unittest import mock

import numpy as np
import quantus
import torch
from quantus.functions import similarity_func
from quantus.functions.perturb_func import noisy_linear_imputation
from torch import Tensor, nn

import torchwhy as why
from torchwhy import metrics
from torchwhy.core.tensors import Tensors
from torchwhy.engines.imputation import imputed
from torchwhy.engines.noise import normal, uniform
from torchwhy.metrics import Metric
from torchwhy.metrics.correlations import subsets
from torchwhy.metrics.rating import Rating
from torchwhy.metrics.removal import removal

if not hasattr(np, "trapz"):
    np.trapz = np.trapezoid  # noqa: NPY201  Quantus 0.6 calls it as it was called before NumPy 2

PLAIN = {"normalise": False, "abs": False, "return_aggregate": False, "disable_warnings": True}
FEW = 8  # images on which numbers are compared
HOLDS = (1, 0, 0, 1)  # which of the four images of a mosaic are of the class


class _Reset:
    """A layer that is reset to the same numbers whoever does it, so that both randomise alike."""

    def reset_parameters(self) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(1)  # that of the processor alone, in far less time
            super().reset_parameters()


class _Conv2d(_Reset, nn.Conv2d):
    pass


class _Linear(_Reset, nn.Linear):
    pass


def small_cnn() -> nn.Module:
    """Three convolutions and two linear layers, for grey images of 32 x 32."""
    layers: list[nn.Module] = []
    for inside, outside in ((1, 16), (16, 32), (32, 64)):
        layers += [_Conv2d(inside, outside, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    model = nn.Sequential(*layers, nn.Flatten(), _Linear(1024, 64), nn.ReLU(), _Linear(64, 10))
    for layer in model:
        if isinstance(layer, _Reset):
            super(_Reset, layer).reset_parameters()  # as any other layer
    return model


def gradient_times_input(model: nn.Module, inputs: Any, targets: Any, **_: Any) -> np.ndarray:
    """What both explain by; for Quantus with nothing around it."""
    x = torch.as_tensor(np.asarray(inputs, dtype=np.float32)).requires_grad_()
    scores = model(x).gather(1, torch.as_tensor(targets)[:, None]).sum()
    (slopes,) = torch.autograd.grad(scores, x)
    return (x * slopes).detach().numpy()


def ssim_of_lines(a: np.ndarray, b: np.ndarray, **_: Any) -> np.ndarray:
    """What theirs has for images, which it gives the pixels in a line; alone, it fails."""
    return np.array(similarity_func.ssim(a, b, batched=True))


@dataclass(frozen=True)
class Question:
    """What both are asked about.

    Attributes:
        model: gives (B, classes).
        x: (B, C, H, W).
        target: (B,).
        values: the attributions (B, C, H, W).
        mask: what should be marked, booleans (B, 1, H, W).
    """

    model: nn.Module
    x: Tensor
    target: Tensor
    values: Tensor
    mask: Tensor

    def few(self) -> Question:
        """The same of a few images."""
        parts = {f.name: getattr(self, f.name) for f in fields(self)}
        return Question(**{name: t if name == "model" else t[:FEW] for name, t in parts.items()})

    def ours(self, metric: Metric) -> Rating:
        """What ours gives; it explains by the method where it has to."""
        again = "explainer" in metric.info.needs
        metric = metric if again or "model" not in metric.info.needs else metric.with_options(model=self.model)
        mask = {"mask": self.mask} if "mask" in metric.info.needs else {}
        return metric.score(
            why.InputXGradient(self.model) if again else self.values, self.x, target=self.target, **mask
        )

    def theirs(self, name: str, *, again: bool, **options: Any) -> Any:
        """What theirs gives for copies, since it changes some of what it is given."""
        with redirect_stdout(StringIO()):  # theirs warns by print
            metric = getattr(quantus, name)(**PLAIN | options)
        more = {"custom_batch": [HOLDS] * len(self.x)} if name == "Focus" else {}
        return metric(
            model=self.model,
            x_batch=self.x.numpy().copy(),
            y_batch=self.target.numpy(),
            a_batch=None if again else self.values.numpy().copy(),
            s_batch=self.mask.numpy().astype(float),
            explain_func=gradient_times_input,
            explain_func_kwargs={"method": "InputXGradient"},  # where theirs will not take the function
            softmax=name == "EfficientMPRT",  # which also takes the entropy of the outputs
            device="cpu",
            channel_first=True,
            **more,
        )


@dataclass(frozen=True)
class Duel:
    """One metric on both sides.

    Attributes:
        ours: made anew for every run, since what it is made of may take time.
        name: of theirs; "" where theirs gives something else, which `note` says.
        options: of theirs.
        again: both explain again.
        signs: of the attributions in runs of theirs, where ours does at once what theirs does one after the other.
        same: what both give, in the same form; None where they cannot be made the same.
        note: what there is to know of theirs.
        few: of a few images, since there are so many passes.
    """

    ours: Callable[[Question], Metric]
    name: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    again: bool = False
    signs: tuple[int, ...] = (1,)
    same: Callable[[Question, Duel], tuple[Any, Any]] | None = None
    note: str = ""
    few: bool = False

    def our_run(self, q: Question) -> Rating:
        """What ours gives."""
        return q.ours(self.ours(q))

    def their_run(self, q: Question, **more: Any) -> Any:
        """What theirs gives."""
        asked = [replace(q, values=sign * q.values) for sign in self.signs]
        first, *_ = [each.theirs(self.name, again=self.again, **self.options | more) for each in asked]
        return first

    def gap(self, q: Question) -> float | None:
        """The largest difference on a few images, as a share of the largest number; None where there is none."""
        if self.same is None:
            return None
        ours, theirs = (np.asarray(found, dtype=np.float64) for found in self.same(q.few(), self))
        assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
        return float(abs(ours - theirs).max() / abs(theirs).max())


# -- what both give, in the same form -----------------------------------------------------------------------------


def value(q: Question, duel: Duel) -> tuple[Any, Any]:
    """As they are."""
    return duel.our_run(q).value, duel.their_run(q)


def positive(q: Question, duel: Duel) -> tuple[Any, Any]:
    """Where no attribution is negative."""
    return value(replace(q, values=q.values.abs()), duel)


def mosaic(q: Question, duel: Duel) -> tuple[Any, Any]:
    """With the marks of a mosaic."""
    holds = torch.tensor(HOLDS, dtype=torch.bool)
    images = q.x.unflatten(2, (2, -1)).unflatten(4, (2, -1)).permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
    return value(replace(q, mask=metrics.mosaic(images, holds)[1]), duel)


def curve(q: Question, duel: Duel) -> tuple[Any, Any]:
    """The scores after each step."""
    return _curve(q, duel)[1:].T, duel.their_run(q)


def falls(q: Question, duel: Duel) -> tuple[Any, Any]:
    """How far the scores have fallen after each step."""
    y = _curve(q, duel)
    return (y[0] - y[1:]).T, duel.their_run(q)


def over_curve(q: Question, duel: Duel) -> tuple[Any, Any]:
    """The area over the curve in steps, which theirs begins after the first step."""
    y = _curve(q, duel)
    whole = [len(i.unique()) == len(y) - 1 for i in duel.ours(q).positions]  # theirs is right for the most pieces
    area = len(y) - 1 - torch.trapezoid(y[1:], dim=0)
    return area[whole], np.array(duel.their_run(q))[whole]


def imputation(q: Question, _: Duel) -> tuple[Any, Any]:
    """What the half of the pixels is filled with that has the largest attributions, without noise."""
    order = q.values.flatten(1).argsort(1, descending=True)[:, : q.x[0].numel() // 2]
    known = torch.ones(len(q.x), q.x[0].numel(), dtype=torch.bool).scatter_(1, order, value=False)
    pairs = zip(q.x.numpy(), order.numpy(), strict=True)
    theirs = [noisy_linear_imputation(image, indices, noise=0)[0] for image, indices in pairs]
    return imputed(q.x[:, 0], known.view(len(q.x), *q.x.shape[2:])), np.stack(theirs)


def same_subsets(q: Question, duel: Duel) -> tuple[Any, Any]:
    """With our subsets."""
    absent = (~_present(q, duel)).numpy()
    choices = [row.nonzero()[0] for row in absent for _ in q.x]
    with mock.patch("numpy.random.choice", side_effect=choices):
        return value(q, duel)


def same_patches(q: Question, duel: Duel) -> tuple[Any, Any]:
    """With our subsets; ours takes contributions where theirs takes slopes."""
    copies = q.x * _present(q, duel).view(-1, 1, 1, 8, 8).repeat_interleave(4, 3).repeat_interleave(4, 4)
    slopes = replace(q, values=q.values / q.x)
    return duel.our_run(q).value, duel.their_run(slopes, perturb_func=_one_by_one(copies))


def same_noise(q: Question, duel: Duel) -> tuple[Any, Any]:
    """With our copies of the inputs."""
    metric: Any = duel.ours(q)
    noisy = (uniform if metric.perturbation == "uniform" else normal)(metric.radius, Tensors([q.x]), metric.seed)
    assert noisy is not None
    copies = noisy(slice(None), slice(0, metric.n_samples)).parts[0]
    return duel.our_run(q).value, duel.their_run(q, perturb_func=_one_by_one(copies))


def layers(q: Question, duel: Duel) -> tuple[Any, Any]:
    """Layer by layer; theirs begins with the model as it is."""
    return _curve(q, duel), list(duel.their_run(q).values())[1:]


def _curve(q: Question, duel: Duel) -> Tensor:
    found = duel.our_run(q).curve
    assert found is not None
    return found.y


def _present(q: Question, duel: Duel) -> Tensor:
    """Our subsets, (K, M)."""
    metric: Any = duel.ours(q).with_options(model=q.model)
    with metric.judging(q.values, q.x, target=q.target) as judged:
        found = removal(judged, metric.positions, metric.fill, absolute=False, mean=False, seed=metric.seed)
        return subsets(found, metric.share, metric.n_subsets, metric.seed)


def _one_by_one(copies: Tensor) -> Callable[..., np.ndarray]:
    """A perturbation of theirs that gives copies (K, B, ...) one after the other."""
    rest = iter(copies.flatten(2).numpy())
    return lambda **_: next(rest)
