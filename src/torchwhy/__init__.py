"""Ask a PyTorch model why, and know whether to believe the answer.

>>> import torch, torchwhy as why
>>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
>>> explanation = why.explain(model, torch.ones(1, 4))
>>> explanation.values.shape
torch.Size([1, 4])
"""

from torchwhy.api import explain
from torchwhy.core.errors import MissingExtraError, TorchwhyError, UnsupportedError
from torchwhy.core.evidence import Check, Verdict
from torchwhy.core.explanation import Explanation
from torchwhy.core.site import Site
from torchwhy.engines.rules import trace
from torchwhy.methods import (
    LRP,
    RISE,
    Banzhaf,
    Deconvolution,
    DeepLift,
    DeepLiftShap,
    FeatureAblation,
    FeaturePermutation,
    GradCAM,
    GradientShap,
    GuidedBackprop,
    InputXGradient,
    IntegratedGradients,
    KernelShap,
    Lime,
    Method,
    NoiseTunnel,
    Occlusion,
    RectGrad,
    Saliency,
    ShapleyValues,
    ShapleyValueSampling,
    SmoothGrad,
    SmoothGradSquared,
    VarGrad,
)

__all__ = [
    "LRP",
    "RISE",
    "Banzhaf",
    "Check",
    "Deconvolution",
    "DeepLift",
    "DeepLiftShap",
    "Explanation",
    "FeatureAblation",
    "FeaturePermutation",
    "GradCAM",
    "GradientShap",
    "GuidedBackprop",
    "InputXGradient",
    "IntegratedGradients",
    "KernelShap",
    "Lime",
    "Method",
    "MissingExtraError",
    "NoiseTunnel",
    "Occlusion",
    "RectGrad",
    "Saliency",
    "ShapleyValueSampling",
    "ShapleyValues",
    "Site",
    "SmoothGrad",
    "SmoothGradSquared",
    "TorchwhyError",
    "UnsupportedError",
    "VarGrad",
    "Verdict",
    "explain",
    "trace",
]
