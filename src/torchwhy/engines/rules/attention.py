"""Attention weights of any model: what a softmax gave and values are multiplied by.

No module is asked for its weights. Fused attention runs written out (`decompose`), and a softmax over the last
dimension whose result goes into a matrix product in front of another tensor is attention, whoever wrote it.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812  as everyone calls it
from torch import Tensor
from torch.autograd.graph import get_gradient_edge
from torch.overrides import TorchFunctionMode

from torchwhy.core.errors import UnsupportedError
from torchwhy.core.problem import Problem
from torchwhy.core.target import Target
from torchwhy.core.tensors import Tensors
from torchwhy.engines.rules.composite import Composite
from torchwhy.engines.rules.decompose import Refused, opened, scaled_dot_product_attention
from torchwhy.engines.rules.operations import names, operation
from torchwhy.engines.rules.passes import Ruled, visible
from torchwhy.engines.rules.place import Place, here, names_of

_OPENED = {
    "scaled_dot_product_attention": scaled_dot_product_attention,
    "multi_head_attention_forward": opened(F.multi_head_attention_forward),
}
_PRODUCTS = names("matmul bmm einsum baddbmm")
# What a model does to attention weights before it multiplies values by them: dropout, masks, casts, other shapes.
_KEPT = frozenset(
    names(
        """
        dropout to type type_as float double half bfloat16 view reshape flatten unflatten contiguous clone detach
        squeeze unsqueeze expand repeat_interleave masked_fill where mul div nan_to_num getitem narrow
        """
    )
)


class Attention(NamedTuple):
    """Weights (B, heads, T, T) of a layer, row by row what a token takes from the others, and the score's gradient."""

    weights: Tensor
    gradient: Tensor


