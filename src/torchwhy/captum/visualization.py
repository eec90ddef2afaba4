"""Captum's figures of attributions: see `torchwhy.render.attribution`.

>>> import numpy as np
>>> figure, axes = visualize_image_attr(np.eye(4), sign="positive", use_pyplot=False)
>>> axes.images[0].get_array().shape
(4, 4)
"""

from torchwhy.captum._asking import in_captums_kind
from torchwhy.render import attribution as _drawn
from torchwhy.render.attribution import (
    ImageVisualizationMethod,
    TimeseriesVisualizationMethod,
    VisualizationDataRecord,
    VisualizeSign,
    format_classname,
    format_special_tokens,
    format_tooltip,
)

format_word_importances = in_captums_kind(_drawn.format_word_importances)
visualize_image_attr = in_captums_kind(_drawn.visualize_image_attr)
visualize_image_attr_multiple = in_captums_kind(_drawn.visualize_image_attr_multiple)
visualize_text = in_captums_kind(_drawn.visualize_text)
visualize_timeseries_attr = in_captums_kind(_drawn.visualize_timeseries_attr)

__all__ = [
    "ImageVisualizationMethod",
    "TimeseriesVisualizationMethod",
    "VisualizationDataRecord",
    "VisualizeSign",
    "format_classname",
    "format_special_tokens",
    "format_tooltip",
    "format_word_importances",
    "visualize_image_attr",
    "visualize_image_attr_multiple",
    "visualize_text",
    "visualize_timeseries_attr",
]
