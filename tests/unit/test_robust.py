"""Attacks, corruptions and the smallest change, against closed forms."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from torchwhy import TorchwhyError
from torchwhy.robust import (
    CORRUPTIONS,
    FGSM,
    PGD,
    AttackComparator,
    MinParamPerturbation,
    accuracy_curve,
    corrupt,
    corruption_curves,
    minimum_perturbation,
)
from torchwhy.robust.attacks import cross_entropy


def linear(rows: list[list[float]]) -> nn.Module:
    model = nn.Linear(len(rows[0]), len(rows), bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor(rows, dtype=torch.float64))
    return model


def points(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


TWO = linear([[1.0, 2.0, 0.0], [-1.0, 1.0, 0.0]])  # the first class leads by 2 x_0 + x_1


def test_fgsm_steps_along_the_sign_of_the_gradient():
    x = points([1.0, 1.0, 1.0], [-2.0, 0.0, 3.0])
    away = torch.tensor([[-1.0, -1.0, 0.0]]).double()
    assert torch.equal(FGSM(TWO).perturb(x, 0.1, 0), x + 0.1 * away)
    assert torch.equal(FGSM(TWO).perturb(x, 0.1, [0, 1]), x + 0.1 * away * torch.tensor([[1.0], [-1.0]]))
    assert torch.equal(FGSM(TWO).perturb(x, 0.1, 0, targeted=True), x - 0.1 * away)
    assert torch.equal(FGSM(TWO).perturb(x, torch.tensor([0.1, 0.2], dtype=torch.float64), 0)[1], x[1] + 0.2 * away[0])


def test_bounds_and_masks_hold():
    x = points([1.0, 1.0, 1.0])
    assert torch.equal(FGSM(TWO, lower_bound=0.95).perturb(x, 0.1, 0), points([0.95, 0.95, 1.0]))
    kept = FGSM(TWO).perturb(x, 0.1, 0, mask=torch.tensor([1, 0, 1]))
    torch.testing.assert_close(kept, points([0.9, 1.0, 1.0]))


def test_the_loss_is_the_users():
    x = points([1.0, 1.0, 1.0])
    found = FGSM(TWO, loss_func=lambda out, target: -out[:, target].mean()).perturb(x, 0.5, 1)
    assert torch.equal(found, points([1.5, 0.5, 1.0]))


def test_the_default_loss_is_the_cross_entropy():
    logits = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 2, 0, 1])
    torch.testing.assert_close(cross_entropy(logits, labels), F.cross_entropy(logits, labels, reduction="none"))
    with pytest.raises(TorchwhyError, match="has no classes"):
        cross_entropy(logits[:, :1], 0)


def test_pgd_in_the_box_ends_in_the_corner_of_a_linear_model():
    x = points([1.0, 1.0, 1.0])
    found = PGD(TWO).perturb(x, 0.3, 0.1, 7, 0, random_start=True)
    assert torch.allclose(found[:, :2], x[:, :2] - 0.3)
    assert (found - x)[0, 2].abs() <= 0.3


def test_pgd_in_the_ball_goes_against_the_difference_of_the_weights():
    x = points([1.0, 1.0, 1.0], [0.0, -1.0, 0.0])
    found = PGD(TWO).perturb(x, torch.tensor([0.5, 1.0]).double(), 0.4, 5, 0, norm="L2")
    way = points([-2.0, -1.0, 0.0]) / math.sqrt(5)
    torch.testing.assert_close(found, x + torch.tensor([[0.5], [1.0]]) * way)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_a_random_start_lies_in_the_ball_and_depends_on_the_seed_alone(norm):
    x = torch.zeros(3, 4, 5, dtype=torch.float64)
    model = nn.Sequential(nn.Flatten(), nn.Linear(20, 2).double())
    before = torch.random.get_rng_state()
    start = PGD(model).perturb(x, 0.5, 0.1, 0, 0, random_start=True, norm=norm)
    assert torch.equal(torch.random.get_rng_state(), before)
    size = start.abs().amax() if norm == "Linf" else start.flatten(1).norm(dim=1).amax()
    assert 0 < size <= 0.5
    assert torch.equal(start[1:2], PGD(model).perturb(x[1:2], 0.5, 0.1, 0, 0, random_start=True, norm=norm))
    assert not torch.equal(start, PGD(model, seed=1).perturb(x, 0.5, 0.1, 0, 0, random_start=True, norm=norm))


def test_tuples_and_further_arguments():
    def model(a: Tensor, b: Tensor, scale: float) -> Tensor:
        return scale * torch.stack([a.sum(1) - b.sum(1), b.sum(1)], 1)

    a, b = points([1.0, 2.0]), points([3.0])
    one, other = FGSM(model).perturb((a, b), 0.1, 0, 2.0)
    torch.testing.assert_close(one, a - 0.1)
    torch.testing.assert_close(other, b + 0.1)


def test_the_model_is_left_as_it_was():
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 2)).train()
    x = torch.ones(2, 3)
    first, again = (PGD(model).perturb(x, 0.3, 0.1, 3, 0) for _ in range(2))
    assert torch.equal(first, again)  # no unit was dropped
    assert model[1].training
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert not first.requires_grad


def test_the_smallest_change_of_a_linear_model():
    x = points([1.0, 1.0, 1.0], [0.2, 0.1, 0.0], [-1.0, 0.0, 0.0], [100.0, 0.0, 0.0])
    found = minimum_perturbation(
        TWO, lambda x, size: FGSM(TWO).perturb(x, size, 0), x, 0, highest=2.0, halvings=20, progress=False
    )
    assert found.size.tolist() == pytest.approx([1.0, 0.5 / 3, 0.0, math.inf], abs=1e-6)
    margin = found.inputs @ points([2.0, 1.0, 0.0])[0]
    assert margin[0] <= 0
    assert margin[0] > -1e-4
    assert torch.equal(found.inputs[2:], x[2:])


@pytest.mark.parametrize("mode", ["linear", "binary"])
@pytest.mark.parametrize("together", [1, 3])
def test_the_smallest_argument(mode, together):
    search = MinParamPerturbation(TWO, lambda x, by: x - by, "by", 0.0, 3.0, 0.25, mode=mode)
    made, by = search.evaluate(points([1.0, 1.0, 1.0]), target=0, perturbations_per_eval=together)
    assert by == 1.25  # at 1 the lead is 0, and the first of equals is the largest
    assert torch.equal(made, points([-0.25, -0.25, -0.25]))
    never = MinParamPerturbation(TWO, lambda x, by: x + by, "by", 0.0, 3.0, 0.25, mode=mode)
    assert never.evaluate(points([1.0, 1.0, 1.0]), target=0) == (None, None)


def test_attacks_are_compared_batch_after_batch():
    def right(output: Tensor, labels: Tensor) -> Tensor:
        return (output.argmax(1) == labels).double()

    shifts = iter([0.5, 2.0] * 2)
    compared = AttackComparator(TWO, right)
    compared.add_attack(lambda x: x - 2.0, "shift")
    compared.add_attack(lambda x: x - next(shifts), "some", num_attempts=2)
    compared.add_attack(
        FGSM(TWO), "fgsm", attack_kwargs={"epsilon": 0.1, "target": 0}, additional_attack_arg_names=["labels"]
    )
    with pytest.raises(TorchwhyError, match="'fgsm' asks for 'labels'"):
        compared.evaluate(points([1.0, 1.0, 1.0]))
    del compared.attacks["fgsm"]
    for rows in (points([1.0, 1.0, 1.0]), points([1.0, 1.0, 1.0], [3.0, 3.0, 0.0])):
        found = compared.evaluate(rows, labels=torch.zeros(len(rows)), perturbations_per_eval=2)
    assert found["Original"].tolist() == [1, 1]
    assert found["shift"]["mean"].tolist() == [0, 1]
    assert {name: v.tolist() for name, v in found["some"].items()} == {"mean": [0.5, 1], "max": [1, 1], "min": [0, 1]}
    assert compared.summary()["shift"]["mean"].item() == pytest.approx((0 + 0.5) / 2)
    assert compared.summary()["some Min Attempt"]["mean"].item() == pytest.approx(0.25)
    compared.reset()
    assert compared.summary() == {}


def several(model: Any, metric: Any = lambda output: output) -> dict[str, Any]:
    """The first two of three rows, as they are and moved by 1, in one pass."""
    compared = AttackComparator(model, metric)
    compared.add_attack(lambda x: x + 1, "moved")
    return compared.evaluate(points([1.0, 1.0, 1.0], [0.0, 2.0, 0.0]), perturbations_per_eval=2)


def test_outputs_of_any_form_are_taken_apart():
    found = several(
        lambda x: {"logits": TWO(x), "more": (x,)}, lambda output: output["logits"][:, 0] + output["more"][0][:, 2]
    )
    assert found["Original"].tolist() == [4, 4]
    assert found["moved"]["mean"].tolist() == [8, 7 + 1 - 0]


def test_comparing_and_searching_leave_the_model_as_it_was():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.9), nn.Linear(4, 2)).train()
    x, state, before = torch.rand(5, 3), torch.get_rng_state(), {k: v.clone() for k, v in model.state_dict().items()}
    right = model.eval()(x).argmax(1)
    model.train()
    compared = AttackComparator(model, lambda output, target: (output.argmax(1) == target).float())
    assert compared.evaluate(x, target=right)["Original"].tolist() == [1] * 5  # no unit was dropped
    search = MinParamPerturbation(model, torch.add, "other", 0.0, 1.0, 0.25)
    assert search.evaluate(x, target=1 - right)[1] == 0.0
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_models_with_named_outputs_are_attacked():
    x = points([1.0, 1.0, 1.0], [-0.2, 0.1, 0.0])
    named = FGSM(lambda x: {"logits": TWO(x)}).perturb(x, 0.1, [0, 1])
    assert torch.equal(named, FGSM(TWO).perturb(x, 0.1, [0, 1]))


def test_accuracy_under_a_budget_never_rises():
    x = points([1.0, 1.0, 0.0], [0.2, 0.1, 0.0], [0.6, 0.0, 0.0], [-1.0, 0.0, 0.0])
    sizes = (0.1, 0.3, 0.5, 2.0)
    curve = accuracy_curve(TWO, lambda x, size: FGSM(TWO).perturb(x, size, 0), x, [0] * 4, sizes)
    assert curve.accuracy == (0.75, 0.75, 0.5, 0.25, 0.0)
    assert curve.standard_error[1] == pytest.approx(math.sqrt(0.75 * 0.25 / 4))
    away_and_back = {0.1: -3.0, 0.3: 0.0}
    wavers = accuracy_curve(TWO, lambda x, size: x + away_and_back[size], x, [0] * 4, (0.1, 0.3))
    assert wavers.accuracy == (0.75, 0.0, 0.0)


@pytest.mark.parametrize("kind", CORRUPTIONS)
@pytest.mark.parametrize("shape", [(2, 1, 16, 16), (2, 3, 28, 35)])
def test_corruptions_grow_and_are_the_same_for_every_image(kind, shape):
    images = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    changed = [corrupt(images, kind, s) for s in (1, 5)]
    for c in changed:
        assert c.shape == images.shape
        assert c.dtype == images.dtype
        assert 0 <= c.min() <= c.max() <= 1
    slight, strong = ((c - images).abs().mean() for c in changed)
    assert 0 <= slight < strong
    torch.testing.assert_close(corrupt(images[1:], kind, 5), changed[1][1:])


def test_corruptions_keep_what_they_should():
    grey = torch.full((1, 3, 32, 32), 0.4, dtype=torch.float64)
    for kind in ("gaussian_blur", "defocus_blur", "motion_blur", "contrast", "pixelate", "elastic"):
        torch.testing.assert_close(corrupt(grey, kind, 5), grey)
    shot = corrupt(torch.full((1, 1, 200, 200), 0.4, dtype=torch.float64), "shot_noise", 5)
    assert shot.mean().item() == pytest.approx(0.3855, abs=0.01)  # of min(N, 3) / 3, with N Poisson of 1.2
    assert (3 * shot).sub((3 * shot).round()).abs().max() < 1e-12
    dead = corrupt(grey, "impulse_noise", 5)
    assert ((dead != 0.4).double().mean().item()) == pytest.approx(0.27, abs=0.03)


def test_corruption_curves_tell_accuracy_by_severity():
    images = torch.cat([torch.full((4, 1, 8, 8), 0.15), torch.full((4, 1, 8, 8), 0.65)])
    labels = torch.tensor([0] * 4 + [1] * 4)

    def model(x: Tensor) -> Tensor:
        bright = x.mean((1, 2, 3))
        return torch.stack([0.5 - bright, bright - 0.5], 1)

    brightness, contrast = corruption_curves(model, images, labels, ["brightness", "contrast"], progress=False)
    assert brightness.sizes == (0, 1, 2, 3, 4, 5)
    assert brightness.accuracy == (1, 1, 1, 1, 0.5, 0.5)
    assert contrast.accuracy == (1,) * 6
    assert "brightness: 0: 100.0%" in str(brightness)
    once = corruption_curves(model, images, labels, (k for k in ("contrast", "brightness")), severities=iter((1, 5)))
    assert [c.accuracy for c in once] == [(1, 1, 1), (1, 1, 0.5)]


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (lambda: FGSM(3), "a model is a module or a function"),
        (lambda: FGSM(TWO, lower_bound=1.0, upper_bound=0.0), "lies above"),
        (lambda: FGSM(TWO).perturb(torch.ones(1, 3).double(), -1, 0), "epsilon is a number of at least 0"),
        (lambda: FGSM(TWO).perturb(torch.ones(1, 3).long(), 1, 0), "which has no gradient"),
        (lambda: FGSM(TWO).perturb(torch.ones(1, 3).double(), 1, 7), "target 7 is out of range"),
        (lambda: PGD(TWO).perturb(torch.ones(1, 3).double(), 1, 1, 1, 0, norm="L1"), "norm is 'Linf' or 'L2'"),
        (lambda: corrupt(torch.rand(1, 1, 4, 4), "fog"), "there is no corruption 'fog'"),
        (lambda: corrupt(torch.rand(1, 1, 4, 4) - 1, "contrast"), "values from 0 to 1"),
        (lambda: corrupt(torch.rand(1, 1, 4, 4), "contrast", 6), "severity is"),
        (lambda: MinParamPerturbation(TWO, min, "by", 0, 1, 2), "no two steps"),
        (lambda: accuracy_curve(TWO, min, torch.ones(1, 3), 0, []), "increasing order"),
        (lambda: accuracy_curve(TWO, min, torch.ones(0, 3), 0, [1]), "there are no examples"),
        (lambda: accuracy_curve(TWO, min, points([1.0] * 3), 0, [1], wrong=lambda y, t: y > 0), "one truth value"),
        (lambda: FGSM(TWO).perturb(points([1.0] * 3), 1, None), "with targeted=True the one"),
        (lambda: corrupt(torch.rand(1, 1, 4, 4), "contrast", 3.0), "not 3.0"),
        (lambda: corrupt(torch.rand(0, 1, 4, 4), "contrast"), "there are no examples in inputs of shape"),
        (lambda: corruption_curves(TWO, torch.rand(1, 1, 4, 4), 0, severities=[1.5]), "not 1.5"),
        (lambda: MinParamPerturbation(TWO, min, "by", 0, 3, 1, num_attempts=0), "num_attempts is"),
        (
            lambda: MinParamPerturbation(TWO, torch.sub, "other", 0, 3, 1).evaluate(points([1.0] * 3)),
            "say the target, the",
        ),
        (lambda: several(lambda x: TWO(x).sum()), "leave perturbations_per_eval"),
    ],
)
def test_mistakes_are_told(mistake, message):
    with pytest.raises(TorchwhyError, match=message):
        mistake()
