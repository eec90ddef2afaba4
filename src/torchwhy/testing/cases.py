r"""Small models of which the attributions are known in closed form, in float64.

=========================  ====================================================  =======================================
case                       score                                                 what it finds out
=========================  ====================================================  =======================================
``linear``                 :math:`w \cdot x + b`                                 whether the plainest answer is right
``linear from a baseline`` the same, compared with another point than zero       whether the baseline is used
``additive``               :math:`x_0^2 + x_1^3 - 2 x_2 + x_3^4`                 curvature without interaction
``bilinear``               :math:`3 x_0 x_1 - x_1 x_2 + x_3`                     how an interaction is shared
``and``                    :math:`x_0 x_1 x_2`                                   the same for three
``or``                     :math:`1 - (1 - x_0)(1 - x_1)(1 - x_2)`               a score that has no slope where it is
``glove``                  :math:`\min(x_0, x_1 + x_2)`                          a scarce feature
``airport``                :math:`\max(x_0, 2 x_1, 4 x_2)`                       features that hide behind others
``relu network``           two layers without biases                             networks that are linear along a ray
``saturation``             :math:`1 - \max(0, 1 - x_0 - x_1)`                    features of which one is enough
``null features``          :math:`x_0 x_1 + x_2 - x_2`                           features without influence
``twin features``          :math:`(x_0 + x_1)^2 + x_2^3`, :math:`x_0 = x_1`      features that the model treats alike
``planted patch``          :math:`\sum_{i \in P} w_i x_i^2` of an image          places that it marks outside of a patch
``sum``                    two scores and their sum                              whether explanations add up likewise
``mean over places``       :math:`\frac{1}{n} \sum_{ck} w_c A_{ck}`              a map of a layer, of the form "map"
``weights by place``       :math:`\frac{1}{n} \sum_{ck} w_{ck} A_{ck}`           a map that gives each place its own
=========================  ====================================================  =======================================

The last two are for explainers of the form "map", one value for all channels of the layer ``features`` at a place; here
:math:`A` has the size of the image, and two channels, what is above zero in the image and what is below. Explainers of
the form "pairs" are held to those of the others in which no more than two features act together.

Every model has a second output that betrays who explains another output than asked: :math:`-\sum_i x_i`, or another sum
of the same units.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from torchwhy.core.errors import TorchwhyError, closest
from torchwhy.core.explanation import Form

AXIOMS = ("completeness", "sensitivity", "symmetry", "linearity", "implementation invariance")
CONCEPTS = ("gradient", "input x gradient", "integrated gradients", "Shapley values")
LAYER = "features"  # of the models of maps
FORMS: dict[Form, tuple[str, ...]] = {
    "elements": CONCEPTS,
    "map": ("class activation map",),
    "pairs": ("pair interactions",),
}
"""What can be known, by the form of the values."""
ROUNDING = 1e-6  # some libraries add up in float32
CURVED, KINK = 1e-3, 0.025  # what 50 steps may miss on a path that is curved, or that has a kink or begins on one


class Function(nn.Module):
    """A model (B, ...) to (B, 2) whose first output is a function (B, ...) to (B,), and whose second betrays."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        """Both outputs."""
        return torch.stack([self.function(x), -x.flatten(1).sum(1)], 1)


@dataclass(frozen=True, eq=False)
class Case:
    """A model, examples, and the attributions that are known.

    Attributes:
        name: as in the table of `torchwhy.testing.cases`.
        model: (B, ...) to (B, 2).
        inputs: (B, ...), float64.
        truths: by the names of what is known, as in `FORMS`, (B, ...) each.
        baselines: (1, ...), what is compared with.
        target: the output that is explained.
        kinds: what the model is, as promises name it, such as "linear".
        null: flat numbers of features without influence.
        twins: pairs of flat numbers of features that the model treats alike, and that have the same value.
        parts: two models of which this one is the sum.
        same: another model that computes the same.
        tolerance: by how much the values of integrated gradients, and sums of values, may miss what is known, as a
            share of the largest but at least of 1. Nothing else may miss more than `ROUNDING`.
        form: of the attributions: "elements" like the inputs, a "map" (B, 1, H, W), or "pairs" (B, M, M) of features,
            with what each does alone on the diagonal, and both halves alike.
    """

    name: str
    model: nn.Module
    inputs: Tensor
    truths: dict[str, Tensor]
    baselines: Tensor
    target: int = 0
    kinds: tuple[str, ...] = ()
    null: tuple[int, ...] = ()
    twins: tuple[tuple[int, int], ...] = ()
    parts: tuple[nn.Module, ...] = field(default=(), repr=False)
    same: nn.Module | None = field(default=None, repr=False)
    tolerance: float = ROUNDING
    form: Form = "elements"

    @property
    def change(self) -> Tensor:
        """(B,) the score minus that of the baseline."""
        with torch.no_grad():
            found: Tensor = (self.model(self.inputs) - self.model(self.baselines))[:, self.target]
        return found

    @property
    def from_zero(self) -> bool:
        """What is compared with is zero."""
        return not self.baselines.any()

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the attributions."""
        count, features = self.inputs.flatten(1).shape
        return (count, features, features) if self.form == "pairs" else tuple(self.inputs.shape)

    def whole(self, values: Tensor) -> Tensor:
        """(B,) what the values add up to: of pairs, each once."""
        return (values.triu() if self.form == "pairs" else values).flatten(1).sum(1)

    def of_features(self, values: Tensor) -> Tensor:
        """(B, M, ...) all that is said of each feature."""
        return values if self.form == "pairs" else values.flatten(1)


