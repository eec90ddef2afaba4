"""Class activation maps: every choice of weights written out by hand, layers that are found, and maps enlarged."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from sklearn.decomposition import KernelPCA
from torch import Tensor, nn

from torchwhy import (
    KPCACAM,
    AblationCAM,
    EigenCAM,
    EigenGradCAM,
    FinerCAM,
    GradCAM,
    GradCAMElementWise,
    GradCAMPlusPlus,
    HiResCAM,
    LayerCAM,
    Method,
    RandomCAM,
    ScoreCAM,
    ShapleyCAM,
    TorchwhyError,
    XGradCAM,
    registry,
)
from torchwhy.engines.noise import draws

WIDE = {"dtype": torch.float64}
# Two channels of 2 x 2 activations, none of them negative, and the gradient that the head makes of its weights.
A = torch.tensor([[[[1.0, 2], [0, 3]], [[4, 0], [1, 1]]]], **WIDE)
G = torch.tensor([[[[1.0, -2], [3, 0.5]], [[-1, 2], [0.5, 0.25]]]], **WIDE)
CAMS = [name for name, cls in registry.methods().items() if cls.info.family == "cam" and cls.info.form == "map"]


class Held(nn.Module):
    """A layer that holds its input, and a head that weighs every unit: the gradient is known."""

    def __init__(self, weights: Tensor = G) -> None:
        super().__init__()
        self.layer = nn.Identity()
        self.weights = weights

    def forward(self, x: Tensor) -> Tensor:
        return (self.layer(x) * self.weights).flatten(1).sum(1)


def held(make: type[Method], x: Tensor = A, weights: Tensor = G, **options: Any) -> Tensor:
    return make(Held(weights), at="layer", **options).attribute(x)


def same(found: Tensor, known: Any, tolerance: float = 1e-12) -> None:
    known = torch.as_tensor(known, dtype=found.dtype)
    torch.testing.assert_close(found, known.view_as(found), rtol=tolerance, atol=tolerance)


# -- every formula by hand ------------------------------------------------------------------------------------


def by_weights(first: float, second: float) -> Tensor:
    return first * A[:, :1] + second * A[:, 1:]


def test_grad_cam() -> None:
    same(held(GradCAM), by_weights(2.5 / 4, 1.75 / 4))


def test_grad_cam_plus_plus() -> None:
    # Sums of activations 6 and 6; the gradients that are positive are 1, 3, 0.5 and 2, 0.5, 0.25.
    first = 1 / (2 + 6) + 3 / (2 + 18) + 0.5 / (2 + 3)
    second = 2 / (2 + 12) + 0.5 / (2 + 3) + 0.25 / (2 + 1.5)
    same(held(GradCAMPlusPlus), by_weights(first, second))
    alpha = G**2 / (2 * G**2 + A.sum((2, 3), keepdim=True) * G**3)  # as in the paper
    same(held(GradCAMPlusPlus), ((alpha * G.relu()).sum((2, 3), keepdim=True) * A).sum(1))


def test_grad_cam_plus_plus_of_tiny_gradients_is_that_of_the_paper() -> None:
    # For gradients close to 0 the weights are half of their sum: nothing is added to the denominator.
    same(held(GradCAMPlusPlus, weights=G * 1e-9) * 1e9, by_weights(4.5 / 2, 2.75 / 2), 1e-6)


def test_x_grad_cam() -> None:
    same(held(XGradCAM), by_weights((1 - 4 + 0 + 1.5) / 6, (-4 + 0 + 0.5 + 0.25) / 6))
    same(held(XGradCAM).sum(), (A * G).sum())


def test_x_grad_cam_gives_an_empty_channel_no_weight_and_refuses_one_that_cancels_out() -> None:
    empty = A * torch.tensor([1.0, 0], **WIDE).view(1, 2, 1, 1)
    same(held(XGradCAM, empty), A[:, :1] * (1 - 4 + 1.5) / 6)
    cancels = torch.tensor([[[[1.0, -1]]]], **WIDE)
    with pytest.raises(TorchwhyError, match=r"channel 0 add up to 0 for example 0.*GradCAM"):
        held(XGradCAM, cancels, torch.ones(1, 1, 1, 2, **WIDE))


def test_hi_res_cam() -> None:
    same(held(HiResCAM), [1 * 1 + 4 * -1, 2 * -2 + 0, 0 + 0.5, 1.5 + 0.25])


def test_layer_cam() -> None:
    same(held(LayerCAM), [1, 0, 0.5, 1.5 + 0.25])


def test_element_wise() -> None:
    same(held(GradCAMElementWise), [1, 0, 0.5, 1.5 + 0.25])
    # Unlike Layer-CAM, a negative activation with a negative gradient speaks for the target.
    x, g = torch.tensor([[[[-2.0, 3]]]], **WIDE), torch.tensor([[[[-1.0, 1]]]], **WIDE)
    same(held(GradCAMElementWise, x, g), [2, 3])
    same(held(LayerCAM, x, g), [0, 3])


def test_shapley_cam() -> None:
    class Squared(Held):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) ** 2

    s = (A * G).sum()  # the gradient is 2 s G and the Hessian times A is 2 s G too
    known = s * G.mean((2, 3), keepdim=True)
    same(ShapleyCAM(Squared(), at="layer").attribute(A), (known * A).sum(1))
    assert not torch.allclose(GradCAM(Squared(), at="layer").attribute(A), (known * A).sum(1))
    same(held(ShapleyCAM), held(GradCAM))  # without curvature


def test_shapley_cam_of_many_is_that_of_each() -> None:
    model = nn.Sequential(nn.Conv2d(1, 3, 2), nn.Tanh(), nn.Flatten(), nn.Linear(27, 2), nn.Tanh()).double()
    x = torch.randn(20, 1, 4, 4, **WIDE)
    whole = ShapleyCAM(model, at="0").attribute(x, target=0)
    same(ShapleyCAM(model, at="0", batch_size=3).attribute(x, target=0), whole)
    for i in (0, 19):
        same(ShapleyCAM(model, at="0").attribute(x[i : i + 1], target=0), whole[i : i + 1])
    found = ShapleyCAM(model, at="0").explain(x[:2], target=0)
    assert (found.provenance["forward_rows"], found.provenance["backward_rows"]) == (4, 4)


def test_shapley_cam_of_several_layers_is_that_of_each() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 3, 2), nn.Tanh(), nn.Conv2d(3, 2, 2), nn.Flatten(), nn.Linear(8, 2), nn.Tanh()
    ).double()
    x = torch.randn(3, 1, 4, 4, **WIDE)
    both = ShapleyCAM(model, at=["1", "2"]).attribute(x, target=0)
    for at, found in zip(("1", "2"), both, strict=True):
        same(found, ShapleyCAM(model, at=at).attribute(x, target=0))
    flat = nn.Sequential(nn.Conv2d(1, 3, 2), nn.ReLU(), nn.Conv2d(3, 2, 2), nn.Flatten(), nn.Linear(8, 2)).double()
    straight = ShapleyCAM(flat, at=["1", "2"]).attribute(x, target=0)  # no layer has a curvature behind it
    for at, found in zip(("1", "2"), straight, strict=True):
        same(found, GradCAM(flat, at=at).attribute(x, target=0))


def test_shapley_cam_behind_attention() -> None:
    class Attends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            rows = self.layer(x).flatten(2).mT[:, None]
            return nn.functional.scaled_dot_product_attention(rows, rows, rows).flatten(1)

    def by_hand(x: Tensor) -> Tensor:
        rows = x.flatten(2).mT
        return (((rows @ rows.mT) / rows.shape[2] ** 0.5).softmax(2) @ rows).flatten(1)[:, 0].sum()

    slope = torch.autograd.functional.jacobian(by_hand, A)
    bent = torch.autograd.functional.hvp(by_hand, A, A)[1]
    known = ((slope - bent / 2).mean((2, 3), keepdim=True) * A).sum(1)
    same(ShapleyCAM(Attends(), at="layer").attribute(A, target=0), known)


class Classes(nn.Module):
    """Four classes of a layer of two channels: the means, mixed."""

    MIX = torch.tensor([[1.0, 0], [0.5, 0.5], [0, 1], [-1, 2]], **WIDE)

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).mean((2, 3)) @ self.MIX.T


@pytest.mark.parametrize("n", [1, 2, 3, 9])
def test_finer_cam(n: int) -> None:
    y = A.mean((2, 3), keepdim=False).requires_grad_()
    out = (y @ Classes.MIX.T)[0]
    order = [i for i in (out - out[0]).abs().argsort(stable=True).tolist() if i != 0][:n]
    near = out[order]
    score = out[0] - 0.6 * (near.softmax(0) * near).sum()
    (g,) = torch.autograd.grad(score, y)
    found = FinerCAM(Classes(), at="layer", alpha=0.6, n_classes=n).attribute(A, target=0)
    same(found, (g[..., None, None] / 4 * A).sum(1))
    assert not torch.allclose(found, GradCAM(Classes(), at="layer").attribute(A, target=0))


def test_finer_cam_of_all_ways_to_name_a_target() -> None:
    plain = FinerCAM(Classes(), at="layer").attribute(A, target=2)
    same(FinerCAM(Classes(), at="layer").attribute(A, target=lambda y: y[:, 2]), plain)
    same(FinerCAM(Classes(), at="layer").attribute(A.repeat(2, 1, 1, 1), target=[2, 1])[:1], plain)
    with pytest.raises(TorchwhyError, match="one number per example"):
        held(FinerCAM)


def principal(t: Tensor) -> Tensor:
    """The first eigenvector of the channels' second moments, applied; computed by power iteration."""
    rows = t.flatten(2)[0].T
    v = torch.ones(rows.shape[1], **WIDE)
    for _ in range(500):
        v = rows.T @ (rows @ v)
        v = v / v.norm()
    return rows @ v


