"""The methods, a file per idea. Importing this package enters them into the registry."""

from torchwhy.methods.ablation import FeatureAblation, Occlusion
from torchwhy.methods.backprop import Deconvolution, GuidedBackprop, RectGrad
from torchwhy.methods.banzhaf import Banzhaf
from torchwhy.methods.base import Attribution, Level, Method
from torchwhy.methods.deep_lift import DeepLift, DeepLiftShap
from torchwhy.methods.grad_cam import GradCAM
from torchwhy.methods.gradient_shap import GradientShap
from torchwhy.methods.integrated_gradients import IntegratedGradients
from torchwhy.methods.kernel_shap import KernelShap
from torchwhy.methods.lime import Lime
from torchwhy.methods.lrp import LRP
from torchwhy.methods.noise_tunnel import NoiseTunnel, SmoothGrad, SmoothGradSquared, VarGrad
from torchwhy.methods.permutation import FeaturePermutation
from torchwhy.methods.rise import RISE
from torchwhy.methods.saliency import InputXGradient, Saliency
from torchwhy.methods.shapley import ShapleyValues, ShapleyValueSampling

__all__ = [
    "LRP",
    "RISE",
    "Attribution",
    "Banzhaf",
    "Deconvolution",
    "DeepLift",
    "DeepLiftShap",
    "FeatureAblation",
    "FeaturePermutation",
    "GradCAM",
    "GradientShap",
    "GuidedBackprop",
    "InputXGradient",
    "IntegratedGradients",
    "KernelShap",
    "Level",
    "Lime",
    "Method",
    "NoiseTunnel",
    "Occlusion",
    "RectGrad",
    "Saliency",
    "ShapleyValueSampling",
    "ShapleyValues",
    "SmoothGrad",
    "SmoothGradSquared",
    "VarGrad",
]
