"""Measures of how good an explanation is."""

from torchwhy.metrics.base import Judged, Metric
from torchwhy.metrics.correlations import (
    FaithfulnessCorrelation,
    FaithfulnessEstimate,
    Infidelity,
    Monotonicity,
    MonotonicityCorrelation,
    MuFidelity,
    SensitivityN,
)
from torchwhy.metrics.curves import (
    ABPC,
    IROF,
    ROAD,
    Deletion,
    Insertion,
    PixelFlipping,
    RegionPerturbation,
    Selectivity,
)
from torchwhy.metrics.erasure import (
    PGI,
    PGU,
    AverageDrop,
    Comprehensiveness,
    IncreaseInConfidence,
    Sufficiency,
)
from torchwhy.metrics.panel import Panel, faithfulness_panel, panel
from torchwhy.metrics.score import Curve, Score
from torchwhy.registry import lookup_metric, metrics

__all__ = [
    "ABPC",
    "IROF",
    "PGI",
    "PGU",
    "ROAD",
    "AverageDrop",
    "Comprehensiveness",
    "Curve",
    "Deletion",
    "FaithfulnessCorrelation",
    "FaithfulnessEstimate",
    "IncreaseInConfidence",
    "Infidelity",
    "Insertion",
    "Judged",
    "Metric",
    "Monotonicity",
    "MonotonicityCorrelation",
    "MuFidelity",
    "Panel",
    "PixelFlipping",
    "RegionPerturbation",
    "Score",
    "Selectivity",
    "SensitivityN",
    "Sufficiency",
    "faithfulness_panel",
    "lookup_metric",
    "metrics",
    "panel",
]
