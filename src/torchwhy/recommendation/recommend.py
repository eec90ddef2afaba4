"""Which method should I use here?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torchwhy.core.errors import TorchwhyError
from torchwhy.core.guard import untouched
from torchwhy.core.options import at_least
from torchwhy.core.progress import Progress
from torchwhy.core.site import At, Sites
from torchwhy.core.target import TargetLike
from torchwhy.core.tensors import TensorOrTensors, as_tensors
from torchwhy.engines.noise import check_seed
from torchwhy.recommendation.bench import Bench
from torchwhy.recommendation.entries import MethodLike, MetricLike, candidates, judges
from torchwhy.recommendation.result import Recommendation
from torchwhy.recommendation.search import LEAST, Search


def recommend(
    model: Any,
    inputs: TensorOrTensors,
    target: TargetLike = None,
    *,
    at: At = None,
    methods: Sequence[MethodLike] | None = None,
    metrics: Sequence[MetricLike] | None = None,
    budget: int | None = None,
    baselines: Any = None,
    background: Any = None,
    additional_forward_args: Any = None,
    batch_size: int | None = None,
    seed: int = 0,
    progress: bool | None = None,
) -> Recommendation:
    r"""Which method should be used on this model and data like these?

    1. Every method is tried on one example; one that does not run is listed with the reason.
    2. One half of the examples, drawn by ``seed``, tunes: settings of all methods (`torchwhy.recommendation.settings`)
       race by successive halving; of each method the cheapest setting within one standard error of its best is kept.
    3. On the other half, the finalists are scored. A metric of faithfulness counts only if the method that led it on
       the first half is above all controls (random, constant, the size of the input, its edges) by more than chance
       (bootstrap-t, Holm). Metrics that count are averaged after each was put on a scale from random attributions, 0,
       to its best method, 1: the merit.
    4. All pairs of finalists are compared by paired bootstrap, with intervals that hold together (max-t). What may be
       chance is a tie. The cheapest within one standard error of the highest merit is chosen.
    5. A random linear term :math:`g` is planted into the model's score :math:`f`, to see how far each method is from
       :math:`\phi(f + g) = \phi(f) + \phi(g)`.

    Args:
        model: a module or function from the inputs to an output.
        inputs: (N, ...) or a tuple of such, at least 10 examples like those to be explained.
        target: what to explain, see `torchwhy.core.target`; None is the model's own predictions.
        at: the layer to explain, a name, a module or a `Site`: methods are asked there, and metrics remove what the
            layer holds. None is the input, to the size of which class activation maps are enlarged, and a part of their
            tuning is which layer they look at.
        methods: names, classes, which are tuned, or methods made for the model, which stay as they are; None is all
            that stand alone.
        metrics: names, classes or metrics with their options, of faithfulness and robustness; None is those of
            `torchwhy.recommendation.settings.JUDGES`.
        budget: model evaluations at most: rows sent through the model, forward or backward; None is no limit. Less
            budget means fewer examples, settings and methods, never another way of judging.
        baselines: what methods compare with, where they do, and what stands for what metrics remove.
        background: rows to compare with, for methods that take a set; None is the first 16 inputs.
        additional_forward_args: further arguments of the model, a tuple, or a dict of those that go by name.
        batch_size: rows per pass; None measures what fits.
        seed: of the split, of the bootstrap and of the planted term.
        progress: show a progress bar; None does on a terminal.

    Raises:
        TorchwhyError: what was given does not fit, no method runs, or the budget is too small for any comparison.

    >>> import torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2)).eval()
    >>> found = recommend(model, torch.randn(12, 6), methods=["Saliency", "IntegratedGradients"], metrics=["Deletion"])
    >>> len(found.contenders), found.tuned, found.scored
    (2, 6, 6)
    """
    tensors, _ = as_tensors(inputs)
    check_seed(seed)
    if isinstance(at, list | tuple | Sites):
        raise TorchwhyError("methods are compared at one layer: compare at each of several by itself")
    if budget is not None:
        at_least("budget", budget, 1)
    if tensors.size < 2 * LEAST:
        raise TorchwhyError(
            f"methods are compared over examples, half of them to tune on: give {2 * LEAST} or more, not {tensors.size}"
        )
    faithful, steady = judges(metrics)
    with untouched(model, tensors.device):
        bench = Bench(
            model, inputs, at, target, baselines, background, additional_forward_args, batch_size, Progress(progress)
        )
        made, refused = candidates(bench, methods)
        return Search(bench, faithful, steady, math.inf if budget is None else budget, seed, refused).run(made)
