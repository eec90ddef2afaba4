"""Does what an explanation marks matter to networks that are trained without it?"""

from torchwhy.retraining.result import Finding, Gap, Retraining
from torchwhy.retraining.roar import SHARES, roar

__all__ = ["SHARES", "Finding", "Gap", "Retraining", "roar"]
