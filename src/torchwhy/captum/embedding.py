"""Explaining what stands in for tokens: embeddings given in place of their numbers, and reference tokens."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from torchwhy.core.errors import TorchwhyError


class InterpretableEmbeddingBase(nn.Module):
    """In the place of an embedding, a layer that hands on embeddings which it is given.

    Args:
        embedding: the layer it stands for.
        full_name: where that was in the model.
    """

    def __init__(self, embedding: nn.Module, full_name: str) -> None:
        super().__init__()
        self.num_embeddings = getattr(embedding, "num_embeddings", None)
        self.embedding_dim = getattr(embedding, "embedding_dim", None)
        self.embedding = embedding
        self.full_name = full_name

    def forward(self, *inputs: Tensor, **kwargs: Tensor) -> Tensor:
        """The first argument, as it is."""
        given = (*inputs, *kwargs.values())
        if not given:
            raise TorchwhyError("the layer stands for an embedding and hands on what it is given: give it embeddings")
        return given[0]

    def indices_to_embeddings(self, *input: Any, **kwargs: Any) -> Tensor:  # noqa: A002  the name is Captum's
        """What the embedding makes of token numbers."""
        found: Tensor = self.embedding(*input, **kwargs)
        return found


class TokenReferenceBase:
    """Sequences of one token, to compare with.

    >>> TokenReferenceBase(reference_token_idx=7).generate_reference(3, torch.device("cpu"))
    tensor([7, 7, 7])
    """

    def __init__(self, reference_token_idx: int = 0) -> None:
        self.reference_token_idx = reference_token_idx

    def generate_reference(self, sequence_length: int, device: torch.device) -> Tensor:
        """(sequence_length,) token numbers."""
        return torch.full((sequence_length,), self.reference_token_idx, device=device)


def configure_interpretable_embedding_layer(
    model: nn.Module, embedding_layer_name: str = "embedding"
) -> InterpretableEmbeddingBase:
    """Put an `InterpretableEmbeddingBase` in the place of an embedding, until it is removed again.

    No method needs this: ``at="embedding"`` explains an embedding where it is, and leaves the model alone.

    Args:
        model: changed in place.
        embedding_layer_name: of the embedding, as in ``model.named_modules()``.

    >>> model = nn.Sequential(nn.Embedding(5, 2), nn.Flatten())
    >>> standing_in = configure_interpretable_embedding_layer(model, "0")
    >>> model(torch.ones(1, 3, 2))
    tensor([[1., 1., 1., 1., 1., 1.]])
    >>> remove_interpretable_embedding_layer(model, standing_in)
    >>> model
    Sequential(
      (0): Embedding(5, 2)
      (1): Flatten(start_dim=1, end_dim=-1)
    )
    """
    layer = model.get_submodule(embedding_layer_name)
    if isinstance(layer, InterpretableEmbeddingBase):
        raise TorchwhyError(f"{embedding_layer_name!r} has been replaced already: remove what stands there first")
    standing_in = InterpretableEmbeddingBase(layer, embedding_layer_name)
    _put(model, embedding_layer_name, standing_in)
    return standing_in


def remove_interpretable_embedding_layer(model: nn.Module, interpretable_emb: InterpretableEmbeddingBase) -> None:
    """Put the embedding back in its place."""
    _put(model, interpretable_emb.full_name, interpretable_emb.embedding)


def _put(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, module)


class ProductBaselines:
    """Baselines whose parts are drawn each by itself, from Python's global generator.

    Args:
        baseline_values: choices for each part; in a dict, a tuple of names has choices that are tuples.

    >>> ProductBaselines([["a"], ["b"]])(), ProductBaselines({"x": [1], ("y", "z"): [(2, 3)]})()
    (['a', 'b'], {'x': 1, 'y': 2, 'z': 3})
    """

    def __init__(self, baseline_values: Sequence[Sequence[Any]] | Mapping[Any, Sequence[Any]]) -> None:
        named = isinstance(baseline_values, Mapping)
        self.dict_keys = list(baseline_values) if named else []
        self.baseline_values = (
            list(baseline_values.values()) if isinstance(baseline_values, Mapping) else baseline_values
        )

    def sample(self) -> list[Any] | dict[str, Any]:
        """One choice for each part."""
        chosen = [random.choice(choices) for choices in self.baseline_values]  # noqa: S311  nothing secret
        if not self.dict_keys:
            return chosen
        found: dict[str, Any] = {}
        for key, value in zip(self.dict_keys, chosen, strict=True):
            found |= dict(zip(key, value, strict=True)) if isinstance(key, tuple) else {key: value}
        return found

    def __call__(self) -> list[Any] | dict[str, Any]:
        """As `sample`."""
        return self.sample()
