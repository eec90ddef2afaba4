"""The verdict: what deserves a warning gets one, what does not does not, at the price that was said."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchwhy import (
    Check,
    DeepLiftShap,
    Explanation,
    FeatureAblation,
    GradCAM,
    HiResCAM,
    InputXGradient,
    IntegratedGradients,
    KernelShap,
    Method,
    NoiseTunnel,
    Saliency,
    ShapleyInteractions,
    Site,
    TorchwhyError,
    explain,
)
from torchwhy.core.evidence import Status, by_weight, left_unchecked, undecided, verdict
from torchwhy.core.explanation import fingerprint
from torchwhy.core.problem import Problem
from torchwhy.data import digits
from torchwhy.methods.base import Attribution
from torchwhy.networks import ConvNet
from torchwhy.train import TrainingConfig, load_checkpoint, train
from torchwhy.trust import decision, weights

BASIC, FULL = 2 * (1 + 5), 5 * (1 + 10)  # rows per example that faithfulness takes


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> nn.Module:
    folder = tmp_path_factory.mktemp("trained")
    train(*digits(), folder, TrainingConfig(epochs=4, lr=0.05, momentum=0.9, seed=7), progress=False)
    return load_checkpoint(folder)[0]


@pytest.fixture(scope="module")
def images() -> Tensor:
    return digits()[1].inputs[:6]


def the(found: Explanation, name: str) -> Check:
    (one,) = (c for c in found.evidence if c.name == name)
    return one


def statuses(found: Explanation, name: str) -> set[Status]:
    return set(the(found, name).status)


class Counted(nn.Module):
    """Counts the rows that reach a model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.rows = model, [0]  # a list, which copies of this module share

    def forward(self, x: Tensor) -> Tensor:
        self.rows[0] += len(x)
        return self.model(x)

    def __deepcopy__(self, memo: dict[int, Any]) -> Counted:
        twin = Counted(copy.deepcopy(self.model, memo)).eval()
        twin.rows = self.rows
        return twin


class Deaf(Method):
    """Explains by the input alone."""

    info = dataclasses.replace(Saliency.info, signed=True)

    def compute(self, p: Problem) -> Attribution:
        return Attribution(p.point.map(lambda t: t.clone()))


class Even(Method):
    """The same everywhere, adding up as it should."""

    info = dataclasses.replace(IntegratedGradients.info, promises=("completeness",))

    def compute(self, p: Problem) -> Attribution:
        moved = (p.scores - p.base_scores()) / sum(t[0].numel() for t in p.point)
        return Attribution(p.point.map(lambda t: moved.view(-1, *[1] * (t.ndim - 1)).expand(t.shape)))

    def total(self, p: Problem) -> Tensor:
        return p.scores - p.base_scores()


# -- who deserves a warning ----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [IntegratedGradients, lambda net: GradCAM(net, at="conv2")], ids=["IG", "GradCAM"])
def test_a_trained_network_passes(trained: nn.Module, images: Tensor, method: Callable[[nn.Module], Method]) -> None:
    found = method(trained).explain(images, check="full")
    assert [v.status for v in found.verdicts].count("pass") >= 5
    for name in ("training", "decision", "weights", "noise"):
        assert statuses(found, name) == {"pass"}, name
    assert the(found, "steadiness").status.count("warn") <= 1


def test_a_network_that_was_never_trained_does_not(images: Tensor) -> None:
    torch.manual_seed(3)
    found = IntegratedGradients(ConvNet().eval()).explain(images, check="full")
    assert {v.status for v in found.verdicts} == {"warn"}
    assert statuses(found, "training") == {"warn"}
    first = found.why_not_trust()[0]
    assert first.startswith("The weights look like random numbers, as of a network that was never trained (z = ")
    assert first.endswith(f"(example 0, and {len(images)} of {len(images)} in all).")


