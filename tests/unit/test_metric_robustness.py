"""Explanations of changed copies, against what they must be."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from torchwhy import FeatureAblation, InputXGradient, IntegratedGradients, Saliency, Site, TorchwhyError, metrics
from torchwhy.core.tensors import Tensors
from torchwhy.engines.noise import normal, uniform
from torchwhy.metrics import repeats
from torchwhy.metrics.panel import panel

Lipschitz = metrics.LocalLipschitzEstimate
NORMS = ("l1", "l2", "linf")
ORD = {"l1": 1, "l2": 2, "linf": math.inf}


def drawn(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def noise(x: Tensor, radius: float, count: int, *, seed: int = 0, kind: str = "uniform") -> Tensor:
    """(count, B, ...) what is added to the inputs."""
    draw = {"uniform": uniform, "normal": normal}[kind]
    return draw(radius, Tensors([x]), seed)(slice(0, len(x)), slice(0, count)).parts[0] - x


def gradient(model: nn.Module, **options: object) -> Saliency:
    return Saliency(model, abs=False, **options)


class Quadratic(nn.Module):
    r"""(B, n) to (B,), :math:`x^\top A x / 2`, of which the gradient is :math:`A x`."""

    def __init__(self, a: Tensor) -> None:
        super().__init__()
        self.a = a

    def forward(self, x: Tensor) -> Tensor:
        return (x @ self.a * x).sum(1) / 2


@pytest.fixture
def a() -> Tensor:
    half = drawn(5, 5, seed=3)
    return half + half.T


@pytest.fixture
def x() -> Tensor:
    return drawn(3, 5)


# -- noise -------------------------------------------------------------------------------------------------------


def test_even_noise_fills_the_box() -> None:
    x = torch.zeros(2, 50)
    found = noise(x, 0.3, 40)
    assert found.abs().max() <= 0.3
    assert found.abs().max() > 0.29
    assert abs(found.std() - 0.3 / 3**0.5) < 0.01
    assert torch.equal(found[:, 0], found[:, 1])  # all examples share it
    assert torch.equal(found[2], uniform(0.3, Tensors([x]), 0)(slice(0, 2), slice(2, 3)).parts[0][0])
    assert not torch.equal(found, noise(x, 0.3, 40, seed=1))


# -- sensitivity and Lipschitz estimate --------------------------------------------------------------------------


def test_the_gradient_of_a_linear_model_does_not_move(x: Tensor) -> None:
    torch.manual_seed(0)
    model = nn.Linear(5, 3).double()
    for metric in (metrics.MaxSensitivity(), metrics.AvgSensitivity(), Lipschitz()):
        assert_close(metric.score(gradient(model), x).value, torch.zeros(3).double(), rtol=0, atol=0)
    moved = metrics.MaxSensitivity().score(gradient(nn.Sequential(model, nn.Tanh())), x)
    assert (moved.value > 1e-6).all()


@pytest.mark.parametrize("kind", ["uniform", "normal"])
@pytest.mark.parametrize("norm", NORMS)
def test_a_quadratic_model_moves_by_its_matrix(a: Tensor, x: Tensor, kind: str, norm: str) -> None:
    method = gradient(Quadratic(a))
    how = {"perturbation": kind, "radius": 0.3, "n_samples": 7, "seed": 5, "norm": norm}
    moved = noise(x, 0.3, 7, seed=5, kind=kind)
    far = torch.linalg.vector_norm(moved @ a, ORD[norm], dim=2)
    assert_close(metrics.MaxSensitivity(**how).score(method, x).value, far.amax(0))
    mean = metrics.AvgSensitivity(**how).score(method, x)
    assert_close(mean.value, far.mean(0))
    assert_close(mean.standard_error, far.std(0) / 7**0.5)
    size = torch.linalg.vector_norm(x @ a, ORD[norm], dim=1)
    assert_close(metrics.MaxSensitivity(**how, relative=True).score(method, x).value, far.amax(0) / size)
    for input_norm in NORMS:
        way = torch.linalg.vector_norm(moved, ORD[input_norm], dim=2)
        assert_close(Lipschitz(**how, input_norm=input_norm).score(method, x).value, (far / way).amax(0))


def test_the_estimate_stays_below_the_constant(a: Tensor, x: Tensor) -> None:
    constant = torch.linalg.matrix_norm(a, 2)
    found = Lipschitz(n_samples=200).score(gradient(Quadratic(a)), x).value
    assert (found <= constant * (1 + 1e-9)).all()
    assert (found > constant / 2).all()
    same = Lipschitz().score(gradient(Quadratic(3 * torch.eye(5).double())), x)
    assert_close(same.value, torch.full((3,), 3.0).double())


def test_the_target_is_that_of_the_input_itself() -> None:
    # Copies on the other side of the boundary are explained for the class of the input.
    model = nn.Linear(2, 2, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.eye(2))
    x = torch.tensor([[1.0, 1.01]]).double()
    assert metrics.MaxSensitivity(radius=0.5).score(gradient(model), x).mean == 0
    assert metrics.MaxSensitivity(radius=0.5).score(gradient(model), x, target=[0]).mean == 0


def test_units_and_what_has_no_length(x: Tensor) -> None:
    still = gradient(nn.Sequential(nn.Linear(5, 2), nn.ReLU()).double())
    with torch.no_grad():
        still.model[0].bias.fill_(-50)
    absolute, relative = (metrics.AvgSensitivity(relative=r).score(still, x) for r in (False, True))
    assert absolute.value.tolist() == [0, 0, 0]
    assert absolute.units == "attribution"
    assert relative.units == ""
    assert relative.undefined == {"the attributions are all zero": 3}


def test_rounding_may_leave_a_copy_where_it_is() -> None:
    x = torch.full((2, 3), 1000.0, dtype=torch.float16)
    found = Lipschitz(radius=1e-4).score(gradient(nn.Linear(3, 1).half()), x)
    assert found.undefined == {"no copy differs from the input in its dtype": 2}


def test_two_inputs_and_a_layer(a: Tensor, x: Tensor) -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Identity()

        def forward(self, u: Tensor, v: Tensor) -> Tensor:
            return Quadratic(a)(self.first(3 * u)) + v.sum(1) ** 2

    v = drawn(3, 2, seed=2)
    points = uniform((0.2, 0.4), Tensors([x, v]), 0)(slice(0, 3), slice(0, 4))
    du, dv = points.parts[0] - x, points.parts[1] - v
    far = torch.cat([9 * du @ a, 2 * dv.sum(2, keepdim=True).expand(dv.shape)], 2).norm(dim=2)
    metric = metrics.MaxSensitivity(radius=(0.2, 0.4), n_samples=4)
    assert_close(metric.score(gradient(Both()), (x, v)).value, far.amax(0))
    at_layer = metric.score(gradient(Both(), at="first"), (x, v))
    assert_close(at_layer.value, (3 * du @ a).norm(dim=2).amax(0))
    with pytest.raises(TorchwhyError, match="3 radii were given for 2 inputs"):
        metrics.MaxSensitivity(radius=(0.1, 0.2, 0.3)).score(gradient(Both()), (x, v))


def test_numbers_that_noise_cannot_be_added_to(a: Tensor) -> None:
    class Scaled(nn.Module):
        def forward(self, u: Tensor, scale: Tensor) -> Tensor:
            return Quadratic(a)(u) * scale[:, 0]

    inputs = drawn(2, 5), torch.tensor([[2], [3]])
    method = FeatureAblation(Scaled())
    with pytest.raises(TorchwhyError, match="noise cannot be added to integers: explain a function of what the layer"):
        metrics.MaxSensitivity().score(FeatureAblation(lambda t: t.sum(1)), torch.ones(2, 3).long())
    with pytest.raises(TorchwhyError, match=r"input 1 is torch\.int64, to which noise cannot be added"):
        metrics.MaxSensitivity().score(method, inputs)
    with pytest.raises(TorchwhyError, match="nothing is changed"):
        metrics.MaxSensitivity(radius=0.0).score(method, inputs)
    found = metrics.MaxSensitivity(radius=(0.1, 0.0), n_samples=3).score(method, inputs)
    assert (found.value > 0).all()


def test_metrics_of_a_panel_share_the_copies(a: Tensor, x: Tensor) -> None:
    method = gradient(Quadratic(a))
    found = panel([metrics.MaxSensitivity(), metrics.AvgSensitivity(), Lipschitz(seed=1)], method, x)
    assert [score.evaluations for score in found.values()] == [3 + 60, 0, 60]
    for name, score in found.items():
        seed = 1 if name == "LocalLipschitzEstimate" else 0
        assert_close(score.value, getattr(metrics, name)(seed=seed).score(method, x).value)


@pytest.mark.parametrize(
    "metric",
    [
        metrics.MaxSensitivity(),
        metrics.AvgSensitivity(),
        Lipschitz(),
        metrics.RelativeInputStability(),
        metrics.RelativeOutputStability(),
        metrics.RelativeRepresentationStability(layer="0"),
        metrics.Consistency(),
        metrics.Continuity(n_steps=3),
    ],
    ids=lambda m: type(m).__name__,
)
def test_how_many_copies_are_held_at_a_time_does_not_matter(
    metric: metrics.Metric, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(32, 3)).double()
    x = drawn(2, 1, 6, 6)
    method = IntegratedGradients(model, n_steps=8)
    whole = metric.score(method, x)
    monkeypatch.setattr(repeats, "ELEMENTS", 150)
    parts = metric.score(method, x)
    assert_close(whole.value, parts.value)
    assert whole.evaluations == parts.evaluations


# -- continuity --------------------------------------------------------------------------------------------------


def test_explanations_that_move_with_the_input() -> None:
    x = torch.zeros(2, 1, 4, 9).double()
    x[0, 0, 1, 2], x[1, 0, :, 3] = 1.5, 2.0
    method = InputXGradient(lambda z: 3 * z.sum((1, 2, 3)))
    found = metrics.Continuity(n_steps=3).score(method, x)
    # n pixels of value v leave one place and come to another: 3 * 2 n v by v (2 n)^(1/2).
    assert_close(found.value, torch.tensor([3 * 2**0.5, 3 * 8**0.5]).double())
    assert_close(found.curve.y, found.value.expand(3, 2))
    assert found.curve.x[:, 0].tolist() == [1, 2, 3]
    other = metrics.Continuity(n_steps=1, step=-2, dim=2).score(method, x)
    # Rows move up by two: the bar of four loses two, the pixel leaves the image.
    assert_close(other.value, torch.tensor([3.0, 3 * 2**0.5]).double())
    assert metrics.Continuity(n_steps=3).score(gradient(method.model), x).value.tolist() == [0, 0]


def test_what_comes_in_is_the_baseline() -> None:
    x = torch.ones(1, 2, 6).double()
    method = IntegratedGradients(lambda z: z.sum((1, 2)))
    still = metrics.Continuity(n_steps=2).score(method, x, baselines=1.0)
    assert still.undefined == {"the input is the same wherever it is moved": 1}
    assert still.curve.y.isnan().all()
    still.as_dict()
    found = metrics.Continuity(n_steps=2).score(method, x, baselines=4.0)
    # Two channels go from 1 to 4 at every step; so do their attributions, from -3 to 0.
    assert_close(found.value, torch.tensor([2 * 3 / (2 * 9) ** 0.5]).double())


def test_what_cannot_be_moved() -> None:
    with pytest.raises(TorchwhyError, match="moves what has spatial dimensions"):
        metrics.Continuity().score(gradient(nn.Linear(4, 2)), torch.ones(1, 4))
    with pytest.raises(TorchwhyError, match="8 steps of 1 move all of 5 places out of sight"):
        metrics.Continuity().score(gradient(lambda z: z.sum((1, 2))), torch.ones(1, 2, 5))
    for wrong in ({"step": 0}, {"dim": 1}, {"n_steps": 0}):
        with pytest.raises(TorchwhyError, match=next(iter(wrong))):
            metrics.Continuity(**wrong)


# -- relative stability ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", NORMS)
def test_what_is_proportional_to_the_input_changes_as_the_input_does(x: Tensor, norm: str) -> None:
    model = nn.Linear(5, 1).double()
    found = metrics.RelativeInputStability(norm=norm).score(InputXGradient(model), x)
    assert_close(found.value, torch.ones(3).double())
    assert metrics.RelativeInputStability(norm=norm).score(gradient(model), x).value.tolist() == [0, 0, 0]


def test_relative_changes_by_hand(x: Tensor) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6), nn.Linear(6, 3)).double()
    moved = noise(x, 0.1, 9)
    explained = (moved / x).norm(dim=2)
    same = model(x + moved).argmax(2) == model(x).argmax(1)
    how = {"radius": 0.1, "n_samples": 9}
    held = model[0](x)
    changes = {
        "Output": (model(x + moved) - model(x)).norm(dim=2),
        "Representation": ((model[0](x + moved) - held) / held).norm(dim=2),
        "Input": explained,
    }
    for name, change in changes.items():
        found = getattr(metrics, f"Relative{name}Stability")(**how).score(InputXGradient(model), x)
        assert_close(found.value, torch.where(same, explained / change, 0).amax(0).detach())
        assert found.details["same class"] == same.sum(0).tolist()
    named = metrics.RelativeRepresentationStability(**how, layer=Site(model[1], input=True))
    assert_close(
        named.score(InputXGradient(model), x).value,
        metrics.RelativeRepresentationStability(**how).score(InputXGradient(model), x).value,
    )


def test_a_number_near_zero_does_not_change_without_end() -> None:
    x = torch.tensor([[0.0, 2.0]]).double()
    moved = noise(x, 0.1, 5)[:, 0]
    method = InputXGradient(nn.Linear(2, 1, bias=False).double())
    with torch.no_grad():
        method.model.weight.copy_(torch.tensor([[3.0, 1.0]]))
    found = metrics.RelativeInputStability(radius=0.1, n_samples=5, least=0.5).score(method, x)
    explained = torch.stack([3 * moved[:, 0] / 0.5, moved[:, 1] / 2]).norm(dim=0)
    change = torch.stack([moved[:, 0] / 0.5, moved[:, 1] / 2]).norm(dim=0)
    known = explained / change.clamp(min=0.5)
    assert_close(found.value, known.amax(0, keepdim=True))
    with pytest.raises(TorchwhyError, match="least"):
        metrics.RelativeInputStability(least=0.0)


def test_copies_of_another_class_do_not_count() -> None:
    x = torch.tensor([[1.0, 2.0], [3.0, 1.0]]).double()

    def model(z: Tensor) -> Tensor:
        away = (z[:, None] - x).abs().sum(2).amin(1)  # 0 at the examples alone
        return torch.stack([z.sum(1) / 1e6, away], 1)

    found = metrics.RelativeInputStability().score(gradient(model), x, target=0)
    assert found.undefined == {"the model puts every changed copy in another class": 2}
    assert found.details["same class"] == [0, 0]


def test_the_layers_of_a_function_are_not_known(x: Tensor) -> None:
    with pytest.raises(TorchwhyError, match="function, whose layers are not known"):
        metrics.RelativeRepresentationStability().score(gradient(lambda z: z.sum(1)), x)
    with pytest.raises(TorchwhyError, match="no layer with parameters"):
        metrics.RelativeRepresentationStability().score(gradient(nn.Sequential(nn.Tanh(), nn.Flatten())), x)


# -- consistency -------------------------------------------------------------------------------------------------


def test_the_same_marks_and_the_same_class_by_hand() -> None:
    torch.manual_seed(1)
    model = nn.Linear(4, 3, bias=False).double()
    x = drawn(6, 4) / 3
    moved = x + noise(x, 0.4, 50)
    weights = model.weight[model(x).argmax(1)].detach()

    def marks(values: Tensor) -> Tensor:
        first = values.abs().argsort(-1, descending=True)[..., :2]
        return torch.zeros_like(values).scatter(-1, first, values.sign().gather(-1, first))

    alike = (marks(weights * moved) == marks(weights * x)).all(2)
    agree = model(moved).argmax(2) == model(x).argmax(1)
    known = (alike & agree).sum(0) / alike.sum(0)
    assert ((known > 0) & (known < 1)).any()
    found = metrics.Consistency(radius=0.4, n_samples=50, top_k=2).score(InputXGradient(model), x)
    assert_close(found.value, known.double())
    assert found.details["alike"] == alike.sum(0).tolist()
    assert_close(found.standard_error, (known * (1 - known) / alike.sum(0)).sqrt().double())


def test_marks_that_no_copy_shares_and_models_without_classes() -> None:
    x = torch.tensor([[0.0, 0.0, 1e-9]]).double()
    model = nn.Linear(3, 2, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[9.0, 9.0, 1e-9], [0, 0, 0]]))
    found = metrics.Consistency().score(InputXGradient(model), x, target=0)
    assert found.undefined == {"the explanation of no changed copy marks the same": 1}
    with pytest.raises(TorchwhyError, match="gives no table"):
        metrics.Consistency().score(gradient(nn.Linear(3, 1).double()), x)


# -- manners -----------------------------------------------------------------------------------------------------


def test_wrong_options() -> None:
    for wrong in ({"perturbation": "even"}, {"n_samples": 0}, {"seed": -1}, {"norm": "l3"}, {"input_norm": "l3"}):
        with pytest.raises(TorchwhyError, match=next(iter(wrong))):
            Lipschitz(**wrong)
    with pytest.raises(TorchwhyError, match="radii are sizes of noise"):
        Lipschitz(radius=-1.0)
    with pytest.raises(TorchwhyError, match="top_k"):
        metrics.Consistency(top_k=0)


def test_seeds(a: Tensor, x: Tensor) -> None:
    method = gradient(Quadratic(a))
    state = torch.random.get_rng_state()
    first, same, other = (metrics.MaxSensitivity().score(method, x, seed=s).value for s in (0, 0, 1))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    assert torch.equal(state, torch.random.get_rng_state())
