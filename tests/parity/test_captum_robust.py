"""Attacks beside Captum's."""

from __future__ import annotations

import captum.robust as peer
import pytest
import torch
from torch import Tensor, nn

from torchwhy import robust


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4), nn.Softmax(1)).eval()


def logarithm(output: Tensor, target: Tensor) -> Tensor:
    return -output.log()[torch.arange(len(output)), target]


X = torch.linspace(-1, 1, 18).view(3, 6)
LABELS = torch.tensor([0, 3, 1])


@pytest.mark.parametrize("targeted", [False, True])
def test_fgsm(net, targeted):
    theirs = peer.FGSM(net, lower_bound=-0.9).perturb(X.clone().requires_grad_(), 0.2, LABELS, targeted=targeted)
    ours = robust.FGSM(net, logarithm, lower_bound=-0.9).perturb(X, 0.2, LABELS, targeted=targeted)
    torch.testing.assert_close(ours, theirs.detach())
    assert not torch.allclose(robust.FGSM(net, logarithm).perturb(X, 0.2, LABELS, targeted=not targeted), theirs)


@pytest.mark.filterwarnings("ignore:Input Tensor")
def test_pgd_in_the_box(net):
    theirs = peer.PGD(net, upper_bound=0.8).perturb(X.clone().requires_grad_(), 0.3, 0.07, 9, LABELS)
    ours = robust.PGD(net, logarithm, upper_bound=0.8).perturb(X, 0.3, 0.07, 9, LABELS)
    torch.testing.assert_close(ours, theirs.detach())


def test_the_smallest_argument(net):
    def shift(x: Tensor, by: float) -> Tensor:
        return x + by * torch.tensor([1.0, -1, 1, -1, 1, -1])

    options = {"arg_name": "by", "arg_min": 0.0, "arg_max": 20.0, "arg_step": 0.5}
    for i in range(3):
        row, label = X[i : i + 1], net(X)[i].argmax()
        for mode in ("linear", "binary"):
            made, by = peer.MinParamPerturbation(net, shift, mode=mode, **options).evaluate(row, target=label)
            our_made, our_by = robust.MinParamPerturbation(net, shift, mode=mode, **options).evaluate(row, target=label)
            assert our_by == by
            if by is not None:
                assert torch.equal(our_made, made)


def test_comparing_attacks(net):
    def right(output: Tensor, labels: Tensor) -> Tensor:
        return (output.argmax(1) == labels).float()

    found = []
    for kit in (peer, robust):
        compared = kit.AttackComparator(net, right)
        compared.add_attack(lambda x: -x, "negated")
        compared.add_attack(lambda x: x + 1, "shifted", num_attempts=2)
        results = [compared.evaluate(X, labels=net(X).argmax(1)), compared.evaluate(X[:2], labels=LABELS[:2])]
        found.append((results, compared.summary()))
    for theirs, ours in zip(found[0][0], found[1][0], strict=True):
        torch.testing.assert_close(ours, theirs)
    assert {k: v["mean"].item() for k, v in found[0][1].items()} == {
        k: v["mean"].item() for k, v in found[1][1].items()
    }
