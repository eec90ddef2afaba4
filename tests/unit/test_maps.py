"""Token grids, the layer that is found when none is given, and enlarging."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    ConvNextConfig,
    ConvNextForImageClassification,
    DeiTConfig,
    DeiTForImageClassificationWithTeacher,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersForImageClassification,
    SwinConfig,
    SwinForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

from torchwhy import AblationCAM, EigenCAM, GradCAM, HiResCAM, NoiseTunnel, ScoreCAM, Site, TorchwhyError
from torchwhy.core.tensors import Tensors
from torchwhy.engines.maps import Grid, enlarge, find_grid

SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "patch_size": 8,
    "num_labels": 4,
}
SWIN = {"patch_size": 2, "embed_dim": 8, "depths": [2, 2], "num_heads": [2, 2], "window_size": 4, "num_labels": 4}
CONVNEXT = {"patch_size": 2, "depths": [1, 1], "hidden_sizes": [8, 16], "num_stages": 2, "num_labels": 4}
SQUARE, OBLONG, ODD = (32, 32), (32, 64), (36, 68)
MODELS: dict[str, tuple[type[Any], type[Any], dict[str, Any]]] = {
    "vit": (ViTForImageClassification, ViTConfig, SMALL),
    "deit": (DeiTForImageClassificationWithTeacher, DeiTConfig, SMALL),
    "dinov2": (Dinov2WithRegistersForImageClassification, Dinov2WithRegistersConfig, SMALL),
    "swin": (SwinForImageClassification, SwinConfig, SWIN),
    "convnext": (ConvNextForImageClassification, ConvNextConfig, CONVNEXT),
}


def make(name: str, size: tuple[int, int]) -> nn.Module:
    model, config, options = MODELS[name]
    torch.manual_seed(0)
    # Dinov2 enlarges its positions by itself.
    return model(config(image_size=32 if name == "dinov2" else size, **options)).double().eval()


def images(size: tuple[int, int]) -> Tensor:
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def logits(output: Any) -> Tensor:
    return output.logits[:, 1]


# -- vision transformers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "size", "layer", "prefix", "grid"),
    [
        ("vit", SQUARE, "vit.layers.1.layernorm_before", 1, (4, 4)),
        ("vit", OBLONG, "vit.layers.1.layernorm_before", 1, (4, 8)),
        ("deit", SQUARE, "deit.layers.1.layernorm_before", 2, (4, 4)),
        ("dinov2", SQUARE, "dinov2_with_registers.layernorm", 5, (4, 4)),
        ("dinov2", OBLONG, "dinov2_with_registers.layernorm", 5, (4, 8)),
        ("swin", SQUARE, "swin.layernorm", 0, (8, 8)),
        ("swin", OBLONG, "swin.layernorm", 0, (8, 16)),
        ("swin", ODD, "swin.layernorm", 0, (9, 17)),
    ],
)
def test_tokens_are_folded_without_being_told(
    name: str, size: tuple[int, int], layer: str, prefix: int, grid: tuple[int, int]
) -> None:
    model, x = make(name, size), images(size)
    found = GradCAM(model).explain(x, target=logits, check="basic")
    assert found.at == layer
    assert found.values.shape == (2, 1, *grid)
    assert found.values.abs().amin((1, 2, 3)).sum() > 0
    assert found.provenance["grid"] == list(grid)
    assert found.provenance["tokens_in_front"] == prefix
    assert "faithfulness" in [c.name for c in found.evidence]
    # By hand, as with a reshape_transform.
    held: list[Tensor] = []

    def keep(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        held.append(output.detach().requires_grad_())
        return held[0]

    with model.get_submodule(layer).register_forward_hook(keep):
        (slope,) = torch.autograd.grad(logits(model(x)).sum(), held[0])
    a, g = (t[:, prefix:].reshape(2, *grid, -1) for t in (held[0].detach(), slope))
    torch.testing.assert_close(found.values[:, 0], (a * g.mean((1, 2), keepdim=True)).sum(-1))


def test_behind_the_last_block_of_a_vision_transformer_patches_have_no_gradient() -> None:
    model, x = make("vit", SQUARE), images(SQUARE)
    assert not GradCAM(model, at="vit.layernorm").attribute(x, target=logits).any()


def test_a_model_of_maps_stays_one() -> None:
    model, x = make("convnext", SQUARE), images(SQUARE)
    found = GradCAM(model).explain(x, target=logits)
    assert found.values.shape == (2, 1, 8, 8)
    assert "grid" not in found.provenance


@pytest.mark.parametrize("cam", [AblationCAM, EigenCAM, HiResCAM, ScoreCAM])
def test_every_weight_goes_with_tokens(cam: type[GradCAM]) -> None:
    model, x = make("vit", OBLONG), images(OBLONG)
    found = cam(model, upsample="bilinear").attribute(x, target=logits)
    assert found.shape == (2, 1, 32, 64)
    assert found.any()


def test_ablation_takes_a_channel_from_all_tokens() -> None:
    model, x = make("vit", SQUARE), images(SQUARE)
    at = "vit.layers.1.layernorm_before"
    held: list[Tensor] = []
    with model.get_submodule(at).register_forward_hook(lambda m, a, o: held.append(o.detach())):
        score = logits(model(x)).detach()
    falls = []
    for c in range(16):
        without = held[0].clone()
        without[..., c] = 0
        with model.get_submodule(at).register_forward_hook(lambda m, a, o, without=without: without):
            falls.append(score - logits(model(x)).detach())
    weights = torch.stack(falls, 1) / score.abs()[:, None]
    known = (held[0][:, 1:] * weights[:, None]).sum(-1).view(2, 1, 4, 4)
    torch.testing.assert_close(AblationCAM(model, at=at).attribute(x, target=logits), known)


def test_noise_goes_around_tokens() -> None:
    model, x = make("vit", SQUARE), images(SQUARE)
    found = NoiseTunnel(GradCAM(model), nt_samples=2, stdevs=0.1).explain(x, target=logits, check="basic")
    assert found.values.shape == (2, 1, 4, 4)


# -- what the user knows -----------------------------------------------------------------------------------------


def test_a_grid_that_is_given_is_taken() -> None:
    model, x = make("vit", OBLONG), images(OBLONG)
    plain = GradCAM(model).attribute(x, target=logits)
    found = GradCAM(model, grid=(8, 4)).attribute(x, target=logits)
    assert torch.equal(found.flatten(), plain.flatten())
    assert found.shape == (2, 1, 8, 4)
    same = GradCAM(model, prefix=1).attribute(x, target=logits)
    assert torch.equal(same, plain)
    channels = GradCAM(model, at="vit.layers.1.layernorm_before", grid=()).attribute(x, target=logits)
    assert channels.shape == (2, 1, 16)
    for options in ({"grid": (6, 6)}, {"grid": (4, 8), "prefix": 2}):
        with pytest.raises(TorchwhyError, match="33 tokens do not lie on a grid"):
            GradCAM(model, at="vit.layers.1.layernorm_before", **options).attribute(x, target=logits)


class Pooled(nn.Module):
    """Tokens without patches that could be known: (B, 3, H, W) to ``count`` tokens of 5 channels."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count
        self.mix, self.head = nn.Linear(3, 5), nn.Linear(5, 2)
        self.drop = nn.Dropout()

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.mix(x.flatten(2)[..., : self.count].mT)
        return self.head(self.drop(tokens).mean(1))