class Watcher(TorchFunctionMode):
    """Keeps the attention weights of a forward pass, in the order in which they were used.

    Args:
        model: for the names of its modules.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.found: list[tuple[Tensor, Place]] = []
        self._model = model
        self._marked: dict[int, Tensor] = {}  # by identity, kept so that no other tensor gets it
        self._leaves: dict[int, Tensor] = {}  # in place of those without a gradient

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = operation(func).name
        if (smaller := _OPENED.get(name)) is not None:
            try:
                with self:
                    return smaller(*args, **kwargs)
            except Refused as why:
                raise UnsupportedError(f"the attention in {self.place()} cannot be read: {why}") from None
        if name in _PRODUCTS:
            args = self._product(name, args)
        out = func(*args, **kwargs)
        if isinstance(out, Tensor) and (_over_the_last(name, out, args, kwargs) or self._kept(name, args)):
            self._marked[id(out)] = out
        return out

    def _kept(self, name: str, args: tuple[Any, ...]) -> bool:
        return name in _KEPT and any(id(a) in self._marked for a in args if isinstance(a, Tensor))

    def _product(self, name: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """The arguments of a matrix product; if one is attention, as a tensor that has a gradient."""
        first = {"einsum": 1, "baddbmm": 1}.get(name, 0)
        listed = len(args) > first and isinstance(args[first], list | tuple)
        operands = list(args[first] if listed else args[first:])
        i = next((i for i, a in enumerate(operands) if id(a) in self._marked and (i == 0 or name == "einsum")), None)
        if i is None:
            return args
        if torch.is_grad_enabled() and not operands[i].requires_grad:  # nothing in front of it has a gradient
            operands[i] = self._leaves.setdefault(id(operands[i]), operands[i].detach().requires_grad_())
        if all(operands[i] is not known for known, _ in self.found):
            self.found.append((operands[i], self.place()))
        return (*args[:first], operands) if listed else (*args[:first], *operands)

    def place(self) -> Place:
        """Where the model is."""
        return here(names_of(self._model))


def _over_the_last(name: str, out: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
    return name == "softmax" and out.ndim > 2 and dim in (-1, out.ndim - 1)


class Attended(Ruled):
    """The same question with attention: ``Attended.by(p, "AttentionRollout").attention()``."""

    @classmethod
    def by(cls, p: Problem, name: str) -> Attended:
        """For the method of that name."""
        return cls.of(p, Composite(name, ()))

    def attention(self) -> list[Attention]:
        """What every layer that the score depends on attends to, from the first to the last."""
        _, both = self.at_point()
        return [Attention(*both.parts[i : i + 2]) for i in range(0, len(both), 2)]

    def _leaf(self, t: Tensor) -> Tensor:
        return t.detach()  # the gradients wanted are those of attention weights, and token ids have none

    def _run(self, z: Tensors | None, rows: Tensor, gradients: bool) -> Any:
        self._watcher = Watcher(self.model)
        with visible():
            return Problem._run(self, z, rows, gradients)

    def _forward(self, z: Tensors | None, rows: Tensor, gradients: bool) -> Any:
        if not gradients:
            return Problem._forward(self, z, rows, gradients)
        with self._watcher:
            return Problem._forward(self, z, rows, gradients)

    def _score(self, seen: Any, rows: Tensor, gradients: bool) -> Any:
        return Problem._score(self, seen, rows, gradients)

    def _differentiate(self, scores: Tensor, leaves: Tensors, target: Target, *, again: bool = False) -> Tensors:
        found = self._watcher.found
        if not found:
            raise UnsupportedError(
                f"{self.composite.name} found no attention: no softmax over the last dimension whose result multiplies "
                f"values; torch.jit, kernels of other packages and torch.autograd.Function hide theirs"
            )
        slopes = self._gradients(scores, tuple(weights for weights, _ in found), target, again=again)
        used = [(*pair, slope) for pair, slope in zip(found, slopes, strict=True) if slope is not None]
        if not used:
            raise UnsupportedError(f"the score depends on no attention behind {self.site or 'the input'}")
        for (one, place, _), (other, other_place, _) in pairwise(used):
            _check_behind(one, place, other, other_place)
        layers = [
            Attention(shaped := _by_head(weights, len(scores), place), slope.reshape(shaped.shape))
            for weights, place, slope in used
        ]
        tokens = {layer.weights.shape[-1] for layer in layers}
        if len(tokens) > 1:
            raise UnsupportedError(
                f"{self.composite.name} follows the same tokens through all layers, and these attend to "
                f"{' and '.join(map(str, sorted(tokens)))} of them: explain a part of the model in which they stay"
            )
        return Tensors(t.detach() for layer in layers for t in layer)


def _check_behind(one: Tensor, place: Place, other: Tensor, other_place: Place) -> None:
    """Refuse weights that do not depend on those used before them."""
    wanted, nodes = get_gradient_edge(one).node, [get_gradient_edge(other).node]
    seen = set(nodes)
    while nodes:
        node = nodes.pop()
        if node is wanted:
            return
        new = {n for n, _ in node.next_functions if n is not None} - seen
        seen |= new
        nodes.extend(new)
    raise UnsupportedError(
        f"the attention in {other_place} does not stand behind that in {place}: only layers one behind the other are "
        f"followed, not two parts of a model such as an encoder and a decoder"
    )


def _by_head(weights: Tensor, rows: int, place: Place) -> Tensor:
    """(rows, heads, T, T) of weights whose leading dimensions hold rows and heads in this order."""
    ahead, (queries, keys) = weights.shape[:-2].numel(), weights.shape[-2:]
    if queries != keys:
        raise UnsupportedError(
            f"the attention in {place} goes from {queries} tokens to {keys} others: only self-attention is followed"
        )
    if (weights.ndim > 3 and len(weights) != rows) or ahead % rows:
        raise UnsupportedError(
            f"the attention in {place} has weights {tuple(weights.shape)} for {rows} examples: within windows, or over "
            f"the examples; only attention over all tokens of an example is followed"
        )
    return weights.reshape(rows, ahead // rows, queries, keys)
