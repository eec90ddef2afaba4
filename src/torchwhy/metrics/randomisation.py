"""Does the explanation depend on what the model has learned, and on the class it is asked about?"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from torchwhy.core.errors import TorchwhyError
from torchwhy.core.guard import call
from torchwhy.core.options import at_least, one_of
from torchwhy.core.tensors import Tensors
from torchwhy.engines.noise import Stdevs, check_seed, check_stdevs, draws, normal
from torchwhy.engines.weights import forgotten, layers, parts, root
from torchwhy.metrics.base import Judged, Metric
from torchwhy.metrics.controls import displaced
from torchwhy.metrics.rating import INFINITY, Curve, Rating
from torchwhy.metrics.repeats import repeats
from torchwhy.metrics.similarity import KINDS, Likeness
from torchwhy.registry import MetricInfo, register_metric

ORDERS = ("cascading", "bottom_up", "independent")
CHANCE_DRAWS = 20
SAME = "the attributions are the same everywhere, so that nothing is like them or unlike them"


def chance(values: Tensors, similarity: str = "spearman", seed: int = 0, n_draws: int = CHANCE_DRAWS) -> Tensor:
    """How alike unrelated explanations of this form are: the similarity to the same pattern put elsewhere at random.

    Maps are shifted round the edges and mirrored, all else is permuted, alike for all examples.

    Args:
        values: attributions (B, ...).
        similarity: see `torchwhy.metrics.similarity`.
        seed: of the places.
        n_draws: places.

    Returns:
        (n_draws, B), NaN where attributions are the same everywhere.
    """
    return _chance(Likeness(similarity, values), seed, n_draws)


def _chance(likeness: Likeness, seed: int, n_draws: int = CHANCE_DRAWS) -> Tensor:
    moved = (displaced(likeness.prepared, draws(seed, 81, k)) for k in range(n_draws))
    return torch.cat([likeness.of_prepared(m) for m in moved])


def band(found: Tensor, most: float = 1) -> tuple[Tensor, Tensor]:
    """(B,) where chance lies, of values (R, B) from -1 to ``most``: two standard deviations round their mean."""
    mean, spread = found.mean(0), found.std(0)
    return (mean - 2 * spread).clamp(min=-1), (mean + 2 * spread).clamp(max=most)


@dataclass(kw_only=True, eq=False)
class LikenessMetric(Metric):
    """A metric that says how alike explanations are.

    Args:
        similarity: "spearman", "pearson", "cosine" or "ssim", see `torchwhy.metrics.similarity`.
        abs: compare sizes; otherwise a changed sign counts.
        seed: of all that is drawn.
    """

    similarity: str = "spearman"
    abs: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("similarity", self.similarity, tuple(KINDS))
        check_seed(self.seed)

    def explained(self, judged: Judged) -> Tensors:
        """The attributions that are compared."""
        return self.sized(judged.values)

    def sized(self, values: Tensors) -> Tensors:
        """Attributions, or their sizes where these are compared."""
        return values.map(torch.abs) if self.abs else values


@register_metric(
    MetricInfo(
        family="randomisation",
        summary="similarity of the explanations of the model and of the model with randomised layers",
        paper="Adebayo, Gilmer, Muelly, Goodfellow, Hardt, Kim: Sanity Checks for Saliency Maps",
        year=2018,
        cost="n_draws explanations per layer",
        range=(-1, 1),
        direction="lower",
        needs=("explainer", "inputs"),
    )
)
@dataclass(kw_only=True, eq=False)
class MPRT(LikenessMetric):
    r"""Model parameter randomisation test: how alike explanations stay while layers forget what they learned.

    .. math:: \frac{1}{|L|} \sum_{l \in L} s\left( \phi(f, x),\; \phi(f_l, x) \right)

    :math:`f_l` is a copy of the model with layers randomised, see `torchwhy.engines.weights`: running statistics of a
    normalisation are reset together with its weights. The curve holds the similarity at each of them, in their order;
    it is NaN, and not in the mean, where the attributions of the randomised model are the same everywhere. Layers that
    hold the same numbers after a reset, such as a normalisation that learned nothing, tell nothing and are left out.

    Low is not always -1, but what unrelated explanations reach: ``details["chance"]`` has the band of two standard
    deviations round the mean similarity to the same explanation put elsewhere at random. An explanation that stays
    above it does not depend on the weights, or not on them alone.

    The weights are drawn once, or ``n_draws`` times, over which value and curve are means.

    Args:
        order: "cascading" randomises the last layer, then the one before as well, down to the first; "bottom_up" the
            other way round; "independent" one layer at a time, the others as they were.
        layers: names of modules, the parameters of each of which are randomised in one step; None is every module with
            parameters of its own.
        n_draws: of the weights.

    Shapes: attributions like the inputs (B, ...), value (B,), standard error (B,) from two draws on, curve (layers, B).
    No units.

    Paper: J. Adebayo et al., NeurIPS 2018, arXiv:1810.03292.

    >>> import torch, torchwhy
    >>> model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
    >>> found = MPRT().score(torchwhy.InputXGradient(model), torch.ones(2, 6))
    >>> found.details["layers"], found.curve.y.shape
    (['2', '0'], torch.Size([2, 2]))
    """

    order: str = "cascading"
    layers: tuple[str, ...] | None = None
    n_draws: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("order", self.order, ORDERS)
        at_least("n_draws", self.n_draws, 1)

    def compute(self, judged: Judged) -> Rating:
        values = self.explained(judged)
        likeness = Likeness(self.similarity, values)
        twin = judged.twin()
        steps = list(parts(running(twin), self.layers).items())
        steps = steps[::-1] if self.order == "cascading" else steps
        drawn = [self._forgetting(twin, steps, likeness, seed) for seed in _seeds(self.seed, self.n_draws)]
        names = list(dict.fromkeys(name for found in drawn for name in found))
        unchanged = [name for name, _ in steps if name not in names]
        details = {"layers": names, "unchanged": unchanged, "chance": _told(_chance(likeness, self.seed))}
        if not names:
            none = torch.full((values.size,), math.nan, dtype=values.parts[0].dtype, device=values.device)
            return Rating(none, ("no layer holds other numbers after it was reset",) * values.size, details=details)
        curves = torch.stack([torch.stack([found[name] for name in names]) for found in drawn])  # (draws, layers, B)
        curve, means = (curves.nanmean(dim).to(values.parts[0].dtype) for dim in (0, 1))
        share = torch.linspace(1 / len(names), 1, len(names), dtype=curve.dtype, device=curve.device)
        return Rating.where(
            curve.isfinite().any(0),
            means.nanmean(0),
            _reasons(likeness, "with randomised layers, the attributions are the same everywhere"),
            standard_error=_standard_error(means),
            curve=Curve(share[:, None].expand(curve.shape), curve, f"share of the layers randomised, {self.order}"),
            details=details,
        )

    def _forgetting(
        self, twin: Judged, steps: Sequence[tuple[str, list[str]]], likeness: Likeness, seed: int
    ) -> dict[str, Tensor]:
        """(B,) the similarity after each of the steps that gave its layers other numbers."""
        module, found = root(_model(twin)), {}
        with ExitStack() as all_steps:
            for name, inside in steps:
                with ExitStack() as this_step:
                    lasting = this_step if self.order == "independent" else all_steps
                    if lasting.enter_context(forgotten(module, inside, seed)):
                        found[name] = likeness(self.explained(twin.anew()))[0]
        return found


@register_metric(
    MetricInfo(
        family="randomisation",
        summary="as MPRT, of explanations averaged over noisy inputs",
        paper="Hedström, Weber, Lapuschkin, Höhne: A Fresh Look at Sanity Checks for Saliency Maps",
        year=2024,
        cost="n_draws * n_samples explanations per layer",
        range=(-1, 1),
        direction="lower",
        needs=("explainer", "inputs"),
    )
)
@dataclass(kw_only=True, eq=False)
class SmoothMPRT(MPRT):
    r"""`MPRT` of denoised explanations (sMPRT), so that noise of the gradients does not pass for forgetting.

    .. math:: \frac{1}{|L|} \sum_{l \in L} s\left( \mathbb{E}_\epsilon\, \phi(f, x + \epsilon),\;
        \mathbb{E}_\epsilon\, \phi(f_l, x + \epsilon) \right)

    Args:
        n_samples: noisy copies of each example, the same for all models.
        stdevs: of the normal noise; one for all inputs, or one each.

    Shapes: attributions like the inputs (B, ...), value (B,), curve (layers, B). No units.

    Paper: A. Hedström, L. Weber, S. Lapuschkin, M. Höhne, 2024, arXiv:2401.06465.

    >>> import torch, torchwhy
    >>> model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
    >>> found = SmoothMPRT(n_samples=4).score(torchwhy.InputXGradient(model), torch.ones(2, 6))
    >>> found.details["layers"]
    ['2', '0']
    """

    n_samples: int = 20
    stdevs: Stdevs = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("n_samples", self.n_samples, 1)
        check_stdevs(self.stdevs)

    def explained(self, judged: Judged) -> Tensors:
        noise = normal(self.stdevs, judged.p.inputs, self.seed)
        if noise is None:
            return super().explained(judged)
        sums = [self.sized(part.values).map(lambda t: t.sum(0)) for part in repeats(judged, noise, self.n_samples)]
        return reduce(Tensors.__add__, sums) / self.n_samples


@register_metric(
    MetricInfo(
        family="randomisation",
        summary="relative rise of the entropy of the explanation when all layers are randomised",
        paper="Hedström, Weber, Lapuschkin, Höhne: A Fresh Look at Sanity Checks for Saliency Maps",
        year=2024,
        cost="n_draws explanations",
        range=(-1, INFINITY),
        direction="higher",
        needs=("explainer", "inputs"),
    )
)
@dataclass(kw_only=True, eq=False)
class EfficientMPRT(Metric):
    r"""How much more complex the explanation becomes when the model forgets all it learned (eMPRT).

    .. math:: \frac{H(\phi(\hat{f}, x)) - H(\phi(f, x))}{H(\phi(f, x))}

    :math:`H` is the entropy of the histogram of the attributions, in bins of one width from the smallest to the
    largest; :math:`\hat{f}` is the model with all layers randomised, see `torchwhy.engines.weights`.

    From two draws on, ``details["chance"]`` has the band of two standard deviations in which the values lie of models
    that learned nothing: each randomised one in its turn is compared with the others.

    Args:
        n_bins: of the histogram.
        abs: of the sizes of the attributions.
        n_draws: randomised models, over which the value is a mean.
        seed: of the randomised weights.

    Shapes: attributions like the inputs (B, ...), value (B,), standard error (B,) from two draws on. No units.

    Paper: A. Hedström, L. Weber, S. Lapuschkin, M. Höhne, 2024, arXiv:2401.06465.

    >>> import torch, torchwhy
    >>> model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
    >>> EfficientMPRT(n_draws=2).score(torchwhy.Saliency(model), torch.ones(2, 6)).standard_error.shape
    torch.Size([2])
    """

    n_bins: int = 100
    abs: bool = False
    n_draws: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("n_bins", self.n_bins, 2)
        at_least("n_draws", self.n_draws, 1)
        check_seed(self.seed)

    def compute(self, judged: Judged) -> Rating:
        known = self.entropy(judged.values)
        twin = judged.twin()
        module = root(_model(twin))
        found = []
        for number in range(self.n_draws):
            with forgotten(module, layers(module), draws(self.seed, 82, number).initial_seed()):
                found.append(self.entropy(twin.anew().values))
        entropies = torch.stack(found)
        rises = ((entropies - known) / torch.where(known > 0, known, 1)).to(_dtype(judged))
        details: dict[str, Any] = {"entropy": known.tolist(), "entropy randomised": entropies.mean(0).tolist()}
        if self.n_draws > 1:
            others = (entropies.sum(0) - entropies) / (self.n_draws - 1)
            details["chance"] = _told((others - entropies) / entropies, INFINITY)
        return Rating.where(
            known > 0,
            rises.mean(0),
            "the attributions are the same everywhere, so that their entropy is 0",
            standard_error=_standard_error(rises),
            details=details,
        )

    def entropy(self, values: Tensors) -> Tensor:
        """(B,) of the histograms of attributions (B, ...), in nats."""
        rows = values.flat().double()
        rows = rows.abs() if self.abs else rows
        low, high = rows.amin(1, keepdim=True), rows.amax(1, keepdim=True)
        width = torch.where(high > low, high - low, 1)
        bins = ((rows - low) / width * self.n_bins).long().clamp(max=self.n_bins - 1)
        counts = rows.new_zeros(len(rows), self.n_bins).scatter_add_(1, bins, torch.ones_like(rows))
        entropies: Tensor = torch.special.entr(counts / rows.shape[1])
        return entropies.sum(1)


@register_metric(
    MetricInfo(
        family="randomisation",
        summary="similarity of the explanations of the target and of another class drawn at random",
        paper="Sixt, Granz, Landgraf: When Explanations Lie",
        year=2020,
        cost="n_classes explanations",
        range=(-1, 1),
        direction="lower",
        needs=("explainer", "inputs"),
    )
)
@dataclass(kw_only=True, eq=False)
class RandomLogit(LikenessMetric):
    r"""How alike the explanations of the target and of other classes are, as a mean over classes drawn at random.

    .. math:: \frac{1}{|C|} \sum_{c \in C} s\left( \phi(f_t, x),\; \phi(f_c, x) \right)

    As for `MPRT`, ``details["chance"]`` has the band in which unrelated explanations lie.

    Args:
        n_classes: other classes, or all others where there are fewer; the draw for an example depends on its target.

    Shapes: attributions like the inputs (B, ...), value (B,), standard error (B,) from two classes on. No units.

    Paper: L. Sixt, M. Granz, T. Landgraf, ICML 2020, arXiv:1912.09818.

    >>> import torch, torchwhy
    >>> model = torch.nn.Linear(3, 2, bias=False)
    >>> _ = model.weight.data.copy_(torch.tensor([[1.0, 2.0, 3.0], [-1.0, -2.0, -3.0]]))
    >>> RandomLogit().score(torchwhy.InputXGradient(model), torch.ones(1, 3), target=0).value
    tensor([-1.])
    """

    n_classes: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("n_classes", self.n_classes, 1)

    def compute(self, judged: Judged) -> Rating:
        likeness = Likeness(self.similarity, self.explained(judged))
        others = self.others(judged)
        found = []
        for wanted in others:
            (other,) = judged.p.aimed([wanted])
            found.append(likeness(self.sized(judged._explained(other)))[0])
        values = torch.stack(found).to(_dtype(judged))
        return Rating.where(
            values.isfinite().any(0),
            values.nanmean(0),
            _reasons(likeness, "the attributions of the other class are the same everywhere"),
            standard_error=_standard_error(values),
            details={"chance": _told(_chance(likeness, self.seed))},
        )

    def others(self, judged: Judged) -> list[Any]:
        """Targets that ask for other classes."""
        target, output = judged.p.target, judged.p.output
        asked: Any = None if target.ask is None else target.ask(*target.given)
        classes = getattr(asked, "cls", asked)
        if output is None or output.shape[1] < 2 or not isinstance(classes, list):
            raise TorchwhyError(
                "RandomLogit compares classes: the target is one of two or more, of a model that gives (B, classes)"
            )
        known = torch.tensor(classes).view(len(classes), -1)[:, 0]
        count = output.shape[1]
        steps = 1 + torch.randperm(count - 1, generator=draws(self.seed, 83))[: self.n_classes]
        rows = [((known + step) % count).tolist() for step in steps]
        return rows if classes is asked else [dataclasses.replace(asked, cls=row) for row in rows]


def _seeds(seed: int, count: int) -> list[int]:
    """For so many draws of the weights."""
    return [seed if k == 0 else draws(seed, 84, k).initial_seed() for k in range(count)]


def running(judged: Judged) -> tuple[str, ...]:
    """The names of the layers of the method's model in the order in which they run for the first example."""
    p = judged.p
    first = torch.zeros(1, dtype=torch.long, device=p.inputs.device)

    def run() -> None:
        with torch.no_grad():
            call(p.model, p.inputs[:1].map(torch.clone), p._extra(first))
        p.cost.forward += 1

    return layers(_model(judged), run)


def _model(judged: Judged) -> Any:
    assert judged.explainer is not None
    return judged.explainer.model


def _dtype(judged: Judged) -> torch.dtype:
    return judged.values.parts[0].dtype


def _standard_error(found: Tensor) -> Tensor | None:
    """(B,) of the mean of (n, B)."""
    return found.std(0) / len(found) ** 0.5 if len(found) > 1 else None


def _told(found: Tensor, most: float = 1) -> dict[str, Sequence[float | None]]:
    """The band in which chance lies, in plain numbers."""

    def plain(t: Tensor) -> list[float | None]:
        return [v if math.isfinite(v) else None for v in t.tolist()]

    return dict(zip(("low", "high"), map(plain, band(found, most)), strict=True))


def _reasons(likeness: Likeness, other: str) -> list[str]:
    """Why there is no similarity: the explanation itself is the same everywhere, or the others are."""
    itself = likeness.of_prepared(likeness.prepared)[0]
    return [other if there else SAME for there in itself.isfinite().tolist()]
