"""Feature masks: which elements of the inputs come and go together.

A mask holds the integer number of each element's feature and broadcasts to the inputs. Elements with the same number
are one feature; those with the number `KEPT` belong to none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from torchwhy.core.errors import MissingExtraError, TorchwhyError

KEPT = torch.iinfo(torch.long).min
"""The number of elements that are never removed."""


def channels(inputs: Tensor) -> Tensor:
    """A feature mask that makes every channel of maps (B, C, ...) one feature.

    >>> channels(torch.zeros(5, 3, 8, 8)).shape
    torch.Size([3, 1, 1])
    """
    if inputs.ndim < 2:
        raise TorchwhyError(f"channels lie in dimension 1, which an input of {tuple(inputs.shape)} does not have")
    return torch.arange(inputs.shape[1]).view(-1, *[1] * (inputs.ndim - 2))


def columns(count: int, groups: Mapping[str, Sequence[int]] | Sequence[Sequence[int]]) -> Tensor:
    """A feature mask for a table of ``count`` columns: each group is one feature, each other column its own.

    So that the columns of one category, which say "one of these", come and go together.

    >>> columns(6, {"colour": [1, 2, 3]})
    tensor([0, 1, 1, 1, 2, 3])
    """
    named = groups if isinstance(groups, Mapping) else dict(enumerate(groups))
    owner: dict[int, object] = {}
    for name, members in named.items():
        for column in members:
            if isinstance(column, bool) or not isinstance(column, int) or not 0 <= column < count:
                raise TorchwhyError(f"group {name!r} holds column {column!r}: columns are numbered 0 to {count - 1}")
            if column in owner:
                raise TorchwhyError(f"column {column} is in two groups, {owner[column]!r} and {name!r}")
            owner[column] = name
    numbers: dict[object, int] = {}
    return torch.tensor([numbers.setdefault(owner.get(c, (c,)), len(numbers)) for c in range(count)])


def tokens(
    inputs: Tensor,
    special: Tensor | Sequence[int] = (),
    words: Sequence[Sequence[int | None]] | None = None,
) -> Tensor:
    """A feature mask that makes every token one feature.

    Args:
        inputs: token ids (B, T), or embeddings (B, T, D).
        special: tokens that are never removed, such as those of padding and of the start, and get 0: their ids, or
            booleans (B, T) that are true there.
        words: for each example the word that each token is a piece of, as a tokenizer's ``word_ids()`` tells: the
            pieces of a word are one feature, and None is never removed.

    Returns:
        (B, T), or (B, T, 1) for embeddings. Absent tokens get the baseline: give the id of the mask token, or of
        padding, as ``baselines``.

    >>> ids = torch.tensor([[101, 7, 8, 9, 102]])
    >>> mask = tokens(ids, special=(101, 102), words=[[None, 0, 0, 1, None]])
    >>> from torchwhy import FeatureAblation
    >>> FeatureAblation(lambda ids: (ids == 8).sum(1).double(), feature_mask=mask).attribute(ids, baselines=103)
    tensor([[0., 1., 1., 0., 0.]], dtype=torch.float64)
    """
    if inputs.ndim not in (2, 3) or (inputs.ndim == 2 and inputs.is_floating_point()):
        raise TorchwhyError(f"tokens are ids (B, T) or embeddings (B, T, D), not {inputs.dtype} {tuple(inputs.shape)}")
    shape = tuple(inputs.shape[:2])
    mask = torch.arange(shape[1]).repeat(shape[0], 1)
    if words is not None:
        if [len(row) for row in words] != [shape[1]] * shape[0]:
            raise TorchwhyError(f"words name the word of each of {shape[1]} tokens, for each of {shape[0]} examples")
        mask = torch.tensor([[KEPT if word is None else word for word in row] for row in words])
    if not isinstance(special, Tensor):
        if inputs.ndim == 3 and len(special):
            raise TorchwhyError("embeddings have no ids: give special as booleans (B, T)")
        ids = torch.tensor(list(special), dtype=torch.long)
        special = torch.isin(inputs.cpu(), ids) if len(ids) else torch.zeros(shape, dtype=torch.bool)
    if special.dtype != torch.bool or special.shape != shape:
        raise TorchwhyError(f"special holds booleans {shape}, or ids, not {special.dtype} {tuple(special.shape)}")
    mask = mask.masked_fill(special.cpu(), KEPT)
    return mask if inputs.ndim == 2 else mask[:, :, None]


def superpixels(images: Tensor, n_segments: int = 50, compactness: float = 10.0) -> Tensor:
    """A feature mask of pieces of one colour (SLIC): (B, C, H, W) to (B, 1, H, W), other pieces for every image.

    Args:
        images: one channel is treated as grey, three as red, green and blue; the range does not matter.
        n_segments: about how many pieces; an image may get a few less.
        compactness: how square the pieces are, against how much of one colour.

    Paper: R. Achanta et al., IEEE TPAMI 34(11), 2012. Needs scikit-image.
    """
    try:
        from skimage.segmentation import slic
    except ImportError as error:
        raise MissingExtraError("scikit-image", "vision") from error
    if images.ndim != 4:
        raise TorchwhyError(f"superpixels are of images (B, C, H, W), not {tuple(images.shape)}")
    found = []
    for image in images.detach().cpu().double():
        low, high = image.min(), image.max()
        pixels = ((image - low) / (high - low).clamp_min(1e-12)).movedim(0, -1).numpy()
        colour = pixels.shape[-1] == 3
        pieces = slic(
            pixels, n_segments=n_segments, compactness=compactness, start_label=0, channel_axis=-1, convert2lab=colour
        )
        found.append(torch.from_numpy(pieces.astype(np.int64)))
    return torch.stack(found)[:, None]
