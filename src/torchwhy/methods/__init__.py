"""The methods, a file per idea. Importing this package enters them into the registry."""

from torchwhy.methods.ablation import FeatureAblation, Occlusion
from torchwhy.methods.base import Attribution, Level, Method
from torchwhy.methods.grad_cam import GradCAM
from torchwhy.methods.gradient_shap import GradientShap
from torchwhy.methods.integrated_gradients import IntegratedGradients
from torchwhy.methods.noise_tunnel import NoiseTunnel, SmoothGrad, SmoothGradSquared, VarGrad
from torchwhy.methods.saliency import InputXGradient, Saliency

__all__ = [
    "Attribution",
    "FeatureAblation",
    "GradCAM",
    "GradientShap",
    "InputXGradient",
    "IntegratedGradients",
    "Level",
    "Method",
    "NoiseTunnel",
    "Occlusion",
    "Saliency",
    "SmoothGrad",
    "SmoothGradSquared",
    "VarGrad",
]
