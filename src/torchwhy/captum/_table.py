"""Captum's classes, one row each: what they are, what they take, and which method of ours answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Row:
    """One of Captum's classes.

    Attributes:
        bases: the classes it derives from, by name.
        method: the method of ours; "" for a class that only others derive from, or that `torchwhy.captum._special`
            answers.
        init: the constructor's arguments, as one writes them.
        attribute: those of ``attribute``.
        options: of our method, which Captum has no argument for.
        multiplies: what ``multiplies_by_inputs`` says where the constructor is not asked.
        delta: what the convergence delta compares the attributions with: the change of the score from the baselines,
            or what the method promises over a set of them, or the score.
    """

    bases: tuple[str, ...]
    method: str = ""
    init: str = "forward_func"
    attribute: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    multiplies: bool = False
    delta: Literal["change", "promise", "score"] = "change"


_T = "target=None, additional_forward_args=None"
_POINT = f"inputs, {_T}"
_ONE = f"inputs, baselines=None, {_T}"
_SET = f"inputs, baselines, {_T}"
_STEPS = "n_steps=50, method='gausslegendre', internal_batch_size=None"
_TRAPEZOID = "n_steps=50, method='riemann_trapezoid', internal_batch_size=None"
_DELTA = "return_convergence_delta=False"
_AT_INPUT, _OF_INPUT = "attribute_to_layer_input=False", "attribute_to_neuron_input=False"
_CUSTOM, _GRAD = "custom_attribution_func=None", "grad_kwargs=None"
_MASK, _EVAL, _SHOW = "feature_mask=None", "perturbations_per_eval=1", "show_progress=False"
_DRAWS = "n_samples=5, stdevs=0.0"
_SAMPLES = f"{_ONE}, {_MASK}, n_samples=25, {_EVAL}"
_NEURON = "inputs, neuron_selector"
_EXTRA = "additional_forward_args=None"

_TIMES = "multiply_by_inputs=True"
_LAYER = "forward_func, layer, device_ids=None"
_MODEL_LAYER = "model, layer, device_ids=None"

_GRADIENT, _PERTURBS = ("GradientAttribution",), ("PerturbationAttribution",)
_AT_LAYER, _OF_NEURON = ("LayerAttribution", *_GRADIENT), ("NeuronAttribution", *_GRADIENT)

LRP_EPSILON = 1e-9  # the rule that Captum has for every layer
_LRP = {"composite": "epsilon", "epsilon": LRP_EPSILON}

# In an order in which no class comes before those that it derives from.
ROWS: dict[str, Row] = {
    "Attribution": Row(()),
    "GradientAttribution": Row(("Attribution",)),
    "PerturbationAttribution": Row(("Attribution",), multiplies=True),
    "LayerAttribution": Row(("Attribution",), init=_LAYER),
    "NeuronAttribution": Row(("Attribution",), init=_LAYER),
    # -- at the input
    "Saliency": Row(_GRADIENT, "Saliency", attribute="inputs, target=None, abs=True, additional_forward_args=None"),
    "InputXGradient": Row(_GRADIENT, "InputXGradient", attribute=_POINT, multiplies=True),
    "IntegratedGradients": Row(
        _GRADIENT, "IntegratedGradients", f"forward_func, {_TIMES}", f"{_ONE}, {_STEPS}, {_DELTA}"
    ),
    "DeepLift": Row(_GRADIENT, "DeepLift", f"model, {_TIMES}, eps=1e-10", f"{_ONE}, {_DELTA}, {_CUSTOM}"),
    "DeepLiftShap": Row(
        ("DeepLift",), "DeepLiftShap", f"model, {_TIMES}", f"{_SET}, {_DELTA}, {_CUSTOM}", delta="promise"
    ),
    "GradientShap": Row(
        _GRADIENT,
        "GradientShap",
        f"forward_func, {_TIMES}",
        f"inputs, baselines, {_DRAWS}, {_T}, {_DELTA}",
        delta="promise",
    ),
    "GuidedBackprop": Row(_GRADIENT, "GuidedBackprop", "model", _POINT),
    "Deconvolution": Row(_GRADIENT, "Deconvolution", "model", _POINT),
    "GuidedGradCam": Row(
        _GRADIENT, "GuidedGradCAM", _MODEL_LAYER, f"{_POINT}, interpolate_mode='nearest', {_AT_INPUT}"
    ),
    "LRP": Row(_GRADIENT, "LRP", "model", f"{_POINT}, {_DELTA}, verbose=False", _LRP, True, "score"),
    "FeatureAblation": Row(
        _PERTURBS, "FeatureAblation", attribute=f"{_ONE}, {_MASK}, {_EVAL}, {_SHOW}, **kwargs", multiplies=True
    ),
    "FeaturePermutation": Row(
        ("FeatureAblation",),
        "FeaturePermutation",
        "forward_func, perm_func=permute_feature",
        f"{_POINT}, {_MASK}, {_EVAL}, {_SHOW}, **kwargs",
        multiplies=True,
    ),
    "Occlusion": Row(
        ("FeatureAblation",),
        "Occlusion",
        attribute=f"inputs, sliding_window_shapes, strides=None, baselines=None, {_T}, {_EVAL}, {_SHOW}",
        multiplies=True,
    ),
    "ShapleyValueSampling": Row(_PERTURBS, "ShapleyValueSampling", attribute=f"{_SAMPLES}, {_SHOW}", multiplies=True),
    "ShapleyValues": Row(
        ("ShapleyValueSampling",),
        "ShapleyValues",
        attribute=f"{_ONE}, {_MASK}, {_EVAL}, {_SHOW}",
        multiplies=True,
    ),
    "LimeBase": Row(
        _PERTURBS,
        "",
        "forward_func, interpretable_model, similarity_func, perturb_func, perturb_interpretable_space, "
        "from_interp_rep_transform, to_interp_rep_transform",
        f"{_POINT}, n_samples=50, {_EVAL}, {_SHOW}, **kwargs",
    ),
    "Lime": Row(
        ("LimeBase",),
        "",
        "forward_func, interpretable_model=None, similarity_func=None, perturb_func=None",
        f"{_SAMPLES}, return_input_shape=True, {_SHOW}",
    ),
    "KernelShap": Row(("Lime",), "KernelShap", attribute=f"{_SAMPLES}, return_input_shape=True, {_SHOW}"),
    "NoiseTunnel": Row(
        ("Attribution",),
        "",
        "attribution_method",
        "inputs, nt_type='smoothgrad', nt_samples=5, nt_samples_batch_size=None, stdevs=1.0, "
        "draw_baseline_from_distrib=False, **kwargs",
    ),
    "DataLoaderAttribution": Row(
        ("Attribution",),
        "",
        "attr_method",
        "dataloader, input_roles=None, baselines=None, feature_mask=None, reduce=None, to_metric=None, "
        "perturbations_per_pass=1, show_progress=False, return_input_shape=True",
    ),
    # -- at a layer
    "LayerActivation": Row(("LayerAttribution",), "", _LAYER, f"inputs, {_EXTRA}, {_AT_INPUT}", multiplies=True),
    "LayerGradientXActivation": Row(
        _AT_LAYER,
        "InputXGradient",
        f"{_LAYER}, {_TIMES}, memory_efficient=False",
        f"{_POINT}, {_AT_INPUT}, {_GRAD}",
    ),
    "LayerGradCam": Row(
        _AT_LAYER,
        "GradCAM",
        _LAYER,
        f"{_POINT}, {_AT_INPUT}, relu_attributions=False, attr_dim_summation=True, {_GRAD}",
        {"grid": ()},  # channels lie in dimension 1
    ),
    "LayerIntegratedGradients": Row(
        _AT_LAYER,
        "IntegratedGradients",
        f"{_LAYER}, {_TIMES}",
        f"{_ONE}, {_STEPS}, {_DELTA}, {_AT_INPUT}, {_GRAD}",
    ),
    "LayerConductance": Row(
        _AT_LAYER, "Conductance", _LAYER, f"{_ONE}, {_STEPS}, {_DELTA}, {_AT_INPUT}, {_GRAD}", multiplies=True
    ),
    "InternalInfluence": Row(_AT_LAYER, "InternalInfluence", _LAYER, f"{_ONE}, {_STEPS}, {_AT_INPUT}, {_GRAD}"),
    "LayerDeepLift": Row(
        ("LayerAttribution", "DeepLift"),
        "DeepLift",
        f"model, layer, {_TIMES}",
        f"{_ONE}, {_DELTA}, {_AT_INPUT}, {_CUSTOM}, {_GRAD}",
    ),
    "LayerDeepLiftShap": Row(
        ("LayerDeepLift", "DeepLiftShap"),
        "DeepLiftShap",
        f"model, layer, {_TIMES}",
        f"{_SET}, {_DELTA}, {_AT_INPUT}, {_CUSTOM}",
        delta="promise",
    ),
    "LayerGradientShap": Row(
        _AT_LAYER,
        "GradientShap",
        f"{_LAYER}, {_TIMES}",
        f"inputs, baselines, {_DRAWS}, {_T}, {_DELTA}, {_AT_INPUT}",
        delta="promise",
    ),
    "LayerLRP": Row(
        ("LRP", "LayerAttribution"),
        "LRP",
        "model, layer",
        f"{_POINT}, {_DELTA}, {_AT_INPUT}, verbose=False",
        _LRP,
        True,
        "score",
    ),
    "LayerFeatureAblation": Row(
        ("LayerAttribution", *_PERTURBS),
        "FeatureAblation",
        _LAYER,
        f"inputs, layer_baselines=None, {_T}, layer_mask=None, {_AT_INPUT}, {_EVAL}",
        multiplies=True,
    ),
    "LayerFeaturePermutation": Row(
        ("LayerAttribution", "FeaturePermutation"),
        "FeaturePermutation",
        _LAYER,
        f"{_POINT}, layer_mask=None, {_EVAL}",
        multiplies=True,
    ),
    # -- of a neuron
    "NeuronGradient": Row(_OF_NEURON, "Saliency", _LAYER, f"{_NEURON}, {_EXTRA}, {_OF_INPUT}", {"abs": False}),
    "NeuronIntegratedGradients": Row(
        _OF_NEURON,
        "IntegratedGradients",
        f"{_LAYER}, {_TIMES}",
        f"{_NEURON}, baselines=None, {_EXTRA}, {_STEPS}, {_OF_INPUT}",
    ),
    "NeuronConductance": Row(
        _OF_NEURON,
        "Conductance",
        f"{_LAYER}, {_TIMES}",
        f"{_NEURON}, baselines=None, {_T}, {_TRAPEZOID}, {_OF_INPUT}, {_GRAD}",
    ),
    "NeuronDeepLift": Row(
        _OF_NEURON,
        "DeepLift",
        f"model, layer, {_TIMES}",
        f"{_NEURON}, baselines=None, {_EXTRA}, {_OF_INPUT}, {_CUSTOM}",
    ),
    "NeuronDeepLiftShap": Row(
        _OF_NEURON,
        "DeepLiftShap",
        f"model, layer, {_TIMES}",
        f"{_NEURON}, baselines, {_EXTRA}, {_OF_INPUT}, {_CUSTOM}",
    ),
    "NeuronGradientShap": Row(
        _OF_NEURON,
        "GradientShap",
        f"{_LAYER}, {_TIMES}",
        f"{_NEURON}, baselines, {_DRAWS}, {_EXTRA}, {_OF_INPUT}",
    ),
    "NeuronGuidedBackprop": Row(_OF_NEURON, "GuidedBackprop", _MODEL_LAYER, f"{_NEURON}, {_EXTRA}, {_OF_INPUT}"),
    "NeuronDeconvolution": Row(_OF_NEURON, "Deconvolution", _MODEL_LAYER, f"{_NEURON}, {_EXTRA}, {_OF_INPUT}"),
    "NeuronFeatureAblation": Row(
        ("NeuronAttribution", *_PERTURBS),
        "FeatureAblation",
        _LAYER,
        f"{_NEURON}, baselines=None, {_EXTRA}, {_MASK}, {_OF_INPUT}, {_EVAL}",
        multiplies=True,
    ),
}
