"""How much a model's inputs may change before it decides otherwise."""

from torchwhy.robust.attacks import FGSM, PGD, Attack
from torchwhy.robust.comparator import AttackComparator
from torchwhy.robust.corruptions import CORRUPTIONS, corrupt
from torchwhy.robust.curves import RobustnessCurve, accuracy_curve, corruption_curves
from torchwhy.robust.search import Minimum, MinParamPerturbation, minimum_perturbation

__all__ = [
    "CORRUPTIONS",
    "FGSM",
    "PGD",
    "Attack",
    "AttackComparator",
    "MinParamPerturbation",
    "Minimum",
    "RobustnessCurve",
    "accuracy_curve",
    "corrupt",
    "corruption_curves",
    "minimum_perturbation",
]