@pytest.mark.parametrize(
    ("count", "size", "grid"),
    [(16, (8, 8), (4, 4)), (17, (8, 8), (4, 4)), (6, (8, 8), (2, 2)), (8, (8, 16), (2, 4)), (37, (8, 16), (4, 8))],
)
def test_the_proportions_of_the_image_tell_the_grid(count: int, size: tuple[int, int], grid: tuple[int, int]) -> None:
    x = torch.rand(2, 3, *size)
    assert GradCAM(Pooled(count), at="drop").attribute(x, target=0).shape == (2, 1, *grid)


@pytest.mark.parametrize(("count", "size"), [(15, (8, 8)), (9, (8, 8)), (24, (8, 16))])
def test_tokens_whose_grid_is_not_clear_are_refused(count: int, size: tuple[int, int]) -> None:
    x = torch.rand(2, 3, *size)
    if count == 15:  # 9 and 6 others are no usual number
        with pytest.raises(TorchwhyError, match=r"15 tokens.*8 x 8 is not clear: give grid=\(rows, columns\)"):
            GradCAM(Pooled(count), at="drop").attribute(x, target=0)
        assert GradCAM(Pooled(count), at="drop", grid=(3, 5)).attribute(x, target=0).shape == (2, 1, 3, 5)
        return
    with pytest.raises(TorchwhyError, match="is not clear"):  # 9 may be 3 x 3, or 2 x 2 behind 5 others
        GradCAM(Pooled(count), at="drop").attribute(x, target=0)