def by_heart(x: Tensor, labels: Tensor) -> nn.Module:
    """A network that knows all of these labels, whatever they are."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Flatten(), nn.Linear(144, 256), nn.ReLU(), nn.Linear(256, 10))
        optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
        for _ in range(250):
            for rows in torch.randperm(len(x)).split(64):
                optimizer.zero_grad()
                nn.functional.cross_entropy(net(x[rows]), labels[rows]).backward()
                optimizer.step()
            with torch.no_grad():
                if (net(x).argmax(1) == labels).all():
                    break
    return net.eval()


@pytest.mark.parametrize("shuffled", [True, False])
def test_a_network_that_learnt_shuffled_labels_by_heart_does_not(shuffled: bool) -> None:
    """The same network, learning in the same way, with the labels in another order and in their own."""
    known, test = digits()
    x, labels = known.inputs[:400], known.labels[:400]
    if shuffled:
        labels = labels[torch.randperm(400, generator=torch.Generator().manual_seed(1))]
    model = by_heart(x, labels)
    with torch.no_grad():
        assert (model(x).argmax(1) == labels).float().mean() > 0.98
    data = (test.inputs, test.labels)
    for images in (test.inputs[:50], x[:50]):
        found = Saliency(model).explain(images, check="full", data=data)
        assert statuses(found, "training") == {"pass"}  # it has learnt, though nothing that holds
        warned = the(found, "steadiness").status.count("warn")
        assert warned >= 45 if shuffled else warned <= 5
        assert statuses(found, "accuracy") == {"warn" if shuffled else "pass"}
    if shuffled:
        assert "no better than chance" in the(found, "accuracy").reason[0]


def test_another_class_than_the_decided_one_does_not(trained: nn.Module, images: Tensor) -> None:
    with torch.no_grad():
        order = trained(images).argsort(1, descending=True)
    names = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    for rank in (1, 5):
        found = IntegratedGradients(trained).explain(images, target=order[:, rank], check="full", classes=names)
        assert {v.status for v in found.verdicts} == {"warn"}
        told = the(found, "decision").reason[0]
        assert f"the model gives {names[order[0, rank]]} a probability of " in told
        assert f"decides for {names[order[0, 0]]} (" in told
    assert statuses(IntegratedGradients(trained).explain(images, target=order[:, 0], check="full"), "decision") == {
        "pass"
    }


def test_an_explainer_that_does_not_look_at_the_model_does_not(trained: nn.Module, images: Tensor) -> None:
    found = Deaf(trained).explain(images, check="full")
    assert {v.status for v in found.verdicts} == {"warn"}
    for name in ("weights", "class"):
        assert statuses(found, name) == {"warn"}
        assert the(found, name).value == pytest.approx((1.0,) * len(images))
    assert any("hardly depends on the weights" in reason for reason in found.why_not_trust())
    assert statuses(IntegratedGradients(trained).explain(images, check="full"), "weights") == {"pass"}


@pytest.mark.parametrize("level", ["basic", "full"])
def test_an_explanation_that_is_the_same_everywhere_never_passes(
    trained: nn.Module, images: Tensor, level: Any
) -> None:
    found = Even(trained).explain(images, check=level)
    assert statuses(found, "completeness") == {"pass"}
    assert {v.status for v in found.verdicts} == {"warn"}
    told = "Every value is the same, so that the explanation marks nothing (example 0, and 6 of 6 in all)."
    assert told in found.why_not_trust()
    if level == "full":
        assert statuses(found, "weights") == {"unknown"}


def test_what_speaks_for_the_model_alone_makes_no_explanation_pass() -> None:
    model = Check("training", "?", ("pass",), (9.0,), ("trained",))
    mute = undecided("faithfulness", "?", 1, "nothing can be told")
    assert verdict([model, mute], 0).status == "unknown"
    assert verdict([model, mute], 0).reasons == ("nothing can be told",)
    assert verdict([model, Check("noise", "?", ("pass",), (1.0,), ("stable",))], 0).status == "pass"


# -- known answers -------------------------------------------------------------------------------------------

LINEAR = torch.tensor([8.0, 4, 2, 1, 0.5, 0.25, 0, 0, 0, 0, -1, -2], dtype=torch.float64)


def test_a_planted_patch_is_found_and_one_beside_it_is_not() -> None:
    def model(x: Tensor) -> Tensor:
        return x[:, 0, 2:5, 2:5].sum((1, 2))

    x, mask = torch.ones(1, 1, 12, 12), torch.zeros(1, 1, 12, 12)
    mask[..., 2:5, 2:5] = 1

    given = mask

    class Given(Deaf):
        def compute(self, p: Problem) -> Attribution:
            return Attribution(p.point.map(lambda t: given.clone()))

    for level in ("basic", "full"):
        given = mask
        assert statuses(Given(model).explain(x, check=level), "faithfulness") == {"pass"}
        given = mask.roll(6, 2)
        assert statuses(Given(model).explain(x, check=level), "faithfulness") == {"warn"}


@pytest.mark.parametrize("level", ["basic", "full"])
def test_a_map_of_a_layer_is_asked_on_its_own_grid(trained: nn.Module, images: Tensor, level: Any) -> None:
    """8 x 8 places of conv2, all channels of each: where the map is right, and half a map away from there."""

    class Away(HiResCAM):
        def compute(self, p: Problem) -> Attribution:
            found = super().compute(p)
            found.values = found.values.map(lambda t: t.roll((4, 4), (2, 3)))
            return found

    right, wrong = (method(trained, at="conv2").explain(images, check=level) for method in (HiResCAM, Away))
    assert right.values.shape[2:] == (8, 8)
    assert statuses(right, "faithfulness") == {"pass"}
    assert statuses(wrong, "faithfulness") <= {"warn", "unknown"}
    assert the(wrong, "faithfulness").status.count("warn") >= 5


def test_a_linear_model_is_explained_the_same_from_a_quarter_of_the_way() -> None:
    x = torch.randn(3, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = IntegratedGradients(lambda t: t @ LINEAR).explain(x, check="full")
    assert the(found, "baseline").value == pytest.approx((1.0,) * 3)
    assert "a quarter of the way" in the(found, "baseline").reason[0]
    # Noise changes x * w by noise * w, which the correlation shows; and every draw comes with its opposite.
    (noise,) = decision.noise(Problem(lambda t: t @ LINEAR, _tensors(x)).point, 0.05, 1, stream=74)
    told = [torch.corrcoef(torch.stack([x[0] * LINEAR, n[0] * LINEAR]))[0, 1] for n in noise]
    assert the(found, "noise").value[0] == pytest.approx(float(sum(told)) / 2)
    assert torch.allclose(noise.mean(0), x)


def test_the_lead_under_noise_by_hand() -> None:
    """Logits (s, 0) with s the sum of x: the lead is s, and noise of a known size moves it by a known amount."""

    def model(t: Tensor) -> Tensor:
        return torch.stack([t.sum(1), 0 * t.sum(1)], 1)

    x = torch.tensor([[0.0, 1.0, 3.0, 0.5], [0.0, 0.09, 0.0, -0.1]], dtype=torch.float64)
    (copies,) = decision.noise(_tensors(x), decision.NOISE, decision.PAIRS, stream=72)
    lead = copies.sum(2) * torch.tensor([1, -1])  # the second example is decided for the other class
    ratio = lead.mean(0) / lead.std(0)
    check = the(IntegratedGradients(model).explain(x, check="full"), "steadiness")
    assert check.value == pytest.approx((ratio + decision.AGREEMENT).tolist())  # the slope is the same everywhere
    assert check.status == ("pass", "unknown")
    assert "slopes with 100 % in common" in check.reason[0]
    assert f"in {int((lead[:, 1] > 0).sum())} of 32 copies" in check.reason[1]
    without = the(FeatureAblation(lambda t: model(t).detach()).explain(x, check="full"), "steadiness")
    assert without.value == pytest.approx(ratio.tolist())
    assert without.status == ("pass", "warn")
    assert "slopes" not in without.reason[0]


def test_what_slopes_under_noise_have_in_common_by_hand() -> None:
    """The lead is half the sum of squares, whose slope is the copy itself."""

    def model(t: Tensor) -> Tensor:
        return torch.stack([(t**2).sum(1) / 2, 0 * t.sum(1)], 1)

    x = torch.zeros(2, 24, dtype=torch.float64)
    x[:, :4] = torch.tensor([0.3, -0.3, 0.0, 0.0])
    x[1] = x[1] / 10 + 1
    (copies,) = decision.noise(_tensors(x), decision.NOISE, decision.PAIRS, stream=72)
    products = torch.einsum("kbi,lbi->bkl", copies, copies)
    own = products.diagonal(dim1=1, dim2=2).sum(1)
    common = (products.sum((1, 2)) - own) / (31 * own)
    lead = (copies**2).sum(2) / 2
    ratio = (lead.mean(0) / lead.std(0)).clamp_max(99)
    expected = ratio + (common / (1 - common)).log().clamp_max(decision.AGREEMENT)
    assert common[0] < 0.5
    assert common[1] > 0.99
    assert the(FeatureAblation(model).explain(x, check="full"), "steadiness").value == pytest.approx(expected.tolist())


def test_noise_that_is_a_class_of_its_own_tells_nothing() -> None:
    """Class 2 is what varies from place to place, as a texture; class 3 has a slope that no other class has."""

    def model(t: Tensor, wandering: bool = False) -> Tensor:
        varied = (t[:, 1:] - t[:, :-1]).square().mean(1)
        flat = 0.1 + 0 * varied
        second = flat - 1 + 100 * (t[:, 0] - t[:, 1]) if wandering else 2 * varied
        return torch.stack([flat, second, 0 * flat], 1)

    x = torch.full((1, 64), 0.1, dtype=torch.float64)
    x[:, 40] = 1.1
    drawn = the(FeatureAblation(model).explain(x, check="full"), "steadiness")
    assert drawn.status == ("unknown",)
    assert drawn.value[0] < decision.HARDLY
    assert "are taken for class 1: the noise is what it sees there" in drawn.reason[0]
    wandering = the(FeatureAblation(lambda t: model(t, wandering=True)).explain(x, check="full"), "steadiness")
    assert wandering.status == ("warn",)


def test_noise_that_leaves_where_the_model_is_defined_tells_nothing() -> None:
    def model(t: Tensor) -> Tensor:
        return torch.stack([t.sum(1), t.amin(1).log()], 1)

    x = torch.tensor([[0.001, 0.2, 0.9], [5.0, 6.0, 7.0]], dtype=torch.float64)
    check = the(FeatureAblation(model).explain(x, 1.0, check="full"), "steadiness")
    assert check.status == ("unknown", "pass")
    assert check.reason[0].endswith("of 32 copies are not finite")
    flat = the(
        FeatureAblation(lambda t: model(x).detach()[:1].expand(len(t), 2) + 0 * t[:, :1]).explain(x, 1.0, check="full"),
        "steadiness",
    )
    assert flat.status == ("pass", "pass")  # whatever is asked, the answer is the same
    assert "slopes" not in flat.reason[0]


def test_of_many_classes_near_synonyms_may_change_places() -> None:
    """Class 1 of 20 is class 0 with a little noise of its own; the others lie far below."""

    def model(t: Tensor, count: int = 20) -> Tensor:
        rest = torch.zeros(len(t), count - 2, dtype=t.dtype) - 100
        return torch.cat([t[:, :1], t[:, 1:2] - 0.01, rest], 1)

    x = torch.tensor([[1.0, 1.0, 0.0]], dtype=torch.float64)
    many = the(FeatureAblation(model).explain(x, check="full"), "steadiness")
    few = the(FeatureAblation(lambda t: model(t, 10)).explain(x, check="full"), "steadiness")
    assert many.status == ("pass",)
    assert "among the likeliest 2" in many.reason[0]
    assert few.status == ("warn",)


def test_structure_is_that_of_no_other_order() -> None:
    torch.manual_seed(0)
    fresh = [weights.structure(nn.Linear(n, m)).highest for n, m in ((64, 10), (300, 400), (30, 30)) for _ in range(5)]
    assert max(fresh) < weights.BY_CHANCE
    low_rank = nn.Linear(40, 40)
    with torch.no_grad():
        low_rank.weight.copy_(torch.randn(40, 2) @ torch.randn(2, 40))
    found = weights.structure(nn.Sequential(nn.Linear(40, 40), low_rank))
    assert found.highest > weights.STRUCTURED
    assert found.name == "1.weight"
    orthogonal = nn.Linear(64, 64)
    nn.init.orthogonal_(orthogonal.weight)
    assert weights.structure(orthogonal).lowest < -weights.STRUCTURED
    x = torch.randn(2, 64)
    check = the(Saliency(orthogonal).explain(x, check="full"), "training")
    assert check.status == ("unknown", "unknown")
    assert weights.structure(nn.Linear(3, 3)) is None
    equal = nn.Linear(40, 40)
    nn.init.ones_(equal.weight)
    assert weights.structure(equal) is None


def test_accuracy_is_measured_against_the_commonest_class() -> None:
    model = nn.Linear(2, 2)
    with torch.no_grad():
        model.weight.copy_(torch.eye(2))
        model.bias.zero_()
    x = torch.eye(2).repeat(50, 1)
    right = torch.arange(100) % 2
    for labels, status, share in ((right, "pass", 1.0), (1 - right, "warn", 0.0)):
        check = the(Saliency(model).explain(x[:2], check="full", data=(x, labels)), "accuracy")
        assert check.status == (status, status)
        assert check.value == (share, share)
        assert "always saying the commonest class is right on 50 %" in check.reason[0]


# -- what it costs -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 4])
def test_basic_costs_at_most_15_rows_an_example(images: Tensor, count: int) -> None:
    torch.manual_seed(0)
    model = Counted(ConvNet()).eval()
    x = images[:count]
    found = IntegratedGradients(model).explain(x, check="basic")
    record = found.provenance
    assert record["check_rows"] == count * BASIC + 2
    assert record["check_rows"] <= 15 * count
    assert record["check_rows"] <= 0.3 * record["forward_rows"]
    assert model.rows[0] == record["forward_rows"] + record["check_rows"]
    free = IntegratedGradients(model).explain(x).provenance
    assert free["check_rows"] == 2  # the first example beside its baseline
    single = Saliency(model).explain(x, check="basic").provenance
    assert single["check_rows"] == count * BASIC + 2


def test_full_costs_what_it_says(images: Tensor) -> None:
    torch.manual_seed(0)
    model = Counted(ConvNet()).eval()
    found = Saliency(model).explain(images, check="full")
    again = 3 + 1 + 2  # random weights, another class, noise: a forward and a backward row each
    forward, backward = FULL + 1 + 2 * decision.PAIRS + again, 2 * decision.PAIRS + again
    assert found.provenance["check_rows"] == len(images) * (forward + backward) + 2
    assert model.rows[0] == found.provenance["forward_rows"] + len(images) * forward + 2


def test_what_does_not_depend_on_the_input_is_asked_once(images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = Counted(ConvNet()).eval()
    looked = []
    known = weights.structure
    monkeypatch.setattr(weights, "structure", lambda module: looked.append(1) or known(module))
    data = (digits()[1].inputs[:100], digits()[1].labels[:100])

    def cost() -> int:
        before = model.rows[0]
        Saliency(model).explain(images[:1], check="full", data=data)
        return model.rows[0] - before

    first, second = cost(), cost()
    assert first - second == 100
    assert len(looked) == 1
    with torch.no_grad():
        model.model.fc2.bias.add_(1)
    assert cost() == first
    assert len(looked) == 2


def test_the_model_stays_as_it_is(trained: nn.Module, images: Tensor) -> None:
    before, state = fingerprint(trained), torch.get_rng_state()
    explain(trained, images[:2], check="full")
    assert fingerprint(trained) == before
    assert torch.equal(torch.get_rng_state(), state)


class Patience:
    """Counts the passes of a model and of its copies, and is lost at one or more of them."""

    def __init__(self, *ends: int) -> None:
        self.ends, self.passes = ends, 0

    def __deepcopy__(self, memo: object) -> Patience:
        return self

    def __call__(self) -> None:
        self.passes += 1
        if self.passes in self.ends:
            raise KeyboardInterrupt


class Waited(nn.Module):
    """A network that somebody waits for."""

    def __init__(self, inner: nn.Module, *ends: int) -> None:
        super().__init__()
        self.inner, self.patience = inner, Patience(*ends)

    def forward(self, x: Tensor) -> Tensor:
        self.patience()
        return self.inner(x)


def waited_for(make: Callable[[nn.Module], Method], inner: nn.Module, x: Tensor, level: Any) -> tuple[int, Explanation]:
    """How many passes an explanation takes, and it."""
    model = Waited(inner)
    found = make(model).explain(x, check=level)
    return model.patience.passes, found


BLOCKS = (torch.arange(12)[:, None] // 3 * 4 + torch.arange(12) // 3)[None, None]  # of 3 x 3 pixels
ASKED: list[Callable[[nn.Module], Method]] = [
    lambda model: IntegratedGradients(model, batch_size=64),
    lambda model: KernelShap(model, n_samples=300, feature_mask=BLOCKS, batch_size=300),
]


@pytest.mark.parametrize("make", ASKED, ids=["IntegratedGradients", "KernelShap"])
@pytest.mark.parametrize("part", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_an_interrupt_keeps_the_answers_that_are_there(
    trained: nn.Module, images: Tensor, make: Callable[[nn.Module], Method], part: float
) -> None:
    x = images[:2]
    attributed = Waited(trained)
    make(attributed).attribute(x)
    passes, full = waited_for(make, trained, x, "full")
    assert not full.interrupted
    assert full.verdict.status == "pass"
    first = attributed.patience.passes + 1
    model = Waited(trained, first + round(part * (passes - first))).train()
    before, hooks = torch.get_rng_state(), [len(m._forward_hooks) for m in model.modules()]
    found = make(model).explain(x, check="full")
    assert torch.equal(found.values, full.values)
    *made, last = found.evidence
    assert made == list(full.evidence[: len(made)])
    assert len(made) < len(full.evidence)
    assert last == left_unchecked(2, len(made))
    assert found.interrupted
    assert found.verdict.status == "unknown"
    assert str(found.verdict).startswith(f"unknown: stopped by hand after {len(made)} check")
    assert torch.equal(torch.get_rng_state(), before)
    assert all(m.training for m in model.modules())
    assert all(p.requires_grad for p in model.parameters())
    assert [len(m._forward_hooks) for m in model.modules()] == hooks
    again = make(model).explain(x, check="full", resume=found)
    assert torch.equal(again.values, full.values)
    assert again.evidence == full.evidence


def test_an_interrupt_of_the_checks_leaves_a_warning_as_it_is(images: Tensor) -> None:
    torch.manual_seed(0)
    fresh, make = ConvNet(), ASKED[0]
    passes, full = waited_for(make, fresh, images, "full")
    found = make(Waited(fresh, passes)).explain(images, check="full")
    assert found.interrupted
    assert full.verdict.status == found.verdict.status == "warn"
    assert "stopped by hand" not in str(found.verdict)


def test_what_was_evaluated_before_the_checks_is_not_evaluated_again(trained: nn.Module, images: Tensor) -> None:
    make = ASKED[1]
    passes, full = waited_for(make, trained, images[:2], "full")
    model = Waited(trained, passes)
    found = make(model).explain(images[:2], check="full", resume=make(model).explain(images[:2], check="full"))
    assert not found.interrupted
    assert found.evidence == full.evidence
    assert full.provenance["forward_rows"] > 600
    assert found.provenance["forward_rows"] <= 4


def test_a_second_interrupt_and_one_of_several_explanations_end(trained: nn.Module, images: Tensor) -> None:
    method = KernelShap(Waited(trained, 5, 6), n_samples=300, feature_mask=BLOCKS, batch_size=100)
    with pytest.raises(KeyboardInterrupt):
        method.explain(images[:1], check="full")
    assert method.model.patience.passes == 6
    passes, _ = waited_for(ASKED[0], trained, images[:1], "full")
    with pytest.raises(KeyboardInterrupt):
        ASKED[0](Waited(trained, passes)).explain_each(images[:1], [3], check="full")


def test_the_same_question_has_the_same_answer_in_any_batch(trained: nn.Module, images: Tensor) -> None:
    together = IntegratedGradients(trained).explain(images, check="full")
    alone = IntegratedGradients(trained, batch_size=7).explain(images[2:3], check="full")
    for check in alone.evidence:
        assert check.value[0] == pytest.approx(the(together, check.name).value[2], rel=1e-3, abs=1e-4)


# -- every form ----------------------------------------------------------------------------------------------


def test_a_function_has_no_weights_to_ask(images: Tensor) -> None:
    found = Saliency(lambda x: x.flatten(1) ** 2 @ torch.ones(144, 3)).explain(images, target=1, check="full")
    for name in ("training", "weights"):
        assert statuses(found, name) == {"unknown"}
        assert "is a function" in the(found, name).reason[0]


def test_a_score_that_is_no_class_has_no_rival(trained: nn.Module, images: Tensor) -> None:
    for target in (lambda output: output[:, 0] - output[:, 1], Site("fc1", unit=3)):
        found = Saliency(trained).explain(images[:2], target=target, check="full")
        for name in ("decision", "steadiness", "class"):
            assert statuses(found, name) == {"unknown"}
        assert statuses(found, "weights") <= {"pass", "unknown"}
    regression = Saliency(nn.Linear(6, 1)).explain(torch.randn(2, 6), check="full")
    assert statuses(regression, "decision") == {"unknown"}


def test_probability_scores_are_of_a_class(trained: nn.Module, images: Tensor) -> None:
    from torchwhy import LogOdds

    found = Saliency(trained).explain(images[:2], target=LogOdds(), check="full")
    assert statuses(found, "decision") == {"pass"}
    assert statuses(found, "class") <= {"pass", "unknown"}


def test_whole_numbers_take_no_noise() -> None:
    table = nn.Embedding(10, 4)
    model = nn.Sequential(table, nn.Flatten(), nn.Linear(20, 3))
    ids = torch.tensor([[1, 2, 3, 4, 5]])
    found = FeatureAblation(model).explain(ids, check="full")
    for name in ("steadiness", "noise", "baseline"):
        assert statuses(found, name) == {"unknown"}
    at_layer = IntegratedGradients(model, at="0").explain(ids, check="full")
    assert the(at_layer, "steadiness").value[0] is not None  # at the embedding there can be noise
    assert statuses(at_layer, "noise") == {"unknown"}
    assert the(at_layer, "weights").value[0] is not None


@pytest.mark.parametrize("at", ["conv2", ["conv2"]])
def test_layers_given_in_any_way(trained: nn.Module, images: Tensor, at: Any) -> None:
    modules = [trained.get_submodule(n) for n in at] if isinstance(at, list) else trained.get_submodule(at)
    by_name, by_module = (InputXGradient(trained, at=a).explain(images[:2], check="full") for a in (at, modules))
    assert the(by_name, "weights").value == the(by_module, "weights").value
    assert None not in the(by_name, "weights").value


def test_wrapped_methods_sets_and_pairs(trained: nn.Module, images: Tensor) -> None:
    tunnel = NoiseTunnel(Saliency(trained), nt_samples=2, stdevs=0.1).explain(images[:2], check="full")
    assert None not in the(tunnel, "weights").value
    shap = DeepLiftShap(trained).explain(images[:2], images[2:], check="full")
    assert "every second row of the background" in the(shap, "baseline").reason[0]
    blocks = (torch.arange(12)[:, None] // 4 * 3 + torch.arange(12) // 4)[None, None]
    pairs = ShapleyInteractions(trained, feature_mask=blocks, budget=100).explain(images[:1], check="full")
    assert statuses(pairs, "faithfulness") == {"unknown"}
    assert None not in the(pairs, "weights").value


def test_a_model_that_cannot_be_copied(images: Tensor) -> None:
    class Stubborn(ConvNet):
        def __deepcopy__(self, memo: Any) -> Any:
            raise TypeError("not me")

    found = Saliency(Stubborn().eval()).explain(images[:1], check="full")
    assert statuses(found, "weights") == {"unknown"}
    assert "not me" in the(found, "weights").reason[0]


# -- words ---------------------------------------------------------------------------------------------------


def test_reasons_come_most_serious_first() -> None:
    def warned(name: str, *status: Status) -> Check:
        return Check(name, f"{name}?", status, (1.0,) * len(status), (f"the {name} is bad",) * len(status))

    x = torch.ones(2, 1)
    checks = (
        warned("completeness", "warn", "warn"),
        warned("noise", "pass", "warn"),
        warned("training", "unknown", "warn"),
    )
    found = Explanation(x, x, torch.ones(2), ("0", "1"), "Saliency", evidence=checks)
    assert found[1].why_not_trust() == ("The training is bad.", "The noise is bad.", "The completeness is bad.")
    assert found[0].why_not_trust() == ("The completeness is bad.",)
    assert found.why_not_trust()[0] == "The training is bad (example 1, and 1 of 2 in all)."
    assert [c.name for c in by_weight(checks, 0)] == ["completeness", "noise", "training"]
    assert found.as_dict()["why_not_trust"] == list(found.why_not_trust())


def test_nothing_that_is_no_number_is_kept_or_passes() -> None:
    value = torch.tensor([float("nan"), float("inf"), 1.0])
    check = Check.of("x", "?", value, lambda v, i: ("pass", "fine"))
    assert check.value == (None, None, 1.0)
    assert check.status == ("unknown", "pass", "pass")


def test_everything_is_saved_and_shown(trained: nn.Module, images: Tensor, tmp_path: Path) -> None:
    data = (digits()[1].inputs[:50], digits()[1].labels[:50])
    found = IntegratedGradients(trained).explain(images[:2], target=[0, 0], check="full", data=data)
    loaded = Explanation.load(found.save(tmp_path / "it.safetensors"))
    assert loaded.evidence == found.evidence
    assert loaded.why_not_trust() == found.why_not_trust()
    json.dumps(found.as_dict(), allow_nan=False)
    shown = found._repr_html_()
    for check in found.evidence:
        assert check.question in shown


def test_levels_and_data_are_checked(trained: nn.Module, images: Tensor) -> None:
    with pytest.raises(TorchwhyError, match="check is 'free', 'basic' or 'full', not 'thorough'"):
        Saliency(trained).explain(images, check="thorough")  # type: ignore[arg-type]
    with pytest.raises(TorchwhyError, match="data= is looked at by check='full' alone"):
        Saliency(trained).explain(images, data=(images, torch.zeros(6)))
    for bad in (
        images,
        (images, torch.zeros(5, dtype=torch.long)),
        (images, torch.zeros(6)),
        (images[..., :5], [0] * 6),
    ):
        with pytest.raises(TorchwhyError, match="data= is a pair"):
            Saliency(trained).explain(images, check="full", data=bad)  # type: ignore[arg-type]


def _tensors(t: Tensor) -> Any:
    from torchwhy.core.tensors import Tensors

    return Tensors([t])