def cases(form: Form = "elements") -> dict[str, Case]:
    """All cases of a form by name, made anew.

    Args:
        form: of the attributions, "elements", "map" or "pairs".

    >>> case = cases()["glove"]
    >>> case.truths["Shapley values"]
    tensor([[0.6667, 0.1667, 0.1667]], dtype=torch.float64)
    >>> case.change
    tensor([1.], dtype=torch.float64)
    >>> cases("pairs")["bilinear"].truths["pair interactions"][0]
    tensor([[ 0.0000, -1.5000,  0.0000,  0.0000],
            [-1.5000,  0.0000,  1.0000,  0.0000],
            [ 0.0000,  1.0000,  0.0000,  0.0000],
            [ 0.0000,  0.0000,  0.0000,  1.5000]], dtype=torch.float64)
    """
    if form not in FORMS:
        raise TorchwhyError(f"form is one of {', '.join(FORMS)}, not {form!r}{closest(str(form), FORMS)}")
    if form == "map":
        return {case.name: case for case in (_map(by_place=False), _map(by_place=True))}
    made = [
        *(_linear(b) for b in (torch.zeros(1, 4), torch.tensor([[0.5, -1.0, 2.0, 0.25]]))),
        *(make() for make in (_additive, _bilinear, _and, _or, _glove, _airport, _relu_network, _saturation)),
        *(make() for make in (_null_features, _twin_features, _planted_patch, _sum)),
    ]
    if form == "pairs":
        made = [_in_pairs(case) for case in made if case.name in _PAIRS]
    return {case.name: case for case in made}


# -- other forms ---------------------------------------------------------------------------------------------------

# What two features do together, by their numbers; all else they do alone.
_PAIRS: dict[str, dict[tuple[int, int], Callable[[Tensor], Tensor]]] = {
    "linear": {},
    "linear from a baseline": {},
    "additive": {},
    "bilinear": {(0, 1): lambda x: 3 * x[:, 0] * x[:, 1], (1, 2): lambda x: -x[:, 1] * x[:, 2]},
    "null features": {(0, 1): lambda x: x[:, 0] * x[:, 1]},
    "twin features": {(0, 1): lambda x: 2 * x[:, 0] * x[:, 1]},
    "planted patch": {},
    "sum": {(0, 1): lambda x: 3 * x[:, 0] * x[:, 1], (1, 2): lambda x: -x[:, 1] * x[:, 2]},
}


