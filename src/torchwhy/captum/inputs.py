"""Inputs with features of their own, words of a template, tokens, regions of a picture, for any model that takes them.

Each gives a row of ones (1, M), one for each feature, and makes what the model takes of a row in which some are 0.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from torchwhy.core.errors import TorchwhyError

if TYPE_CHECKING:
    from PIL.Image import Image


class InterpretableInput(ABC):
    """An input with features that can be taken away.

    Attributes:
        n_itp_features: how many.
        values: their names.
    """

    n_itp_features: int
    values: list[str]

    @abstractmethod
    def to_tensor(self) -> Tensor:
        """A row in which all features are present."""

    @abstractmethod
    def to_model_input(self, perturbed_tensor: Tensor | None = None) -> Any:
        """What the model takes, with the features of a row alone; None is all of them."""

    def format_attr(self, itp_attr: Tensor) -> Tensor:
        """Attributions (..., M) of the features as those of the parts of the input."""
        return itp_attr


class TextTemplateInput(InterpretableInput):
    """A template with values in it, each a feature.

    Args:
        template: a format string, or a function of the values.
        values: by position, or by name.
        baselines: in the place of absent values, or a function that gives them; None is empty text.
        mask: the number of each value's feature, where several come and go together.

    >>> text = TextTemplateInput("{} went to {}.", ["Ann", "Rome"], baselines=["Somebody", "a place"])
    >>> text.to_model_input(torch.tensor([[1, 0]]))
    'Ann went to a place.'
    """

    def __init__(
        self,
        template: str | Callable[..., str],
        values: list[str] | dict[str, str],
        baselines: Any = None,
        mask: list[int] | dict[str, int] | None = None,
    ) -> None:
        if not isinstance(values, list | dict):
            raise TorchwhyError(f"values are a list or a dict, not {type(values).__name__}")
        if not isinstance(template, str) and not callable(template):
            raise TorchwhyError(f"a template is a str or a function, not {type(template).__name__}")
        self.dict_keys = list(values) if isinstance(values, dict) else []
        self.values = self._in_order(values, "values")
        self.n_features = len(self.values)
        self.template, self.format_fn = template, template.format if isinstance(template, str) else template
        self.baselines = baselines if callable(baselines) else self._filled(baselines)
        self.mask = None if mask is None else self._in_order(mask, "mask")
        numbers = range(self.n_features) if self.mask is None else self.mask
        known = sorted(set(numbers))
        self.formatted_mask = [known.index(n) for n in numbers]
        self.n_itp_features = len(known)

    def _in_order(self, given: Any, what: str) -> list[Any]:
        """By position, in the order of the values."""
        if isinstance(given, Mapping) != bool(self.dict_keys):
            raise TorchwhyError(f"{what} are by name where the values are, and else by position")
        found = [given[key] for key in self.dict_keys] if self.dict_keys else list(given)
        if hasattr(self, "values") and len(found) != len(self.values):
            raise TorchwhyError(f"{what}: {len(found)} for {len(self.values)} values")
        return found

    def _filled(self, baselines: Any) -> list[Any]:
        return [""] * self.n_features if baselines is None else self._in_order(baselines, "baselines")

    def to_tensor(self) -> Tensor:
        """(1, M) ones."""
        return torch.ones(1, self.n_itp_features)

    def to_model_input(self, perturbed_tensor: Tensor | None = None) -> str:
        """The text."""
        values = self.values
        if perturbed_tensor is not None:
            bases = self._filled(self.baselines()) if callable(self.baselines) else self.baselines
            there = [bool(perturbed_tensor[0][n]) for n in self.formatted_mask]
            values = [v if is_there else b for v, b, is_there in zip(values, bases, there, strict=True)]
        if self.dict_keys:
            return self.format_fn(**dict(zip(self.dict_keys, values, strict=True)))
        return self.format_fn(*values)

    def format_attr(self, itp_attr: Tensor) -> Tensor:
        """One for each value."""
        return itp_attr[..., self.formatted_mask]


class TextTokenInput(InterpretableInput):
    """A text whose tokens are features.

    Args:
        text: the text.
        tokenizer: as those of Hugging Face, with ``encode``, ``convert_tokens_to_ids`` and ``convert_ids_to_tokens``.
        baselines: the token, or its number, in the place of absent ones.
        skip_tokens: tokens, or their numbers, that are always there.
    """

    def __init__(
        self,
        text: str,
        tokenizer: Any,
        baselines: int | str = 0,
        skip_tokens: Sequence[int] | Sequence[str] | None = None,
    ) -> None:
        self.inp_tensor: Tensor = tokenizer.encode(text, return_tensors="pt")
        skipped = list(skip_tokens or [])
        if skipped and isinstance(skipped[0], str):
            skipped = tokenizer.convert_tokens_to_ids(skipped)
        self.skip_tokens = skip_tokens
        kept = ~torch.isin(self.inp_tensor, torch.tensor(skipped, dtype=self.inp_tensor.dtype))
        self.itp_mask = kept if skipped else None
        self.itp_tensor = self.inp_tensor[kept][None]
        self.values = tokenizer.convert_ids_to_tokens(self.itp_tensor[0].tolist())
        self.tokenizer = tokenizer
        self.n_itp_features = len(self.values)
        self.baselines = baselines if isinstance(baselines, int) else tokenizer.convert_tokens_to_ids([baselines])[0]

    def to_tensor(self) -> Tensor:
        """(1, M) ones."""
        return torch.ones_like(self.itp_tensor)

    def to_model_input(self, perturbed_tensor: Tensor | None = None) -> Tensor:
        """(rows, tokens) numbers."""
        if perturbed_tensor is None:
            return self.inp_tensor
        device, rows = perturbed_tensor.device, len(perturbed_tensor)
        tokens = self.inp_tensor.to(device).repeat(rows, 1)
        kept = self.itp_tensor.to(device).repeat(rows, 1).masked_fill(perturbed_tensor != 1, self.baselines)
        places = torch.ones_like(self.inp_tensor, dtype=torch.bool) if self.itp_mask is None else self.itp_mask
        tokens[places.to(device).expand(rows, -1)] = kept.flatten()
        return tokens


class ImageMaskInput(InterpretableInput):
    """A picture whose regions are features.

    Args:
        image: the picture.
        mask: (H, W) the number of each pixel's region; None is one region.
        mask_list: (H, W) which pixels are in each region instead, where these overlap.
        baseline: the colour in the place of absent regions.
        processor_fn: from a picture to what the model takes.
    """

    def __init__(
        self,
        image: Image,
        mask: Tensor | None = None,
        mask_list: list[Tensor] | None = None,
        baseline: tuple[int, int, int] = (255, 255, 255),
        processor_fn: Callable[[Image], Any] = lambda x: x,
    ) -> None:
        size = (image.size[1], image.size[0])
        for one in mask_list if mask_list is not None else [] if mask is None else [mask]:
            if one.shape != size:
                raise TorchwhyError(f"a mask of shape {tuple(one.shape)} does not fit a picture of {size}")
        self.image, self.baseline, self.processor_fn = image, baseline, processor_fn
        self.mask_list = mask_list or []
        self.mask = torch.empty(0) if mask_list else torch.zeros(size, dtype=torch.int32) if mask is None else mask
        ids = list(range(len(self.mask_list))) if self.mask_list else self.mask.unique().tolist()
        self.mask_id_to_idx = {int(number): place for place, number in enumerate(ids)}
        self.n_itp_features = len(ids)
        self.values = [f"image_feature_{number}" for number in ids]
        self.original_model_inputs = processor_fn(image)

    def to_tensor(self) -> Tensor:
        """(1, M) ones."""
        return torch.ones(1, self.n_itp_features)

    def get_mask_list(self) -> list[Tensor]:
        """(H, W) which pixels are in each region."""
        return self.mask_list or [self.mask == number for number in self.mask_id_to_idx]

    def to_model_input(self, perturbed_tensor: Tensor | None = None) -> Any:
        """What the processor makes of the picture."""
        if perturbed_tensor is None:
            return self.original_model_inputs
        from PIL import Image

        pixels = np.array(self.image)
        for region, there in zip(self.get_mask_list(), perturbed_tensor[0], strict=True):
            if there == 0:
                pixels[region.bool().numpy()] = self.baseline
        return self.processor_fn(Image.fromarray(pixels.astype("uint8")))

    def format_pixel_attr(self, itp_attr: Tensor) -> Tensor:
        """Attributions (..., H, W) of the pixels; where regions overlap, their sum."""
        regions = torch.stack(self.get_mask_list()).to(itp_attr)
        return torch.einsum("...m,mhw->...hw", itp_attr, regions)

    def plot_mask_overlay(self, show: bool = False, border_width: int = 0, show_legends: bool = True) -> Any:
        """The picture with its regions in colours: a figure and its axes, or None if it is shown.

        Args:
            show: at once.
            border_width: of a line around each region, in pixels.
            show_legends: the number of each region in its middle.
        """
        from torchwhy.render.attribution import draw_regions

        named = zip(self.get_mask_list(), self.mask_id_to_idx, strict=True)
        regions = {str(number): region.bool().numpy() for region, number in named}
        return draw_regions(np.array(self.image), regions, show, border_width, show_legends)
