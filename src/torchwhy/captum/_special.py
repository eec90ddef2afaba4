"""Classes of Captum's that need more than their arguments under other names."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from torchwhy import activations
from torchwhy.captum._asking import (
    Question,
    answer,
    arguments,
    own_draws,
    place,
    question,
    rows_at_once,
    wanted,
)
from torchwhy.captum._classes import Answer, Shim, bound, everything, seeded
from torchwhy.core.errors import TorchwhyError, UnsupportedError
from torchwhy.core.guard import module_of
from torchwhy.core.inputs import broadcast
from torchwhy.core.site import find_place
from torchwhy.core.tensors import TensorOrTensors, Tensors, as_tensors
from torchwhy.engines.game import Groups
from torchwhy.engines.noise import draws, normal
from torchwhy.methods import FeatureAblation, NoiseTunnel, Saliency
from torchwhy.methods.base import Method
from torchwhy.methods.coalitions import DEFAULT_ROWS
from torchwhy.methods.imitation import Imitation
from torchwhy.methods.kernel_shap import fewest


def permute_feature(x: Tensor, feature_mask: Tensor) -> Tensor:
    """Give every example a feature of the one before it; as a default it stands for a shuffle by the object's seed."""
    return torch.where(feature_mask, x.roll(1, 0), x)


def activation(shim: Shim, given: dict[str, Any]) -> Any:
    """What layers hold."""
    at, model = place(given["layer"], given["attribute_to_layer_input"]), given["forward_func"]
    size = as_tensors(given["inputs"])[0].size
    found = activations.capture(
        model,
        given["inputs"],
        at,
        additional_forward_args=arguments(given["additional_forward_args"]),
        batch_size=size,
        progress=False,
    )
    if not isinstance(at, list):
        return next(iter(found.values()))
    sites = find_place(model, at).sites  # type: ignore[union-attr]  # of a list there are several
    return [found[str(site)] for site in sites]


def relevance(shim: Shim, given: dict[str, Any]) -> Any:
    """LRP with the epsilon rule; Captum's rules on modules are refused, since ours are for operations."""
    module = module_of(given["model"])
    ruled = [name for name, m in module.named_modules() if getattr(m, "rule", None) is not None] if module else []
    if ruled:
        raise UnsupportedError(
            f"{ruled[0]!r} has a rule: give them by operation, torchwhy.LRP(model, composite=[(on('linear'), Gamma())])"
        )
    row = type(shim)._row
    return answer(row, question(row, given), given)


def permuted(shim: Shim, given: dict[str, Any]) -> Any:
    """One shuffle of each feature, or what one of the user's own gives."""
    row, own = type(shim)._row, given.pop("perm_func", permute_feature)
    if own is not permute_feature:
        with own_draws(own) as perm_func:
            return answer(row, question(row, given, perm_func=perm_func), given)
    if as_tensors(given["inputs"])[0].size < 2:
        raise TorchwhyError("a feature is shuffled among examples, of which there is only one: give several")
    return answer(row, question(row, given, perm_func=_shuffles(shim.seed)), given)


def _shuffles(seed: int) -> Callable[[Tensor, Tensor], Tensor]:
    """Shuffles of examples, one after the other, that move something."""
    generator = draws(seed, 34)

    def shuffle(x: Tensor, mask: Tensor) -> Tensor:
        order = torch.arange(len(x))
        while torch.equal(order, torch.arange(len(x))):
            order = torch.randperm(len(x), generator=generator)
        return torch.where(mask, x[order.to(x.device)], x)

    return shuffle


def kernel_shap(shim: Shim, given: dict[str, Any]) -> Any:
    """Shapley values by regression, from as many samples as that takes at least."""
    row, features = type(shim)._row, Groups(as_tensors(given["inputs"])[0], given["feature_mask"])
    if (least := fewest(features.count)) <= DEFAULT_ROWS:  # else the method says how many it takes
        given["n_samples"] = max(given["n_samples"], least)
    asked = question(row, given, **seeded(shim))
    with asked.opened() as (p, was_tuple):
        values = asked.method._compute(p).values
        return values.unwrap(was_tuple) if given["return_input_shape"] else _by_feature(values, features)


def _by_feature(values: Tensors, groups: Groups) -> Tensor:
    """One value for each feature (B, M), of values at the elements."""
    ids = Tensors(i.expand(v.shape) for i, v in zip(groups.ids, values, strict=True)).flat()
    rows = values.flat()
    return rows.new_zeros(len(rows), groups.count).scatter_(1, ids, rows)


