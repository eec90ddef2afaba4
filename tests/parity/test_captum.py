"""The same numbers as Captum 0.9 in float32, and other numbers where an option differs.

Tolerances are relative to the largest value of an attribution, since its small values are sums of large ones
that cancel: 1e-5 is a hundred float32 roundings. Both run the same operations in passes of different
sizes, so that nothing is bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import torchwhy as why
from torchwhy import Site

captum = pytest.importorskip("captum.attr")

# Captum sets requires_grad on the inputs it is given, and says so each time.
pytestmark = pytest.mark.filterwarnings("ignore:Input Tensor .* did not already require gradients:UserWarning")


def parts(value: Any) -> list[Tensor]:
    return [t.detach() for t in (value if isinstance(value, tuple) else (value,))]


def apart(ours: Any, theirs: Any) -> float:
    """The largest difference as a share of the largest value."""
    a, b = parts(ours), parts(theirs)
    assert isinstance(ours, tuple) == isinstance(theirs, tuple)
    assert [t.shape for t in a] == [t.shape for t in b]
    largest = max(t.abs().max().item() for t in b)
    assert largest > 0
    return max((x - y).abs().max().item() for x, y in zip(a, b, strict=True)) / largest


def agree(ours: Any, theirs: Any, but_not: Any, tolerance: float = 1e-5) -> None:
    """``ours`` is ``theirs``, and ``but_not``, with one option changed, is something else by far."""
    assert apart(ours, theirs) < tolerance
    assert apart(but_not, theirs) > 100 * tolerance


TARGETS: dict[str, Any] = {
    "int": 3,
    "list": [3, 0, 2, 1],
    "tensor": torch.tensor([3, 0, 2, 1]),
    "tensor of one": torch.tensor([3]),
    "tuple": (3,),
    "list of tuples": [(3,), (0,), (2,), (1,)],
}

# -- gradients --------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
@pytest.mark.parametrize("magnitude", [True, False])
def test_saliency(cnn: nn.Module, digits: Tensor, target: Any, magnitude: bool) -> None:
    theirs = captum.Saliency(cnn).attribute(digits, target=target, abs=magnitude)
    saliency = why.Saliency(cnn, abs=magnitude)
    agree(saliency.attribute(digits, target=target), theirs, saliency.attribute(digits, target=5))
    assert apart(saliency.attribute(digits, target=target, abs=not magnitude), theirs) > 0.1


def test_saliency_of_a_tuple_with_further_arguments(two: nn.Module, pair: tuple[Tensor, Tensor], gate: Tensor) -> None:
    theirs = captum.Saliency(two).attribute(pair, target=2, abs=False, additional_forward_args=(gate, 3.0))
    saliency = why.Saliency(two, abs=False)
    ours = saliency.attribute(pair, target=2, additional_forward_args=(gate, 3.0))
    agree(ours, theirs, saliency.attribute(pair, target=2, additional_forward_args=(None, 3.0)))


@pytest.mark.parametrize("target", [(1, 2), [(1, 2), (0, 0), (2, 1), (1, 0)]], ids=["tuple", "list of tuples"])
def test_targets_of_an_output_with_several_dimensions(cnn: nn.Module, digits: Tensor, target: Any) -> None:
    def grid(x: Tensor) -> Tensor:
        return cnn(x)[:, :9].view(-1, 3, 3)

    theirs = captum.IntegratedGradients(grid).attribute(digits, target=target, n_steps=10)
    ig = why.IntegratedGradients(grid, n_steps=10)
    agree(ig.attribute(digits, target=target), theirs, ig.attribute(digits, target=(2, 2)))


def test_input_x_gradient(
    cnn: nn.Module, digits: Tensor, two: nn.Module, pair: tuple[Tensor, Tensor], gate: Tensor
) -> None:
    theirs = captum.InputXGradient(cnn).attribute(digits, target=3)
    agree(
        why.InputXGradient(cnn).attribute(digits, target=3),
        theirs,
        why.Saliency(cnn, abs=False).attribute(digits, target=3),
    )
    theirs = captum.InputXGradient(two).attribute(pair, target=1, additional_forward_args=gate)
    ours = why.InputXGradient(two).attribute(pair, target=1, additional_forward_args=gate)
    agree(ours, theirs, why.InputXGradient(two).attribute(pair, target=1))


def test_gradients_through_residual_blocks(residual: nn.Module, photos: Tensor) -> None:
    theirs = captum.Saliency(residual).attribute(photos, target=2, abs=False)
    saliency = why.Saliency(residual, abs=False)
    agree(saliency.attribute(photos, target=2), theirs, saliency.attribute(photos, target=1))


LAYERS = ["conv1", "conv2", "fc1"]


@pytest.mark.parametrize("layer", LAYERS)
def test_layer_gradient_x_activation(cnn: nn.Module, digits: Tensor, layer: str) -> None:
    module = cnn.get_submodule(layer)
    theirs = captum.LayerGradientXActivation(cnn, module).attribute(digits, target=3)
    method = why.InputXGradient(cnn, at=layer)
    agree(method.attribute(digits, target=3), theirs, method.attribute(digits, target=4))
    theirs = captum.LayerGradientXActivation(cnn, module, multiply_by_inputs=False).attribute(digits, target=3)
    agree(
        why.Saliency(cnn, at=module, abs=False).attribute(digits, target=3),
        theirs,
        method.attribute(digits, target=3),
    )


def test_the_input_of_a_layer(cnn: nn.Module, digits: Tensor) -> None:
    theirs = captum.LayerGradientXActivation(cnn, cnn.conv2).attribute(digits, target=3, attribute_to_layer_input=True)
    ours = why.InputXGradient(cnn, at=Site("conv2", input=True)).attribute(digits, target=3)
    assert apart(ours, theirs) < 1e-5
    assert ours.shape != why.InputXGradient(cnn, at="conv2").attribute(digits, target=3).shape


@pytest.mark.parametrize("layer", ["stem", "block1", "block1.bn1", "block2.conv2", "block2", "pool"])
def test_layers_of_residual_blocks(residual: nn.Module, photos: Tensor, layer: str) -> None:
    theirs = captum.LayerGradientXActivation(residual, residual.get_submodule(layer)).attribute(photos, target=2)
    method = why.InputXGradient(residual, at=layer)
    agree(method.attribute(photos, target=2), theirs, method.attribute(photos, target=1))


UNITS: dict[str, tuple[str, Any, Any]] = {
    "of a map": ("conv1", (3, 4, 5), (3, 4, 6)),
    "of a vector": ("fc1", 7, 8),
    "summed over a slice": ("conv2", (slice(2, 5), 1, slice(None)), (slice(2, 5), 2, slice(None))),
    "by a function": ("conv2", lambda held: held[:, 1].amax((1, 2)), lambda held: held[:, 2].amax((1, 2))),
}


@pytest.mark.parametrize(("layer", "unit", "other"), UNITS.values(), ids=UNITS)
def test_neurons(cnn: nn.Module, digits: Tensor, layer: str, unit: Any, other: Any) -> None:
    module = cnn.get_submodule(layer)
    theirs = captum.NeuronGradient(cnn, module).attribute(digits, unit)
    saliency = why.Saliency(cnn, abs=False)
    changed = saliency.attribute(digits, target=Site(layer, other))
    agree(saliency.attribute(digits, target=Site(layer, unit)), theirs, changed)

    theirs = captum.NeuronIntegratedGradients(cnn, module).attribute(digits, unit, baselines=0.3, n_steps=20)
    ig = why.IntegratedGradients(cnn, n_steps=20)
    ours = ig.attribute(digits, 0.3, target=Site(layer, unit))
    # Units of conv1 are linear in the input, so that only the baseline can make a difference there.
    agree(ours, theirs, ig.attribute(digits, target=Site(module, unit)))


def test_a_neuron_of_a_model_with_two_inputs(two: nn.Module, pair: tuple[Tensor, Tensor], gate: Tensor) -> None:
    theirs = captum.NeuronGradient(two, two.mixed).attribute(pair, 4, additional_forward_args=(gate,))
    saliency = why.Saliency(two, abs=False)
    ours = saliency.attribute(pair, target=Site("mixed", 4), additional_forward_args=(gate,))
    agree(ours, theirs, saliency.attribute(pair, target=Site("mixed", 5), additional_forward_args=(gate,)))


# -- integrated gradients ---------------------------------------------------------------------------

SHARED_RULES = ["gausslegendre", "riemann_left", "riemann_middle", "riemann_right"]


@pytest.mark.parametrize("n_steps", [5, 50])
@pytest.mark.parametrize("method", SHARED_RULES)
def test_integrated_gradients(cnn: nn.Module, digits: Tensor, method: str, n_steps: int) -> None:
    theirs = captum.IntegratedGradients(cnn).attribute(digits, target=3, method=method, n_steps=n_steps)
    ig = why.IntegratedGradients(cnn, method=method, n_steps=n_steps)
    # With another rule, or a step more, the differences are those of the rules: far above rounding.
    other = "riemann_right" if method != "riemann_right" else "riemann_left"
    agree(ig.attribute(digits, target=3), theirs, ig.attribute(digits, target=3, method=other))
    assert apart(ig.attribute(digits, target=3, n_steps=n_steps + 1), theirs) > 3e-5


def test_the_trapezoid_is_captums_with_weights_that_sum_to_one(cnn: nn.Module, digits: Tensor) -> None:
    # Captum spaces its n nodes by 1/(n-1) and weights them by 1/n: it loses 1/n of every attribution.
    n = 10
    rule = {"method": "riemann_trapezoid", "n_steps": n}
    theirs = captum.IntegratedGradients(cnn).attribute(digits, target=3, **rule)
    ours = why.IntegratedGradients(cnn, **rule).attribute(digits, target=3)
    agree(ours, theirs * n / (n - 1), theirs)

    def linear(x: Tensor) -> Tensor:
        return x.flatten(1).sum(1)

    theirs = captum.IntegratedGradients(linear).attribute(digits, **rule)
    ours = why.IntegratedGradients(linear, **rule).attribute(digits)
    assert torch.allclose(ours.sum((1, 2, 3)), linear(digits))
    assert torch.allclose(theirs.sum((1, 2, 3)), linear(digits) * (n - 1) / n)


@pytest.mark.parametrize(
    "baselines",
    [(0.5, -0.5), (torch.full((1, 5), 0.25), torch.linspace(-1, 1, 12).view(4, 3)), None],
    ids=["numbers", "tensors", "none"],
)
def test_integrated_gradients_with_two_inputs(
    two: nn.Module, pair: tuple[Tensor, Tensor], gate: Tensor, baselines: Any
) -> None:
    asked = {"target": [0, 1, 2, 3], "additional_forward_args": (gate, 2.0)}
    theirs = captum.IntegratedGradients(two).attribute(pair, baselines=baselines, **asked)
    ig = why.IntegratedGradients(two)
    agree(ig.attribute(pair, baselines, **asked), theirs, ig.attribute(pair, (0.3, 0.3), **asked))


def test_integrated_gradients_without_the_factor(cnn: nn.Module, digits: Tensor) -> None:
    theirs = captum.IntegratedGradients(cnn, multiply_by_inputs=False).attribute(digits, baselines=0.5, target=3)
    ig = why.IntegratedGradients(cnn, multiply_by_inputs=False)
    agree(
        ig.attribute(digits, 0.5, target=3),
        theirs,
        why.IntegratedGradients(cnn).attribute(digits, 0.5, target=3),
    )


def test_the_completeness_gap_is_captums_convergence_delta(cnn: nn.Module, digits: Tensor) -> None:
    # Few steps of a poor rule, so that the gap is far above rounding.
    asked = {"method": "riemann_left", "n_steps": 4}
    _, delta = captum.IntegratedGradients(cnn).attribute(digits, target=3, return_convergence_delta=True, **asked)
    (gap,) = (
        c for c in why.IntegratedGradients(cnn, **asked).explain(digits, target=3).evidence if c.name == "completeness"
    )
    moved = (cnn(digits) - cnn(0 * digits))[:, 3].abs()
    assert torch.allclose(torch.tensor(gap.value) * moved, delta.abs().float(), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("layer", LAYERS)
def test_layer_integrated_gradients(cnn: nn.Module, digits: Tensor, layer: str) -> None:
    module = cnn.get_submodule(layer)
    theirs = captum.LayerIntegratedGradients(cnn, module).attribute(digits, baselines=0.2, target=3, n_steps=20)
    ig = why.IntegratedGradients(cnn, at=layer, n_steps=20)
    agree(ig.attribute(digits, 0.2, target=3), theirs, ig.attribute(digits, target=3))


def test_layer_integrated_gradients_of_a_layers_input(residual: nn.Module, photos: Tensor) -> None:
    theirs = captum.LayerIntegratedGradients(residual, residual.block2).attribute(
        photos, target=2, attribute_to_layer_input=True
    )
    ig = why.IntegratedGradients(residual, at=Site("block2", input=True))
    agree(ig.attribute(photos, target=2), theirs, ig.attribute(photos, target=1))


def test_layer_integrated_gradients_with_two_inputs(two: nn.Module, pair: tuple[Tensor, Tensor], gate: Tensor) -> None:
    asked = {"target": 1, "additional_forward_args": (gate, 2.0)}
    theirs = captum.LayerIntegratedGradients(two, two.mixed).attribute(pair, baselines=(0.5, 0.1), **asked)
    ig = why.IntegratedGradients(two, at="mixed")
    agree(ig.attribute(pair, (0.5, 0.1), **asked), theirs, ig.attribute(pair, **asked))


@pytest.mark.parametrize("baselines", [None, 2, torch.tensor([[5, 6, 7, 8, 9, 10]])], ids=["none", "number", "tensor"])
def test_embeddings_of_tokens(text: nn.Module, tokens: Tensor, baselines: Any) -> None:
    # The mask is read off the tokens themselves, which stay what they are.
    theirs = captum.LayerIntegratedGradients(text, text.embedding).attribute(tokens, baselines=baselines, target=1)
    ig = why.IntegratedGradients(text, at="embedding")
    agree(ig.attribute(tokens, baselines, target=1), theirs, ig.attribute(tokens, 11, target=1))
    theirs = captum.LayerGradientXActivation(text, text.embedding).attribute(tokens, target=1)
    method = why.InputXGradient(text, at="embedding")
    agree(method.attribute(tokens, target=1), theirs, method.attribute(tokens, target=2))


# -- class activation maps --------------------------------------------------------------------------


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("layer", LAYERS)
def test_layer_grad_cam(cnn: nn.Module, digits: Tensor, layer: str, relu: bool) -> None:
    theirs = captum.LayerGradCam(cnn, cnn.get_submodule(layer)).attribute(digits, target=3, relu_attributions=relu)
    cam = why.GradCAM(cnn, at=layer, relu_attributions=relu)
    agree(cam.attribute(digits, target=3), theirs, cam.attribute(digits, target=4))


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("layer", ["stem", "block1", "block2"])
def test_layer_grad_cam_of_residual_blocks(residual: nn.Module, photos: Tensor, layer: str, relu: bool) -> None:
    module = residual.get_submodule(layer)
    for target in range(5):
        theirs = captum.LayerGradCam(residual, module).attribute(photos, target=target, relu_attributions=relu)
        ours = why.GradCAM(residual, at=layer, relu_attributions=relu).attribute(photos, target=target)
        if theirs.any():
            assert apart(ours, theirs) < 1e-5
        else:
            assert not ours.any()
    signed = why.GradCAM(residual, at=layer).attribute(photos, target=0)
    assert (
        apart(
            signed.relu() if relu else signed,
            captum.LayerGradCam(residual, module).attribute(photos, target=1),
        )
        > 1e-2
    )


# -- perturbation -----------------------------------------------------------------------------------

WINDOWS: list[tuple[tuple[int, ...], Any]] = [
    ((1, 3, 3), (1, 2, 2)),
    ((1, 5, 4), (1, 3, 4)),  # which do not divide the 12 rows
    ((1, 12, 2), 1),
]


@pytest.mark.parametrize(("window", "strides"), WINDOWS)
def test_occlusion(cnn: nn.Module, digits: Tensor, window: Any, strides: Any) -> None:
    digits = digits[:2]
    theirs = captum.Occlusion(cnn).attribute(
        digits,
        sliding_window_shapes=window,
        strides=strides,
        baselines=0.1,
        target=3,
        perturbations_per_eval=16,
    )
    occlusion = why.Occlusion(cnn, sliding_window_shapes=window, strides=strides)
    agree(occlusion.attribute(digits, 0.1, target=3), theirs, occlusion.attribute(digits, 0.2, target=3))
    other = (1, 4, 4) if window != (1, 4, 4) else (1, 3, 3)
    assert apart(occlusion.attribute(digits, 0.1, target=3, sliding_window_shapes=other, strides=2), theirs) > 1e-3


def test_occlusion_of_a_tuple(two: nn.Module, pair: tuple[Tensor, Tensor], gate: Tensor) -> None:
    asked = {"target": 2, "additional_forward_args": (gate, 2.0)}
    sizes = {"sliding_window_shapes": ((3,), (2,)), "strides": ((2,), (1,))}
    theirs = captum.Occlusion(two).attribute(pair, baselines=(0.5, pair[1].flip(0)), **asked, **sizes)
    occlusion = why.Occlusion(two, **sizes)
    agree(
        occlusion.attribute(pair, (0.5, pair[1].flip(0)), **asked),
        theirs,
        occlusion.attribute(pair, (0.5, pair[1].flip(0)), strides=((1,), (1,)), **asked),
    )


def test_feature_ablation(cnn: nn.Module, digits: Tensor) -> None:
    digits = digits[:2]
    theirs = captum.FeatureAblation(cnn).attribute(digits, baselines=0.1, target=[3, 4], perturbations_per_eval=16)
    ablation = why.FeatureAblation(cnn)
    # A single pixel moves the score by a thousandth of it: as much precision is lost in the difference.
    ours = ablation.attribute(digits, 0.1, target=[3, 4])
    agree(ours, theirs, ablation.attribute(digits, 0.3, target=[3, 4]), tolerance=5e-5)


def test_feature_ablation_with_a_mask(cnn: nn.Module, digits: Tensor) -> None:
    blocks = torch.arange(16).view(4, 4).repeat_interleave(3, 0).repeat_interleave(3, 1)[None, None]
    theirs = captum.FeatureAblation(cnn).attribute(digits, target=3, feature_mask=blocks)
    ablation = why.FeatureAblation(cnn, feature_mask=blocks)
    other = ablation.attribute(digits, target=3, feature_mask=blocks.transpose(2, 3) // 2)
    agree(ablation.attribute(digits, target=3), theirs, other)


def test_feature_ablation_of_a_tuple(two: nn.Module, pair: tuple[Tensor, Tensor], gate: Tensor) -> None:
    asked = {"target": 2, "additional_forward_args": (gate, 2.0)}
    masks = torch.tensor([[0, 0, 1, 1, 2]]), torch.tensor([[3, 4, 4]])
    theirs = captum.FeatureAblation(two).attribute(pair, baselines=(0.5, -0.5), feature_mask=masks, **asked)
    ablation = why.FeatureAblation(two, feature_mask=masks)
    agree(
        ablation.attribute(pair, (0.5, -0.5), **asked),
        theirs,
        ablation.attribute(pair, (0.5, -0.5), feature_mask=None, **asked),
    )


def test_feature_ablation_with_a_group_across_inputs(two: nn.Module, pair: tuple[Tensor, Tensor]) -> None:
    masks = torch.tensor([[0, 0, 1, 1, 2]]), torch.tensor([[2, 0, 3]])
    theirs = captum.FeatureAblation(two).attribute(pair, target=2, feature_mask=masks)
    ablation = why.FeatureAblation(two, feature_mask=masks)
    apart_masks = masks[0], masks[1] + 10
    agree(
        ablation.attribute(pair, target=2),
        theirs,
        ablation.attribute(pair, target=2, feature_mask=apart_masks),
    )


def test_feature_ablation_with_a_mask_for_each_example(two: nn.Module, pair: tuple[Tensor, Tensor]) -> None:
    masks = (
        torch.tensor([[0, 0, 1, 1, 2], [0, 1, 1, 2, 2], [2, 2, 2, 1, 0], [0, 1, 0, 1, 2]]),
        torch.tensor([[3, 4, 4], [4, 4, 3], [3, 3, 4], [3, 4, 4]]),
    )
    theirs = captum.FeatureAblation(two).attribute(pair, target=2, feature_mask=masks)
    first_for_all = tuple(m[:1] for m in masks)
    ablation = why.FeatureAblation(two, feature_mask=masks)
    agree(
        ablation.attribute(pair, target=2),
        theirs,
        ablation.attribute(pair, target=2, feature_mask=first_for_all),
    )


@pytest.mark.parametrize("baselines", [None, 0.5])
def test_layer_feature_ablation(cnn: nn.Module, digits: Tensor, baselines: float | None) -> None:
    theirs = captum.LayerFeatureAblation(cnn, cnn.fc1).attribute(digits, baselines, target=3, perturbations_per_eval=64)
    ablation = why.FeatureAblation(cnn, at="fc1")
    ours = ablation.attribute(digits, target=3, layer_baselines=baselines)
    # Differences of scores again (see above), for 256 units.
    agree(ours, theirs, ablation.attribute(digits, target=3, layer_baselines=1.0), tolerance=5e-5)


def test_layer_feature_ablation_with_a_mask(cnn: nn.Module, digits: Tensor) -> None:
    channels = torch.arange(16).view(1, 16, 1, 1)
    theirs = captum.LayerFeatureAblation(cnn, cnn.conv1).attribute(
        digits, target=3, layer_mask=channels.expand(1, 16, 10, 10)
    )
    ablation = why.FeatureAblation(cnn, at="conv1", feature_mask=channels)
    agree(
        ablation.attribute(digits, target=3),
        theirs,
        ablation.attribute(digits, target=3, feature_mask=channels // 2),
    )


def test_neuron_feature_ablation(two: nn.Module, pair: tuple[Tensor, Tensor], gate: Tensor) -> None:
    asked = {"baselines": (0.5, -0.5), "additional_forward_args": (gate,)}
    theirs = captum.NeuronFeatureAblation(two, two.mixed).attribute(pair, 4, **asked)
    ablation = why.FeatureAblation(two)
    other = ablation.attribute(pair, target=Site("mixed", 5), **asked)
    agree(ablation.attribute(pair, target=Site("mixed", 4), **asked), theirs, other)


def test_token_ablation(text: nn.Module, tokens: Tensor) -> None:
    theirs = captum.FeatureAblation(text).attribute(tokens, baselines=9, target=1)
    ablation = why.FeatureAblation(text)
    # Captum gives integer attributions of integer inputs their float values too.
    agree(ablation.attribute(tokens, 9, target=1), theirs.float(), ablation.attribute(tokens, 10, target=1))


# -- sampling ---------------------------------------------------------------------------------------

RUNS, DRAWS = 24, 200


def distance(ours: list[Any], theirs: list[Any]) -> float:
    """The largest z of the difference of two means over runs, each run with draws of its own."""
    a, b = (torch.stack([torch.cat([t.flatten() for t in parts(v)]) for v in runs]).double() for runs in (ours, theirs))
    error = ((a.var(0) + b.var(0)) / len(a)).sqrt()
    moves = error > 1e-9 * a.abs().max()
    return ((a - b).mean(0).abs() / error)[moves].max().item()


def runs(make: Callable[[int], Any]) -> list[Any]:
    out = []
    for seed in range(RUNS):
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002  from which Captum draws
        out.append(make(seed))
    return out


# The largest of some 30 values of Student's t with 46 degrees of freedom passes 6 once in a million times.
ALIKE, DIFFERENT = 6, 12


@pytest.mark.parametrize("kind", ["smoothgrad", "smoothgrad_sq", "vargrad"])
def test_noise_tunnel(two: nn.Module, pair: tuple[Tensor, Tensor], gate: Tensor, kind: str) -> None:
    asked = {"target": 2, "additional_forward_args": (gate, 2.0)}
    noise = {"nt_type": kind, "nt_samples": DRAWS}
    inner = captum.NoiseTunnel(captum.Saliency(two))
    theirs = runs(lambda seed: inner.attribute(pair, **noise, stdevs=(0.6, 0.9), abs=False, **asked))
    tunnel = why.NoiseTunnel(why.Saliency(two, abs=False), **noise, stdevs=(0.6, 0.9))
    assert distance(runs(lambda seed: tunnel.attribute(pair, **asked, seed=seed)), theirs) < ALIKE
    assert distance(runs(lambda seed: tunnel.attribute(pair, **asked, seed=seed, stdevs=0.3)), theirs) > DIFFERENT
    named = {"smoothgrad": why.SmoothGrad, "smoothgrad_sq": why.SmoothGradSquared, "vargrad": why.VarGrad}[kind]
    method = named(two, n_samples=DRAWS, stdevs=(0.6, 0.9))
    assert distance(runs(lambda seed: method.attribute(pair, **asked, seed=seed)), theirs) < ALIKE


def test_noise_tunnel_at_a_layer(two: nn.Module, pair: tuple[Tensor, Tensor]) -> None:
    noise = {"nt_samples": DRAWS, "stdevs": 0.6}
    inner = captum.NoiseTunnel(captum.LayerGradientXActivation(two, two.mixed))
    theirs = runs(lambda seed: inner.attribute(pair, nt_type="smoothgrad", **noise, target=2))
    tunnel = why.NoiseTunnel(why.InputXGradient(two, at="mixed"), **noise)
    assert distance(runs(lambda seed: tunnel.attribute(pair, target=2, seed=seed)), theirs) < ALIKE
    assert distance(runs(lambda seed: tunnel.attribute(pair, target=2, seed=seed, stdevs=0.2)), theirs) > DIFFERENT


def test_noise_tunnel_of_integrated_gradients_and_of_a_neuron(two: nn.Module, pair: tuple[Tensor, Tensor]) -> None:
    noise, steps = {"nt_samples": 30, "stdevs": 0.5}, {"n_steps": 6}
    inner = captum.NoiseTunnel(captum.IntegratedGradients(two))
    theirs = runs(lambda seed: inner.attribute(pair, **noise, **steps, baselines=(0.5, -0.5), target=2))
    tunnel = why.NoiseTunnel(why.IntegratedGradients(two, **steps), **noise)
    asked = {"baselines": (0.5, -0.5), "target": 2}
    assert distance(runs(lambda seed: tunnel.attribute(pair, **asked, seed=seed)), theirs) < ALIKE
    asked["baselines"] = (-0.5, 0.5)
    assert distance(runs(lambda seed: tunnel.attribute(pair, **asked, seed=seed)), theirs) > DIFFERENT

    inner = captum.NoiseTunnel(captum.NeuronGradient(two, two.mixed))
    theirs = runs(lambda seed: inner.attribute(pair, **noise, neuron_selector=4))
    smooth = why.SmoothGrad(two, n_samples=30, stdevs=0.5)
    assert distance(runs(lambda seed: smooth.attribute(pair, target=Site("mixed", 4), seed=seed)), theirs) < ALIKE
    assert distance(runs(lambda seed: smooth.attribute(pair, target=Site("mixed", 5), seed=seed)), theirs) > DIFFERENT


def first_input(two: nn.Module, pair: tuple[Tensor, Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda a: two(a, pair[1][:1].expand(len(a), 3))


@pytest.mark.parametrize("sigma", [0.0, 0.5])
def test_gradient_shap(two: nn.Module, pair: tuple[Tensor, Tensor], sigma: float) -> None:
    # One input only: Captum draws the rows of a tuple's baselines separately, we draw examples.
    model, x, rows = first_input(two, pair), pair[0], 2 * pair[0].flip(1) + 1
    shap = captum.GradientShap(model)
    theirs = runs(lambda seed: shap.attribute(x, rows, n_samples=DRAWS, stdevs=sigma, target=2))
    ours = why.GradientShap(model, n_samples=DRAWS, stdevs=sigma)
    assert distance(runs(lambda seed: ours.attribute(x, rows, target=2, seed=seed)), theirs) < ALIKE
    assert distance(runs(lambda seed: ours.attribute(x, rows[:1], target=2, seed=seed)), theirs) > DIFFERENT


def test_gradient_shap_of_a_tuple_with_one_baseline(two: nn.Module, pair: tuple[Tensor, Tensor], gate: Tensor) -> None:
    asked = {"target": 2, "additional_forward_args": (gate, 2.0)}
    base = pair[0][:1] + 1, pair[1][:1] - 1
    shap = captum.GradientShap(two)
    theirs = runs(lambda seed: shap.attribute(pair, base, n_samples=DRAWS, stdevs=0.3, **asked))
    ours = why.GradientShap(two, n_samples=DRAWS, stdevs=0.3)
    assert distance(runs(lambda seed: ours.attribute(pair, base, **asked, seed=seed)), theirs) < ALIKE
    other = base[0] - 1, base[1]
    assert distance(runs(lambda seed: ours.attribute(pair, other, **asked, seed=seed)), theirs) > DIFFERENT


def test_gradient_shap_of_a_neuron(two: nn.Module, pair: tuple[Tensor, Tensor]) -> None:
    base = pair[0][:1] + 1, pair[1][:1] - 1
    shap = captum.NeuronGradientShap(two, two.mixed)
    theirs = runs(lambda seed: shap.attribute(pair, 4, baselines=base, n_samples=DRAWS, stdevs=0.3))
    ours = why.GradientShap(two, n_samples=DRAWS, stdevs=0.3)
    alike = runs(lambda seed: ours.attribute(pair, base, target=Site("mixed", 4), seed=seed))
    assert distance(alike, theirs) < ALIKE
    other = runs(lambda seed: ours.attribute(pair, base, target=Site("mixed", 5), seed=seed))
    assert distance(other, theirs) > DIFFERENT


def test_gradient_shap_at_a_layer(cnn: nn.Module, digits: Tensor) -> None:
    # A layer affine in the input, where Captum's line between inputs is ours, between what the layer holds.
    x, rows = digits[:2], digits[2:].flip(2) * 2
    shap = captum.LayerGradientShap(cnn, cnn.conv1)

    def mean_map(values: Tensor) -> Tensor:
        return values.detach().sum((2, 3))  # per channel, or there would be 1,600 numbers to compare

    theirs = runs(lambda seed: mean_map(shap.attribute(x, rows, n_samples=8, stdevs=0.1, target=3)))
    ours = why.GradientShap(cnn, at="conv1", n_samples=8, stdevs=0.1)
    assert distance(runs(lambda seed: mean_map(ours.attribute(x, rows, target=3, seed=seed))), theirs) < ALIKE
    other = runs(lambda seed: mean_map(ours.attribute(x, 0 * rows, target=3, seed=seed)))
    assert distance(other, theirs) > DIFFERENT


def test_gradient_shap_at_a_deep_layer_adds_up_as_captums_does_not(two: nn.Module, pair: tuple[Tensor, Tensor]) -> None:
    # Captum multiplies the change of the layer by gradients on another path, the image of the line of inputs.
    base = pair[0][:1] + 2, pair[1][:1] - 2
    moved = (two(*pair) - two(*base))[:, 2]
    shap, ours = captum.LayerGradientShap(two, two.mixed), why.GradientShap(two, at="mixed", n_samples=DRAWS)
    gaps = []
    for make in (
        lambda seed: ours.attribute(pair, base, target=2, seed=seed),
        lambda seed: shap.attribute(pair, base, n_samples=DRAWS, stdevs=0.0, target=2),
    ):
        totals = torch.stack([values.detach().sum(1) - moved for values in runs(make)])
        gaps.append((totals.mean(0).abs() / (totals.std(0) / RUNS**0.5)).max())
    assert gaps[0] < ALIKE
    assert gaps[1] > DIFFERENT