def _in_pairs(case: Case) -> Case:
    """Of a score in which no three features act together: half of what two do is in the Shapley value of each."""
    alone = case.truths["Shapley values"].flatten(1).clone()
    values = torch.zeros(case.inputs.shape[0], alone.shape[1], alone.shape[1], dtype=torch.float64)
    for (i, j), together in _PAIRS[case.name].items():
        values[:, i, j] = values[:, j, i] = together(case.inputs)
        alone[:, [i, j]] -= together(case.inputs)[:, None] / 2
    truths = {"pair interactions": values + alone.diag_embed()}
    return replace(case, form="pairs", truths=truths, tolerance=ROUNDING)


class Mapped(nn.Module):
    """(B, 1, H, W) to (B, 2): the layer ``features`` holds what is above and what is below zero, weighted after that.

    Args:
        weights: (2, 2, H, W) of the outputs, or (2, 2) where a mean over places comes first.
    """

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        conv = nn.Conv2d(1, 2, 1, bias=False, dtype=torch.float64)
        conv.load_state_dict({"weight": torch.tensor([1.0, -1.0], dtype=torch.float64).view(2, 1, 1, 1)})
        self.features = nn.Sequential(conv, nn.ReLU())
        mean = [nn.AdaptiveAvgPool2d(1)] if weights.ndim == 2 else []
        last = nn.Linear(weights[0].numel(), 2, bias=False, dtype=torch.float64)
        last.load_state_dict({"weight": weights.flatten(1)})
        self.rest = nn.Sequential(*mean, nn.Flatten(), last)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Both outputs."""
        found: Tensor = self.rest(self.features(x))
        return found


def _map(*, by_place: bool) -> Case:
    x = torch.zeros(2, 1, 4, 5, dtype=torch.float64)
    x[:, 0, :2, 1:3] = _rows((1, 2), (0.5, 3))
    x[:, 0, 2:, 3:] = _rows((-1, -2), (-3, -0.5))
    x[1] = -2 * x[1].flip(-1)
    weights = _rows((2, -0.5), (-1, -1))
    count = x[0].numel()
    if by_place:
        places = torch.zeros(4, 5, dtype=torch.float64)
        places[:, 1:3] = 1
        weights = weights[:, :, None, None] * places / count
    held = torch.cat([x.relu(), (-x).relu()], 1)
    parts = weights[0] * held if by_place else weights[0].view(2, 1, 1) * held / count
    truth = parts.sum(1, keepdim=True)
    silent = (truth == 0).all(0).flatten().nonzero().flatten().tolist()
    return Case(
        "weights by place" if by_place else "mean over places",
        Mapped(weights),
        x,
        {"class activation map": truth},
        torch.zeros_like(x[:1]),
        kinds=() if by_place else ("a mean over places",),
        null=tuple(silent),
        form="map",
    )


# -- cases of elements ---------------------------------------------------------------------------------------------


def _case(
    name: str,
    function: Callable[[Tensor], Tensor],
    inputs: Tensor,
    gradient: Tensor,
    path: Tensor,
    shapley: Tensor,
) -> Case:
    """A case compared with zero."""
    truths = _truths(inputs, gradient, path, shapley)
    return Case(name, Function(function), inputs, truths, torch.zeros_like(inputs[:1]))


def _truths(inputs: Tensor, gradient: Tensor, path: Tensor, shapley: Tensor) -> dict[str, Tensor]:
    return dict(zip(CONCEPTS, (gradient, inputs * gradient, path, shapley), strict=True))


def _rows(*rows: tuple[float, ...]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def _with_weights(*layers: tuple[Tensor, Tensor | None]) -> nn.Sequential:
    """Layers of weights and biases with ReLU between them."""
    parts: list[nn.Module] = []
    for weight, bias in layers:
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, dtype=torch.float64)
        layer.load_state_dict({"weight": weight} | ({} if bias is None else {"bias": bias}))
        parts += [layer, nn.ReLU()]
    return nn.Sequential(*parts[:-1]).eval()


X4 = ((1.0, -0.5, 2.0, 1.5), (-1.0, 2.0, 0.5, 0.75))


def _linear(baselines: Tensor) -> Case:
    baselines = baselines.double()
    w, x = _rows((2, -1, 0.5, 3), (-1, -1, -1, -1)), _rows(*X4)
    parts = w[0] * (x - baselines)
    from_zero = not baselines.any()
    return Case(
        "linear" if from_zero else "linear from a baseline",
        _with_weights((w, torch.tensor([0.7, 0.0], dtype=torch.float64))),
        x,
        _truths(x, w[0].expand(2, 4), parts, parts),
        baselines,
        kinds=("linear",) if from_zero else (),
    )


def _additive() -> Case:
    x = _rows(*X4)
    powers, factors = _rows((2, 3, 1, 4)), _rows((1, 1, -2, 1))
    parts = factors * x**powers
    gradient = factors * powers * x ** (powers - 1)

    def function(x: Tensor) -> Tensor:
        return x[:, 0] ** 2 + x[:, 1] ** 3 - 2 * x[:, 2] + x[:, 3] ** 4

    return replace(_case("additive", function, x, gradient, parts, parts), tolerance=CURVED)


def _bilinear_score(x: Tensor) -> Tensor:
    return 3 * x[:, 0] * x[:, 1] - x[:, 1] * x[:, 2] + x[:, 3]


def _bilinear_same(x: Tensor) -> Tensor:
    """The same score: a product is a difference of squares."""
    a, b, c, d = x.unbind(1)
    return 3 * ((a + b) ** 2 - (a - b) ** 2) / 4 - ((b + c) ** 2 - (b - c) ** 2) / 4 + d


def _bilinear_parts(x: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient, and the values of integrated gradients and Shapley: each product is halved."""
    a, b, c, d = x.unbind(1)
    gradient = torch.stack([3 * b, 3 * a - c, -b, torch.ones_like(d)], 1)
    return gradient, torch.stack([1.5 * a * b, 1.5 * a * b - 0.5 * b * c, -0.5 * b * c, d], 1)