def lime(shim: Shim, given: dict[str, Any]) -> Any:
    """A linear model of which features are present, for each example, with Captum's default functions."""
    from sklearn.linear_model import Lasso

    inputs, was_tuple = as_tensors(given["inputs"])
    masks = _numbered(inputs, given["feature_mask"])
    count = 1 + max(int(m.max()) for m in masks)
    bases = broadcast(0 if given["baselines"] is None else given["baselines"], inputs, "baselines", "the inputs")
    surrogate, found = given["interpretable_model"], []
    score = _score_of_one(given)
    for i in range(inputs.size):
        one = slice(i, i + 1)
        mask = Tensors(m[one] if len(m) > 1 else m for m in masks)
        known = {"feature_mask": mask.unwrap(was_tuple), "baselines": bases[one].unwrap(was_tuple)}
        near = Imitation(
            Lasso(alpha=0.01) if surrogate is None else surrogate,
            given["similarity_func"] or alike,
            given["perturb_func"] or _coins(count, inputs.device, shim.seed),
            removed,
            known=known | {"num_interp_features": count},
        )
        weights = near.coefficients(partial(score, i), inputs[one].unwrap(was_tuple), given["n_samples"])
        found.append((weights.reshape(1, -1), mask))
    if not given["return_input_shape"]:
        return torch.cat([weights for weights, _ in found])
    placed = [_spread(weights, mask, inputs) for weights, mask in found]
    return Tensors.cat(placed).unwrap(was_tuple)


def _spread(weights: Tensor, mask: Tensors, inputs: Tensors) -> Tensors:
    """Weights (1, M) at the elements of one example."""
    return mask.map(lambda m, t: weights[0][m].expand(1, *t.shape[1:]), inputs)


def lime_base(shim: Shim, given: dict[str, Any]) -> Tensor:
    """A simple model in the user's own space."""
    of_rows = given["perturb_interpretable_space"]
    inputs, was_tuple = as_tensors(given["inputs"])
    if inputs.size > 1:
        raise TorchwhyError(f"LimeBase fits a model for one example, not for {inputs.size}: ask for each by itself")
    near = Imitation(
        given["interpretable_model"],
        given["similarity_func"],
        given["perturb_func"],
        given["from_interp_rep_transform"] if of_rows else None,
        None if of_rows else given["to_interp_rep_transform"],
        given["kwargs"],
    )
    score = _score_of_one(given)
    return near.coefficients(partial(score, 0), inputs.unwrap(was_tuple), given["n_samples"])


def _score_of_one(given: dict[str, Any]) -> Callable[[int, Tensors], Tensor]:
    """From the number of an example and changed copies (N, ...) of it to their scores (N,)."""
    rows = rows_at_once("perturbations_per_eval", given)
    asked = Question(
        Saliency(given["forward_func"], batch_size=rows, progress=bool(given["show_progress"])),
        given["inputs"],
        target=wanted(given["target"]),
        extra=arguments(given["additional_forward_args"]),
    )

    def score(i: int, changed: Tensors) -> Tensor:
        def points(es: slice, ks: slice) -> Tensors:
            return changed[ks].map(lambda t: t[:, None])

        with asked.opened() as (p, _):
            return p.select(torch.tensor([i], device=p.inputs.device)).scores_at(points, changed.size)[:, 0]

    return score


def _numbered(inputs: Tensors, feature_mask: TensorOrTensors | None) -> Tensors:
    """The number of each element's feature, from 0, (1 or B, ...)."""
    if feature_mask is None:
        return Groups(inputs).ids
    ids = Groups._given(inputs, feature_mask)
    least = min(int(i.min()) for i in ids)
    return Tensors(i - least for i in ids)


def _coins(count: int, device: torch.device, seed: int) -> Callable[..., Tensor]:
    """Rows in which a coin decides about each feature."""
    generator = draws(seed, 33)
    return lambda original, **known: (torch.rand(1, count, generator=generator) < 0.5).long().to(device)


def removed(row: Tensor, original: TensorOrTensors, **known: Any) -> TensorOrTensors:
    """The example with the baselines in place of absent features."""
    inputs, was_tuple = as_tensors(original)
    masks, bases = (as_tensors(known[name])[0] for name in ("feature_mask", "baselines"))
    return inputs.map(lambda t, m, b: torch.where(row[0][m].bool(), t, b), masks, bases).unwrap(was_tuple)


def alike(original: TensorOrTensors, near: TensorOrTensors, row: Tensor, **known: Any) -> float:
    """Exponential kernel of width 1 on the cosine distance of the inputs."""
    a, b = (as_tensors(t)[0].flat()[0].float() for t in (original, near))
    distance = 1 - float(torch.nn.functional.cosine_similarity(a, b, dim=0))
    return math.exp(-(distance**2) / 2)


def tunnel(shim: Shim, given: dict[str, Any]) -> Any:
    """A method among noisy copies of the inputs."""
    inner = given["attribution_method"]
    row = type(inner)._row if isinstance(inner, Shim) else None
    if row is None or not row.method or given["draw_baseline_from_distrib"]:
        raise UnsupportedError(
            f"NoiseTunnel goes around a method of this module on a model, not around {type(inner).__name__}, and draws "
            f"no baselines: GradientShap does"
        )
    told = type(inner).attribute.__signature__  # that of the table
    asked_for = everything(inner, bound(told, inner, inputs=given["inputs"], **given["kwargs"]))
    asked = question(row, asked_for, **seeded(inner))
    asked.method = _noisy(shim, asked.method, given)
    result = answer(row, asked, {**asked_for, "return_convergence_delta": False, "custom_attribution_func": None})
    if not asked_for.get("return_convergence_delta"):
        return result
    return result, _noisy_delta(row.delta, asked, given)


