"""The methods, a file per idea. Importing this package enters them into the registry."""

from torchwhy.methods.ablation import FeatureAblation, Occlusion
from torchwhy.methods.backprop import Deconvolution, GuidedBackprop, RectGrad
from torchwhy.methods.base import Attribution, Level, Method
from torchwhy.methods.deep_lift import DeepLift, DeepLiftShap
from torchwhy.methods.grad_cam import GradCAM
from torchwhy.methods.gradient_shap import GradientShap
from torchwhy.methods.integrated_gradients import IntegratedGradients
from torchwhy.methods.lrp import LRP
from torchwhy.methods.noise_tunnel import NoiseTunnel, SmoothGrad, SmoothGradSquared, VarGrad
from torchwhy.methods.saliency import InputXGradient, Saliency

__all__ = [
    "LRP",
    "Attribution",
    "Deconvolution",
    "DeepLift",
    "DeepLiftShap",
    "FeatureAblation",
    "GradCAM",
    "GradientShap",
    "GuidedBackprop",
    "InputXGradient",
    "IntegratedGradients",
    "Level",
    "Method",
    "NoiseTunnel",
    "Occlusion",
    "RectGrad",
    "Saliency",
    "SmoothGrad",
    "SmoothGradSquared",
    "VarGrad",
]