def test_channels_last_of_four_dimensions() -> None:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.head = nn.Conv2d(3, 6, 2, 2), nn.LayerNorm(6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.norm(self.conv(x).permute(0, 2, 3, 1)).mean((1, 2)))

    model, x = Last(), torch.rand(2, 3, 8, 4)
    found = GradCAM(model).explain(x, target=0)
    assert found.at == "norm"
    assert found.values.shape == (2, 1, 4, 2)
    known = (model.norm(model.conv(x).permute(0, 2, 3, 1)) * model.head.weight[0] / 8).sum(-1)
    torch.testing.assert_close(found.values[:, 0], known.detach())


def test_sequences_without_an_image_keep_their_channels_in_front() -> None:
    model = nn.Sequential(nn.Conv1d(2, 4, 3), nn.LayerNorm(6), nn.Flatten(), nn.Linear(24, 2))
    assert GradCAM(model, at="1").attribute(torch.rand(3, 2, 8), target=0).shape == (3, 1, 6)


def test_a_function_does_not_show_what_its_layers_are() -> None:
    model, x = Pooled(16), torch.rand(2, 3, 8, 8)
    with pytest.raises(TorchwhyError, match=r"the model is a function.*give grid="):
        GradCAM(lambda t: model(t), at=model.drop).attribute(x, target=0)  # noqa: PLW0108
    known = GradCAM(model, at="drop").attribute(x, target=0)
    told = GradCAM(lambda t: model(t), at=model.drop, grid=(4, 4)).attribute(x, target=0)  # noqa: PLW0108
    assert torch.equal(told, known)


# -- the layer ---------------------------------------------------------------------------------------------------


def test_a_layer_that_leads_nowhere_is_passed_over() -> None:
    class Aside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(1, 2, 3), nn.Conv2d(2, 3, 3)

        def forward(self, x: Tensor) -> Tensor:
            y = self.a(x)
            self.b(y)
            return y.mean((2, 3))

    assert GradCAM(Aside()).explain(torch.rand(1, 1, 8, 8)).at == "a"


def test_a_layer_is_found_where_nothing_has_a_derivative() -> None:
    class Numpy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(1, 2, 3), nn.Conv2d(2, 3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return torch.from_numpy(self.b(self.a(x)).numpy().mean((2, 3)))

    assert EigenCAM(Numpy()).explain(torch.rand(1, 1, 8, 8)).at == "b"


# -- forms -------------------------------------------------------------------------------------------------------


def test_fold_and_unfold() -> None:
    grid = Grid(last=True, prefix=2, size=(2, 3))
    tokens = torch.arange(2 * 8 * 4.0).view(2, 8, 4)
    maps = grid.fold(tokens)
    assert maps.shape == (2, 4, 2, 3)
    assert torch.equal(maps[1, 3, 1, 2], tokens[1, 7, 3])
    back = grid.unfold(maps[:, :1])
    assert torch.equal(back[:, 2:, 0], tokens[:, 2:, 0])
    assert torch.equal(back[:, :2, 0], maps[:, 0].flatten(1).amin(1, keepdim=True).expand(2, 2))
    assert torch.equal(Grid().fold(tokens), tokens)
    assert torch.equal(Grid().unfold(tokens), tokens)


def test_no_grid_without_an_image() -> None:
    with pytest.raises(TorchwhyError, match="no image"):
        find_grid(None, torch.zeros(2, 17, 4), Tensors([torch.zeros(2, 30)]), prefix=1)


def test_enlarge() -> None:
    maps = torch.tensor([[[[1.0, 3]]]])
    assert enlarge(maps, (1, 4), "bilinear").tolist() == [[[[1, 1.5, 2.5, 3]]]]
    assert enlarge(maps, (2, 4), "nearest").tolist() == [[[[1, 1, 3, 3]] * 2]]
    assert enlarge(torch.tensor([[2.0]]), (2, 2), "bilinear").tolist() == [[[[2, 2], [2, 2]]]]
    with pytest.raises(TorchwhyError, match="cannot be enlarged"):
        enlarge(maps, (4,), "nearest")


def test_a_site_within_a_transformer() -> None:
    model, x = make("vit", SQUARE), images(SQUARE)
    at = Site("vit.layers.1.attention.q_proj", input=True)
    same = GradCAM(model, at="vit.layers.1.layernorm_before").attribute(x, target=logits)
    assert GradCAM(model, at=at).attribute(x, target=logits).shape == same.shape
