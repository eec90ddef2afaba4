"""Sensitivity beside Captum's, on the same changed copies."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from torchwhy import Saliency, metrics
from torchwhy.core.tensors import Tensors
from torchwhy.engines.noise import uniform

captum_attr = pytest.importorskip("captum.attr")
captum_metrics = pytest.importorskip("captum.metrics")


@pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already require gradients")
def test_the_largest_relative_distance_is_captums() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    x = torch.randn(4, 6, dtype=torch.float64)
    points = uniform(0.1, Tensors([x]), 0)(slice(0, 4), slice(0, 12)).parts[0]

    def copies(inputs: Tensor) -> Tensor:
        assert len(inputs) == 4 * 12  # Captum repeats each example
        return points.transpose(0, 1).flatten(0, 1)

    theirs = captum_metrics.sensitivity_max(
        captum_attr.Saliency(model).attribute, x, copies, n_perturb_samples=12, target=1
    )
    ours = metrics.MaxSensitivity(radius=0.1, n_samples=12, relative=True)
    assert_close(ours.score(Saliency(model), x, target=1).value, theirs)
    other = ours.score(Saliency(model), x, target=1, seed=1).value
    assert not torch.allclose(other, theirs)