def _noisy(shim: Shim, inner: Method, given: dict[str, Any]) -> NoiseTunnel:
    copies = given["nt_samples_batch_size"]
    rows = None if copies is None else copies * as_tensors(given["inputs"])[0].size
    return NoiseTunnel(
        inner,
        nt_type=given["nt_type"],
        nt_samples=given["nt_samples"],
        stdevs=given["stdevs"],
        batch_size=rows,
        progress=False,
        seed=shim.seed,
    )


def _noisy_delta(kind: str, asked: Question, given: dict[str, Any]) -> Tensor:
    """The mean delta of the noisy copies, once for each of them, (B * nt_samples,)."""
    if kind == "promise":
        raise UnsupportedError("a method on a set of baselines has no delta among noisy copies: ask it without noise")
    with asked.opened() as (p, _):
        total = asked.method.with_options(nt_type="smoothgrad").compute(p).values.per_example()
        home = p.elsewhere(None)
        noise = normal(given["stdevs"], p.inputs, asked.method.seed)  # type: ignore[attr-defined]  # of a NoiseTunnel
        assert noise is not None
        mean = home.scores_at(noise, given["nt_samples"]).mean(0)
        delta = mean - total if kind == "score" else total - (mean - home.base_scores())
        return delta.repeat_interleave(given["nt_samples"])


def over_data(shim: Shim, given: dict[str, Any]) -> Any:
    """A feature taken away in all batches of a data loader, and a metric of all outputs."""
    if type(given["attr_method"]).__name__ != "FeatureAblation":
        raise TorchwhyError(
            f"DataLoaderAttribution goes around FeatureAblation, not {type(given['attr_method']).__name__}"
        )
    first = next(iter(given["dataloader"]))
    was_tuple = isinstance(first, tuple | list)
    batch = tuple(first) if was_tuple else (first,)
    roles = tuple(given["input_roles"] or [0] * len(batch))
    if len(roles) != len(batch) or 0 not in roles:
        raise TorchwhyError(f"input_roles is a role for each of the {len(batch)} of a batch, one at least 0: {roles}")
    asked_of = Tensors(t for t, role in zip(batch, roles, strict=True) if role == 0)
    one = asked_of[:1]
    masks = _numbered(one, given["feature_mask"])
    bases = broadcast(0 if given["baselines"] is None else given["baselines"], one, "baselines", "one example")
    count = 1 + max(int(m.max()) for m in masks)
    model = shim.forward_func  # type: ignore[attr-defined]  # of the method within

    def outputs(present: Tensor) -> Tensor:
        """The metric (K, outputs) where only the features of rows (K, M) are present."""
        states: list[Any] = [None] * len(present)
        for some in given["dataloader"]:
            parts = tuple(some) if was_tuple else (some,)
            for k, row in enumerate(present.bool()):
                changed = _without(parts, roles, masks, bases, row)
                output = model(*(t for t, role in zip(changed, roles, strict=True) if role != 2))
                states[k] = (given["reduce"] or _joined)(states[k], output, changed)
        found = [given["to_metric"](s) if given["to_metric"] else s for s in states]
        if not all(isinstance(f, Tensor) for f in found):
            raise TorchwhyError(f"the metric over all batches is a tensor, not {type(found[0]).__name__}")
        return torch.stack([f.flatten() for f in found])

    method = FeatureAblation(outputs, batch_size=given["perturbations_per_pass"], progress=bool(given["show_progress"]))
    features = torch.ones(1, count, device=one.device)
    with torch.no_grad():
        number = outputs(features).shape[1]
    values = torch.cat(method.attribute_each(features, list(range(number))))  # type: ignore[arg-type]  # of a tensor
    if not given["return_input_shape"]:
        return values
    return Tensors(values[:, m[0]] for m in masks).unwrap(was_tuple)


def _without(
    parts: Sequence[Any], roles: tuple[int, ...], masks: Tensors, bases: Tensors, row: Tensor
) -> tuple[Any, ...]:
    """A batch, in which absent features have their baselines."""
    rest = iter(zip(masks, bases, strict=True))

    def one(t: Tensor) -> Tensor:
        mask, base = next(rest)
        return torch.where(row[mask], t, base)

    return tuple(one(t) if role == 0 else t for t, role in zip(parts, roles, strict=True))


def _joined(state: Tensor | None, output: Tensor, inputs: Any) -> Tensor:
    return output if state is None else torch.cat([state, output])


ANSWERS: dict[str, Answer] = {
    "DataLoaderAttribution": over_data,
    "FeaturePermutation": permuted,
    "KernelShap": kernel_shap,
    "LRP": relevance,
    "LayerActivation": activation,
    "LayerFeaturePermutation": permuted,
    "LayerLRP": relevance,
    "Lime": lime,
    "LimeBase": lime_base,
    "NoiseTunnel": tunnel,
}
