"""The same numbers as Quantus where a metric looks at attributions and a mask alone."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import quantus
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from torchwhy import metrics
from torchwhy.metrics import Metric

PLAIN = {"abs": False, "normalise": False, "disable_warnings": True, "display_progressbar": False}


def maps() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(6, 1, 8, 8, generator=generator, dtype=torch.float64)
    mask = torch.zeros(6, 1, 8, 8, dtype=torch.bool)
    for i in range(6):
        mask[i, :, i % 3 : i % 3 + 3, 1 : 4 + i % 2] = True
    return values, mask


def theirs(metric: Any, values: Tensor, mask: Tensor | None) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = metric(
            model=nn.Identity(),
            x_batch=np.zeros(values.shape),
            y_batch=np.zeros(len(values), dtype=int),
            a_batch=values.numpy(),
            s_batch=None if mask is None else mask.numpy().astype(float),
            device="cpu",
        )
    return torch.tensor([float(v) for v in found], dtype=torch.float64)


@pytest.mark.parametrize(
    ("ours", "peer", "positive"),
    [
        (metrics.PointingGame(), quantus.PointingGame(**PLAIN), False),
        (metrics.AUC(), quantus.AUC(**PLAIN), False),
        (metrics.TopKIntersection(k=9), quantus.TopKIntersection(k=9, **PLAIN), False),
        (metrics.RelevanceRankAccuracy(), quantus.RelevanceRankAccuracy(**PLAIN), False),
        # Not the weighted one, where the value that theirs gives depends on how many examples there are.
        # Theirs divides by the sum of all attributions; where none is negative, that is the sum of the positive ones.
        (metrics.RelevanceMassAccuracy(), quantus.RelevanceMassAccuracy(**PLAIN), True),
        (metrics.AttributionLocalisation(), quantus.AttributionLocalisation(**PLAIN), True),
    ],
    ids=["pointing game", "AUC", "top k", "rank accuracy", "mass accuracy", "localisation"],
)
def test_localisation(ours: Metric, peer: Any, positive: bool) -> None:
    values, mask = maps()
    values = values.abs() if positive else values
    found = ours.score(values, mask=mask).value
    assert_close(found, theirs(peer, values, mask))
    assert not torch.equal(found, ours.score(values.flip(3), mask=mask).value)


@pytest.mark.parametrize(
    ("ours", "peer"),
    [
        (metrics.Sparseness(), quantus.Sparseness(**PLAIN | {"abs": True})),
        (metrics.Complexity(), quantus.Complexity(**PLAIN | {"abs": True})),
        (
            metrics.SupportSize(threshold=0.7, relative=False),
            quantus.EffectiveComplexity(eps=0.7, **PLAIN | {"abs": True}),
        ),
    ],
    ids=["Sparseness", "Complexity", "SupportSize"],
)
def test_complexity(ours: Metric, peer: Any) -> None:
    values, _ = maps()
    found = ours.score(values).value
    assert_close(found, theirs(peer, values, None))
    assert not torch.allclose(found, ours.score(values**2).value)