def test_eigen_cam() -> None:
    found = held(EigenCAM)
    known = principal(A)
    same(found, known * known.sum().sign(), 1e-9)
    assert (found >= 0).all()
    assert found.sum() > 0
    same(held(EigenCAM, weights=-G), found)  # nothing of the target


def test_eigen_cam_centred() -> None:
    centred = A - A.mean((2, 3), keepdim=True)
    known = principal(centred)
    known = known * (known * A.sum(1).flatten()).sum().sign()
    found = held(EigenCAM, center=True, relu_attributions=False)
    same(found, known, 1e-9)
    assert not torch.allclose(found, held(EigenCAM, relu_attributions=False))


def test_eigen_grad_cam() -> None:
    known = principal(A * G)
    same(held(EigenGradCAM), known * (known * (A * G).sum(1).flatten()).sum().sign(), 1e-9)
    same(held(EigenGradCAM, weights=-G), -held(EigenGradCAM))


@pytest.mark.parametrize("kernel", ["sigmoid", "rbf", "poly", "linear"])
@pytest.mark.parametrize("gamma", [None, 0.3])
def test_kernel_pca(kernel: str, gamma: float | None) -> None:
    x = torch.rand(2, 3, 4, 5, **WIDE)
    found = KPCACAM(Held(x), at="layer", kernel=kernel, gamma=gamma, relu_attributions=False).attribute(x)
    for i in range(2):
        rows = x[i].flatten(1).T.numpy()
        known = KernelPCA(1, kernel=kernel, gamma=gamma).fit_transform(rows - rows.mean(0))
        known = torch.from_numpy(known[:, 0]).view(4, 5)
        same(found[i, 0], known * (known * x[i].abs().sum(0)).sum().sign(), 1e-8)