def _bilinear() -> Case:
    x = _rows(*X4)
    gradient, halves = _bilinear_parts(x)
    return replace(_case("bilinear", _bilinear_score, x, gradient, halves, halves), same=Function(_bilinear_same))


def _and() -> Case:
    x = _rows((1, 1, 1), (2, -1, 0.5))
    product = x.prod(1, keepdim=True)
    thirds = (product / 3).expand(2, 3)
    found = _case("and", lambda x: x[:, 0] * x[:, 1] * x[:, 2], x, product / x, thirds, thirds)
    return replace(found, tolerance=CURVED)


def _or() -> Case:
    x = _rows((1, 1, 1))
    thirds = torch.full_like(x, 1 / 3)

    def function(x: Tensor) -> Tensor:
        return 1 - (1 - x[:, 0]) * (1 - x[:, 1]) * (1 - x[:, 2])

    twins = ((0, 1), (0, 2), (1, 2))
    return replace(_case("or", function, x, torch.zeros_like(x), thirds, thirds), twins=twins, tolerance=CURVED)


def _glove() -> Case:
    x, slope = _rows((1, 1, 1)), _rows((1, 0, 0))

    def function(x: Tensor) -> Tensor:
        return torch.minimum(x[:, 0], x[:, 1] + x[:, 2])

    found = _case("glove", function, x, slope, slope, _rows((2 / 3, 1 / 6, 1 / 6)))
    return replace(found, twins=((1, 2),), tolerance=KINK)


def _airport() -> Case:
    x, slope = _rows((1, 1, 1)), _rows((0, 0, 4))

    def function(x: Tensor) -> Tensor:
        return (x * _rows((1, 2, 4)).to(x)).amax(1)

    # Each further length of the runway is shared by those who need it.
    found = _case("airport", function, x, slope, slope, _rows((1 / 3, 1 / 3 + 1 / 2, 1 / 3 + 1 / 2 + 2)))
    return replace(found, tolerance=KINK)


def _relu_network() -> Case:
    x = _rows((1, -0.5, 2), (-1, 2, 0.5))
    first = _rows((1, -2, 0.5), (-1, 1, 1), (0.5, 1, -2), (2, 1, 1))
    second = _rows((1, -1.5, 2, 0.5), (-1, -1, -1, -1))
    model = _with_weights((first, None), (second, None))
    open_ = (x @ first.T > 0).double()
    gradient = (second[0] * open_) @ first
    shapley = enumerated(model, x, torch.zeros_like(x))
    return Case(
        "relu network",
        model,
        x,
        # On the ray from zero the same units stay open, so that the slope is the same everywhere.
        _truths(x, gradient, x * gradient, shapley),
        torch.zeros_like(x[:1]),
        kinds=("bias-free ReLU",),
        tolerance=KINK,
    )


