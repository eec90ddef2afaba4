"""Several metrics of the same explanations, which share what they ask the model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from torchwhy.core.errors import MissingExtraError, TorchwhyError, closest
from torchwhy.core.target import TargetLike
from torchwhy.core.tensors import TensorOrTensors
from torchwhy.metrics.base import Explained, Metric
from torchwhy.metrics.correlations import SubsetMetric
from torchwhy.metrics.rating import Rating
from torchwhy.registry import metrics


@dataclass(frozen=True, eq=False)
class Panel(Mapping[str, Rating]):
    """Scores by the names of their metrics.

    Attributes:
        scores: in the order in which they were asked for.
        skipped: metrics that do not apply to these explanations, and why.
    """

    scores: dict[str, Rating]
    skipped: dict[str, str] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Rating:
        return self.scores[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.scores)

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def evaluations(self) -> int:
        """Rows that the model was asked for by all of them."""
        return sum(score.evaluations for score in self.scores.values())

    def __repr__(self) -> str:
        """A table of means over the explanations, beside those of the controls."""
        controls = list(dict.fromkeys(name for score in self.scores.values() for name in score.controls))
        rows = [["metric", "value", "better", *controls, "undefined"]]
        for name, score in self.scores.items():
            others = [
                _number(score.controls[c].double().nanmean().item()) if c in score.controls else "" for c in controls
            ]
            undefined = sum(score.undefined.values())
            rows.append([name, _number(score.mean), score.direction, *others, str(undefined) if undefined else ""])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join(lines + self._reasons() + [f"{name}: {reason}" for name, reason in self.skipped.items()])

    def _reasons(self) -> list[str]:
        """Why there is no value where there is none, in lines."""
        found = [f"{name}: {n} undefined: {why}" for name, s in self.scores.items() for why, n in s.undefined.items()]
        for name, score in self.scores.items():
            for control, reasons in score.control_reasons.items():
                if why := next(filter(None, reasons), ""):
                    found.append(f"{name}, {control}: {sum(map(bool, reasons))} undefined: {why}")
        return found

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "scores": {name: score.as_dict() for name, score in self.scores.items()},
            "skipped": self.skipped,
            "evaluations": self.evaluations,
        }


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.4g}"


def panel(
    judges: Sequence[Metric],
    explained: Explained,
    inputs: TensorOrTensors | None = None,
    baselines: Any = None,
    target: TargetLike = None,
    additional_forward_args: Any = None,
    *,
    layer_baselines: Any = None,
    mask: TensorOrTensors | None = None,
) -> Panel:
    """Judge the same explanations by several metrics; what one has asked the model, the others know.

    Takes what `Metric.score` takes, and

    Args:
        judges: metrics of the same model, the first of which also says how many rows go into a pass.

    Raises:
        TorchwhyError: there are two of one name, or what was given does not fit one of them.
    """
    names = [type(m).__name__ for m in judges]
    if not judges or len(set(names)) < len(names):
        raise TorchwhyError("a panel has one metric or more, each of another kind")
    for m in judges:
        m.needs(explained, inputs, mask if "mask" in m.info.needs else None)
    # The first that asks for most opens what all of them judge.
    widest = max(judges, key=lambda m: ("mask" in m.info.needs, "model" in m.info.needs, "explainer" in m.info.needs))
    with widest.judging(
        explained, inputs, baselines, target, additional_forward_args, layer_baselines=layer_baselines, mask=mask
    ) as judged:
        return Panel({type(m).__name__: m.judge(judged) for m in judges})


def faithfulness_panel(
    model: Any,
    explained: Explained,
    inputs: TensorOrTensors | None = None,
    baselines: Any = None,
    target: TargetLike = None,
    additional_forward_args: Any = None,
    *,
    layer_baselines: Any = None,
    controls: tuple[str, ...] = (),
    **options: Any,
) -> Panel:
    r"""All metrics of faithfulness, on the same positions and with the same fill, at the cost of their different rows.

    Alone, each metric has defaults of its own. Here they are such that the rows of one serve the others:

    - All curves take the same 20 steps in the same two orders, `Selectivity` and `IROF` too: here `Selectivity` is
      `Deletion`. `RegionPerturbation` removes 10 regions.
    - `FaithfulnessCorrelation`, `MuFidelity` and `Infidelity` see the same 32 subsets. `SensitivityN` has subsets of
      three sizes: these, half of the positions, and single positions, which `FaithfulnessEstimate` removes anyway.
    - `PixelFlipping` flips the positions of the others.

    With M positions these are about 175 + M rows per example, 239 for 64 patches. The standard error of a correlation
    :math:`r` over n subsets is about :math:`(1 - r^2) / \sqrt{n - 1}`: where it is 0.5, that is 0.13 for one example,
    in place of 0.08 with the 100 subsets of the metrics alone. An option that is given counts: 32 more of
    ``n_subsets`` cost 64 rows more.

    Takes what `Metric.score` takes, and

    Args:
        model: what was explained.
        controls: judged beside the explanations, see `torchwhy.metrics.controls`.
        options: of the metrics that have them, such as ``at``, ``positions``, ``fill``, ``n_steps`` or ``seed``. `IROF`
            keeps its superpixels and its fill, and `ROAD` its fill.

    >>> import torch
    >>> w = torch.tensor([3.0, 1.0, -2.0, 0.5])
    >>> found = faithfulness_panel(lambda x: x @ w, w[None], torch.ones(1, 4))
    >>> found["FaithfulnessCorrelation"].value.round(decimals=4)
    tensor([1.])
    >>> found.skipped
    {'IROF': 'it is for images, not ((1, 4),)', 'ROAD': 'it is for images, not ((1, 4),)'}
    """
    judges = _faithfulness(model, controls, options)
    with judges[0].judging(
        explained, inputs, baselines, target, additional_forward_args, layer_baselines=layer_baselines
    ) as judged:
        images = all(t.ndim == 4 and t.is_floating_point() for t in judged.p.point)
        skipped = {} if images else dict.fromkeys(_OF_IMAGES, f"it is for images, not {judged.p.point.shapes}")
        scores = {}
        for m in judges:
            name = type(m).__name__
            try:
                if name not in skipped:
                    scores[name] = m.judge(judged)
            except MissingExtraError as error:
                skipped[name] = str(error)
        return Panel(scores, skipped)


# Metrics for images alone, and the options that make them what they are.
_OF_IMAGES = {"IROF": {"positions", "fill"}, "ROAD": {"fill"}}


def _shared(options: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Defaults of metrics within a panel, where their own would ask for rows that no other metric needs."""
    steps, subsets = {"n_steps": 20}, {"n_subsets": 32}
    return {
        "FaithfulnessCorrelation": subsets,
        "IROF": steps,
        "Infidelity": subsets,
        "MuFidelity": subsets,
        "PixelFlipping": {"positions": "patches"},
        "RegionPerturbation": {"n_regions": 10},
        "Selectivity": steps,
        # The smallest is a single position.
        "SensitivityN": subsets | {"shares": (0.001, options.get("share", SubsetMetric.share), 0.5)},
    }


def _faithfulness(model: Any, controls: tuple[str, ...], options: dict[str, Any]) -> list[Metric]:
    """All metrics of faithfulness, each with those of the options that it has."""
    classes = {name: cls for name, cls in metrics().items() if cls.info.family == "faithfulness"}
    known = {name: {f.name for f in fields(cls)} - _OF_IMAGES.get(name, set()) for name, cls in classes.items()}
    for option in options:
        if not any(option in names for names in known.values()):
            raise TorchwhyError(
                f"no metric of faithfulness has an option {option!r}{closest(option, set.union(*known.values()))}"
            )
    shared = _shared(options)
    return [
        cls(model, controls=controls, **shared.get(name, {}) | {k: v for k, v in options.items() if k in known[name]})
        for name, cls in classes.items()
    ]