def test_kernel_pca_with_a_linear_kernel_is_eigen_cam_centred() -> None:
    x = torch.rand(2, 3, 4, 5, **WIDE)
    linear = KPCACAM(Held(x), at="layer", kernel="linear").attribute(x)
    same(linear, EigenCAM(Held(x), at="layer", center=True).attribute(x), 1e-9)
    assert not torch.allclose(linear, KPCACAM(Held(x), at="layer").attribute(x))


def test_random_cam() -> None:
    w = 2 * torch.rand(2, generator=draws(7, 60)) - 1
    same(held(RandomCAM, seed=7), by_weights(*w.double().tolist()))
    assert not torch.allclose(held(RandomCAM, seed=7), held(RandomCAM, seed=8))


def test_ablation_cam() -> None:
    y = (A * G).sum()
    falls = [(A * G)[:, c].sum() / y.abs() for c in (0, 1)]
    same(held(AblationCAM), by_weights(*falls))
    same(held(AblationCAM, weights=-G), -by_weights(*falls))  # the paper's division would turn it round


def test_ablation_cam_takes_a_baseline_at_the_layer() -> None:
    y = (A * G).sum()
    falls = [((A - 1) * G)[:, c].sum() / y.abs() for c in (0, 1)]
    found = AblationCAM(Held(), at="layer").attribute(A, layer_baselines=1.0)
    same(found, by_weights(*falls))