def enumerated(model: Callable[[Tensor], Tensor], inputs: Tensor, baselines: Tensor, target: int = 0) -> Tensor:
    r"""Shapley values of rows (B, M) by all coalitions, with their weights :math:`|S|!\,(M - |S| - 1)! / M!`.

    >>> enumerated(lambda x: x.prod(1, keepdim=True), torch.tensor([[2.0, 3.0]]), torch.zeros(1, 2))
    tensor([[3., 3.]])
    """
    m = inputs.shape[1]
    number = torch.arange(2**m)
    present = (number[:, None] >> torch.arange(m)) % 2 == 1  # (2^M, M), a row for each coalition
    mixed = torch.where(present[:, None], inputs, baselines)
    with torch.no_grad():
        worth = model(mixed.flatten(0, 1))[:, target].unflatten(0, (len(number), -1))
    weights = worth.new_tensor([1 / (m * math.comb(m - 1, size)) for size in range(m)])
    values = torch.zeros_like(inputs)
    for i in range(m):
        without = ~present[:, i]
        gains = worth[number[without] + 2**i] - worth[without]
        values[:, i] = weights[present[without].sum(1)] @ gains
    return values


def _saturation() -> Case:
    x, halves = _rows((1, 1)), _rows((0.5, 0.5))
    one, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    return Case(
        "saturation",
        _with_weights((_rows((-1, -1)), one), (_rows((-1,), (-1,)), torch.cat([one, zero]))),
        x,
        _truths(x, torch.zeros_like(x), halves, halves),
        torch.zeros_like(x),
        twins=((0, 1),),
        tolerance=KINK,
    )


def _null_features() -> Case:
    x = _rows(*X4)
    a, b, nothing = x[:, 0], x[:, 1], torch.zeros(2, dtype=torch.float64)
    halves = torch.stack([a * b / 2, a * b / 2, nothing, nothing], 1)
    gradient = torch.stack([b, a, nothing, nothing], 1)
    found = _case("null features", lambda x: x[:, 0] * x[:, 1] + x[:, 2] - x[:, 2], x, gradient, halves, halves)
    return replace(found, null=(2, 3))


def _twin_features() -> Case:
    x = _rows((1.5, 1.5, -1), (-0.5, -0.5, 2))
    total = x[:, :1] + x[:, 1:2]
    gradient = torch.cat([2 * total, 2 * total, 3 * x[:, 2:] ** 2], 1)
    parts = torch.cat([x[:, :2] * total, x[:, 2:] ** 3], 1)

    def function(x: Tensor) -> Tensor:
        return (x[:, 0] + x[:, 1]) ** 2 + x[:, 2] ** 3

    return replace(_case("twin features", function, x, gradient, parts, parts), twins=((0, 1),), tolerance=CURVED)


def _planted_patch() -> Case:
    weights = torch.zeros(1, 3, 4, dtype=torch.float64)
    weights[0, 1:, 1:3] = _rows((1, -2), (0.5, 3))
    x = torch.linspace(-1, 2, 24, dtype=torch.float64).view(2, 1, 3, 4)
    parts = weights * x**2
    outside = tuple((weights.flatten() == 0).nonzero().flatten().tolist())

    def function(x: Tensor) -> Tensor:
        return (weights.to(x) * x**2).flatten(1).sum(1)

    return replace(_case("planted patch", function, x, 2 * weights * x, parts, parts), null=outside)


def _sum() -> Case:
    x = _rows(*X4)
    gradient, halves = _bilinear_parts(x)

    def squares(x: Tensor) -> Tensor:
        return (x**2).sum(1) - 2 * x[:, 0]

    slope = torch.tensor([-2.0, 0, 0, 0], dtype=torch.float64)
    both = gradient + 2 * x + slope
    parts = halves + x**2 + slope * x
    found = _case("sum", lambda x: _bilinear_score(x) + squares(x), x, both, parts, parts)
    return replace(found, parts=(Function(_bilinear_score), Function(squares)))
