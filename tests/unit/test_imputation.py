"""Imputed pixels against the dense system they solve."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from torchwhy.engines import imputation
from torchwhy.engines.imputation import TRACE, imputed


def dense(image: Tensor, known: Tensor) -> Tensor:
    """The same by a matrix, pixel by pixel."""
    height, width = image.shape
    n = height * width
    weights = torch.zeros(n, n, dtype=torch.float64)
    for i in range(n):
        for j in range(n):
            rows, columns = abs(i // width - j // width), abs(i % width - j % width)
            weights[i, j] = {(0, 1): 1 / 6, (1, 0): 1 / 6, (1, 1): 1 / 12}.get((rows, columns), 0.0)
    system = torch.diag(weights.sum(1) + TRACE) - weights
    right = torch.full((n,), TRACE * image.mean().item(), dtype=torch.float64)
    there = known.flatten()
    system[there] = torch.eye(n, dtype=torch.float64)[there]
    right[there] = image.flatten()[there]
    return torch.linalg.solve(system, right).view(height, width)


@pytest.mark.parametrize("share", [0.1, 0.6, 0.97])
@pytest.mark.parametrize("shape", [(7, 9), (1, 8), (6, 1)])
def test_the_system_is_solved(share, shape):
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(5, *shape, generator=generator, dtype=torch.float64)
    known = torch.rand(5, *shape, generator=generator) >= share
    known[:, 0, 0] = True
    found = imputed(images, known)
    torch.testing.assert_close(found, torch.stack(list(map(dense, images, known))), rtol=1e-7, atol=1e-8)
    torch.testing.assert_close(imputed(images.float(), known), found.float(), rtol=1e-4, atol=1e-4)
    assert torch.equal(found[known], images[known])
    if not known.all():
        assert not torch.allclose(found, images)


def test_what_is_linear_is_found_again():
    y, x = torch.meshgrid(*[torch.arange(12, dtype=torch.float64)] * 2, indexing="ij")
    plane = (2 * y - x + 3)[None]
    known = torch.ones_like(plane, dtype=torch.bool)
    known[0, 2:10, 3:9] = False
    torch.testing.assert_close(imputed(plane, known), plane, rtol=1e-7, atol=1e-6)


def test_where_nothing_is_known_all_is_the_mean():
    images = torch.rand(2, 5, 5, dtype=torch.float64)
    found = imputed(images, torch.zeros(2, 5, 5, dtype=torch.bool))
    torch.testing.assert_close(found, images.mean((1, 2), keepdim=True).expand_as(images))


def test_no_image_depends_on_the_others():
    images = torch.rand(6, 10, 10, generator=torch.Generator().manual_seed(1))
    known = torch.rand(6, 10, 10, generator=torch.Generator().manual_seed(2)) > 0.7
    together = imputed(100 * images, known)
    alone = torch.cat([imputed(100 * images[i : i + 1], known[i : i + 1]) for i in range(6)])
    torch.testing.assert_close(together, alone, rtol=1e-6, atol=1e-5)


def test_how_many_are_solved_at_once_does_not_matter(monkeypatch):
    images = torch.rand(5, 6, 7, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    known = torch.rand(5, 6, 7, generator=torch.Generator().manual_seed(4)) > 0.6
    together = imputed(images, known)
    for at_once in (1, 2 * 42):
        monkeypatch.setattr(imputation, "AT_ONCE", at_once)
        torch.testing.assert_close(imputed(images, known), together)
    assert not torch.allclose(together, images)
