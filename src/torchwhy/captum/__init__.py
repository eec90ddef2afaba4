"""Captum's names and signatures, answered by torchwhy: change the import and keep the code.

>>> import torch
>>> from torchwhy.captum import IntegratedGradients
>>> ig = IntegratedGradients(lambda x: (x**3).sum(1))
>>> values, delta = ig.attribute(torch.tensor([[2.0, 1.0]]), n_steps=20, return_convergence_delta=True)
>>> values.round(decimals=4), delta.abs() < 1e-4
(tensor([[8., 1.]]), tensor([True]))

What is in ``captum.attr``, ``captum.metrics`` and ``captum.robust`` is here side by side. No method is implemented
here: the classes are made from `torchwhy.captum._table`, and ask ours.
"""

from typing import Any

from torch import Tensor
from torch.nn.functional import interpolate

from torchwhy.captum import embedding, inputs, measures, stats, visualization
from torchwhy.captum._classes import make
from torchwhy.captum._special import ANSWERS, permute_feature
from torchwhy.core.errors import closest

_NAMES: dict[str, Any] = {
    **make(ANSWERS, permute_feature=permute_feature),
    **{
        name: getattr(module, name)
        for module, names in {
            embedding: """InterpretableEmbeddingBase ProductBaselines TokenReferenceBase
                configure_interpretable_embedding_layer remove_interpretable_embedding_layer""",
            measures: """AttackComparator FGSM MinParamPerturbation PGD Perturbation infidelity
                infidelity_perturb_func_decorator sensitivity_max""",
            stats: """ClassSummarizer CommonStats Count MSE Max Mean Min StatValue StdDev Sum Summarizer
                SummarizerSingleTensor Var""",
            inputs: "ImageMaskInput InterpretableInput TextTemplateInput TextTokenInput",
        }.items()
        for name in names.split()
    },
    "visualization": visualization,
}


def _interpolate(layer_attribution: Tensor, interpolate_dims: Any, interpolate_mode: str = "nearest") -> Tensor:
    """Attributions (B, C, ...) of a layer in other spatial dimensions, such as those of the input."""
    return interpolate(layer_attribution, interpolate_dims, mode=interpolate_mode)


_NAMES["LayerAttribution"].interpolate = staticmethod(_interpolate)
globals().update(_NAMES)

__all__ = sorted(_NAMES)  # noqa: PLE0605  made from the table


def __getattr__(name: str) -> Any:
    raise AttributeError(f"torchwhy.captum has no {name!r}{closest(name, _NAMES)}")