def test_ablation_cam_has_no_share_of_a_score_of_zero() -> None:
    with pytest.raises(TorchwhyError, match=r"score of example 0 is 0.*GradCAM"):
        held(AblationCAM, weights=torch.zeros_like(G))


class Shown(nn.Module):
    """A layer of half the resolution: a channel for the upper and one for the lower half, one the same everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        maps = x.new_tensor([[[3.0, 3], [1, 1]], [[0, 0], [2, 2]], [[5, 5], [5, 5]]]).expand(len(x), -1, -1, -1)
        return x.sum((1, 2, 3)) + 0 * self.layer(maps).sum((1, 2, 3))


def test_score_cam() -> None:
    x = torch.arange(1.0, 9, **WIDE).view(1, 1, 4, 2) / 10
    ramp = torch.tensor([1, 0.75, 0.25, 0], **WIDE)  # half a resolution more, corners not aligned
    scores = torch.stack([(ramp * x[0, 0].sum(1)).sum(), (ramp.flip(0) * x[0, 0].sum(1)).sum(), torch.tensor(0.0)])
    w = scores.softmax(0)
    maps = torch.tensor([[[3.0, 3], [1, 1]], [[0, 0], [2, 2]], [[5, 5], [5, 5]]], **WIDE)
    found = ScoreCAM(Shown(), at="layer").attribute(x)
    same(found, (w.view(3, 1, 1) * maps).sum(0))
    # A baseline in place of zeros is seen where the mask is not.
    base = 0.5
    scores = torch.stack(
        [
            (ramp[:, None] * (x[0, 0] - base)).sum() + 8 * base,
            (ramp.flip(0)[:, None] * (x[0, 0] - base)).sum() + 8 * base,
            torch.tensor(8 * base),
        ]
    )
    same(ScoreCAM(Shown(), at="layer").attribute(x, base), (scores.softmax(0).view(3, 1, 1) * maps).sum(0))
    assert not torch.allclose(ScoreCAM(Shown(), at="layer").attribute(x, base), found)


def test_score_cam_costs_a_row_for_each_channel() -> None:
    found = ScoreCAM(Shown(), at="layer").explain(torch.rand(2, 1, 4, 2))
    assert found.provenance["forward_rows"] == 2 + 3 * 2


def test_score_cam_masks_the_inputs_that_have_the_places_of_the_map() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Identity()

        def forward(self, image: Tensor, table: Tensor) -> Tensor:
            return self.layer(image).sum((1, 2, 3)) * table.sum(1)

    image, table = torch.rand(2, 2, 3, 3, **WIDE), torch.rand(2, 4, **WIDE)
    found = ScoreCAM(Two(), at="layer").attribute((image, table))
    for i in range(2):
        masks = torch.stack([(c - c.min()) / (c.max() - c.min()) for c in image[i]])
        scores = (masks[:, None] * image[i]).sum((1, 2, 3)) * table[i].sum()
        same(found[i], (scores.softmax(0)[:, None, None] * image[i]).sum(0))
    with pytest.raises(TorchwhyError, match="no input"):
        ScoreCAM(nn.Sequential(nn.Unflatten(1, (1, 2, 2)), nn.Conv2d(1, 2, 1), nn.Flatten()), at="1").attribute(
            torch.rand(2, 4), target=0
        )


# -- options --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CAMS)
def test_the_positive_part_is_what_is_left(name: str) -> None:
    make, alone = registry.lookup(name), {"alpha": 0} if name == "FinerCAM" else {}
    signed = held(make, relu_attributions=False, **alone)
    same(held(make, relu_attributions=True, **alone), signed.relu())


@pytest.mark.parametrize("name", CAMS)
@pytest.mark.parametrize("how", ["bilinear", "nearest"])
def test_a_map_is_enlarged_as_asked_and_on_record(name: str, how: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 3 * 5, 2)).double()
    x = torch.randn(2, 3, 8, 12, **WIDE)
    cam = registry.lookup(name)(model, at="1")
    coarse = cam.attribute(x, target=0)
    found = cam.explain(x, target=0, upsample=how, check="basic")
    mode = {"nearest": "nearest-exact"}.get(how, how)
    same(found.values, nn.functional.interpolate(coarse, (8, 12), mode=mode))
    assert coarse.shape == (2, 1, 3, 5)
    assert found.options["upsample"] == how
    assert "faithfulness" in [c.name for c in found.evidence]
    assert found.plot().subfigs


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"upsample": "bicubic"}, "upsample is one of 'bilinear', 'nearest'"),
        ({"grid": (2, 0)}, "grid is"),
        ({"grid": 4}, "grid is"),
        ({"prefix": -1}, "prefix counts"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], told: str) -> None:
    with pytest.raises(TorchwhyError, match=told):
        held(GradCAM, **options)


@pytest.mark.parametrize(
    ("make", "options", "told"),
    [
        (FinerCAM, {"alpha": -1.0}, "alpha"),
        (FinerCAM, {"n_classes": 0}, "n_classes"),
        (KPCACAM, {"kernel": "cosine"}, "kernel"),
        (KPCACAM, {"gamma": 0}, "gamma"),
    ],
)
def test_options_of_one_method_that_make_no_sense(make: type[Method], options: dict[str, Any], told: str) -> None:
    with pytest.raises(TorchwhyError, match=told):
        held(make, **options)


@pytest.mark.parametrize("name", sorted({*CAMS} - {"AblationCAM"}))  # which would take both away together
def test_several_layers_give_a_map_each(name: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(27, 3))
    found = registry.lookup(name)(model, at=["1", "2"]).attribute(torch.rand(2, 1, 7, 7), target=0)
    assert [f.shape for f in found] == [(2, 1, 5, 5), (2, 1, 3, 3)]


@pytest.mark.parametrize("make", [GradCAM, EigenCAM, ScoreCAM, AblationCAM])
@pytest.mark.parametrize("dims", [1, 3])
def test_maps_of_one_and_three_dimensions(make: type[Method], dims: int) -> None:
    conv: Callable[..., nn.Module] = {1: nn.Conv1d, 3: nn.Conv3d}[dims]
    model = nn.Sequential(conv(2, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 4**dims, 2)).double()
    x = torch.randn(2, 2, *[5] * dims, **WIDE)
    assert make(model, at="1").attribute(x, target=0).shape == (2, 1, *[4] * dims)
    assert make(model, at="1", upsample="bilinear").attribute(x, target=0).shape == (2, 1, *[5] * dims)


def test_curvature_is_finite_where_a_weight_is_not_used() -> None:
    assert math.isfinite(held(ShapleyCAM, weights=torch.zeros_like(G)).sum().item())
