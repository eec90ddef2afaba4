"""The methods, a file per idea. Importing this package enters them into the registry."""

from torchwhy.methods.ablation import FeatureAblation, Occlusion
from torchwhy.methods.attention import AttentionRollout, TransformerRelevance
from torchwhy.methods.backprop import BetaSmooth, Deconvolution, GuidedBackprop, RectGrad
from torchwhy.methods.banzhaf import Banzhaf
from torchwhy.methods.base import Attribution, Level, Method
from torchwhy.methods.conductance import Conductance, InternalInfluence
from torchwhy.methods.deep_lift import DeepLift, DeepLiftShap
from torchwhy.methods.eigen_cam import KPCACAM, EigenCAM, EigenGradCAM, RandomCAM
from torchwhy.methods.excitation import ExcitationBackprop
from torchwhy.methods.full_grad import FullGrad
from torchwhy.methods.grad_cam import (
    FinerCAM,
    GradCAM,
    GradCAMElementWise,
    GradCAMPlusPlus,
    HiResCAM,
    LayerCAM,
    ShapleyCAM,
    XGradCAM,
)
from torchwhy.methods.gradient_shap import GradientShap
from torchwhy.methods.guided_grad_cam import GuidedGradCAM
from torchwhy.methods.hsic import HSICAttribution
from torchwhy.methods.integrated_gradients import IntegratedGradients
from torchwhy.methods.interactions import ShapleyInteractions
from torchwhy.methods.kernel_shap import KernelShap
from torchwhy.methods.lime import Lime
from torchwhy.methods.lrp import LRP
from torchwhy.methods.noise_tunnel import NoiseTunnel, SmoothGrad, SmoothGradSquared, VarGrad
from torchwhy.methods.owen import OwenSampling
from torchwhy.methods.partition import PartitionShap
from torchwhy.methods.permutation import FeaturePermutation
from torchwhy.methods.rise import RISE
from torchwhy.methods.saliency import InputXGradient, Saliency
from torchwhy.methods.score_cam import AblationCAM, ScoreCAM
from torchwhy.methods.shapley import ShapleyValues, ShapleyValueSampling
from torchwhy.methods.sobol import SobolAttribution

__all__ = [
    "KPCACAM",
    "LRP",
    "RISE",
    "AblationCAM",
    "AttentionRollout",
    "Attribution",
    "Banzhaf",
    "BetaSmooth",
    "Conductance",
    "Deconvolution",
    "DeepLift",
    "DeepLiftShap",
    "EigenCAM",
    "EigenGradCAM",
    "ExcitationBackprop",
    "FeatureAblation",
    "FeaturePermutation",
    "FinerCAM",
    "FullGrad",
    "GradCAM",
    "GradCAMElementWise",
    "GradCAMPlusPlus",
    "GradientShap",
    "GuidedBackprop",
    "GuidedGradCAM",
    "HSICAttribution",
    "HiResCAM",
    "InputXGradient",
    "IntegratedGradients",
    "InternalInfluence",
    "KernelShap",
    "LayerCAM",
    "Level",
    "Lime",
    "Method",
    "NoiseTunnel",
    "Occlusion",
    "OwenSampling",
    "PartitionShap",
    "RandomCAM",
    "RectGrad",
    "Saliency",
    "ScoreCAM",
    "ShapleyCAM",
    "ShapleyInteractions",
    "ShapleyValueSampling",
    "ShapleyValues",
    "SmoothGrad",
    "SmoothGradSquared",
    "SobolAttribution",
    "TransformerRelevance",
    "VarGrad",
    "XGradCAM",
]
