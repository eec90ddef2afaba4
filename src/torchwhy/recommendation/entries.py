"""Who takes part: methods in their settings, and metrics that judge them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeAlias

from torchwhy.core.errors import TorchwhyError
from torchwhy.engines.maps import maps_on_the_way
from torchwhy.methods import Method
from torchwhy.metrics import Metric
from torchwhy.recommendation.bench import Bench, Candidate, name_of
from torchwhy.recommendation.settings import FAMILIES, JUDGES, LEFT_OUT, LEFT_OUT_AT_A_LAYER, SETTINGS, Setting
from torchwhy.registry import lookup, lookup_metric
from torchwhy.registry import methods as all_methods

MethodLike: TypeAlias = str | type[Method] | Method
MetricLike: TypeAlias = str | type[Metric] | Metric


def judges(given: Sequence[MetricLike] | None) -> tuple[list[Metric], list[Metric]]:
    """Metrics of faithfulness and of robustness."""
    made = [_metric(one) for one in (given if given is not None else JUDGES)]
    names = [name_of(m) for m in made]
    if len(set(names)) < len(names):
        raise TorchwhyError(f"metrics are each of another kind, not {', '.join(names)}")
    for m in made:
        if m.info.family not in FAMILIES or m.direction == "none" or "mask" in m.info.needs:
            raise TorchwhyError(
                f"methods are compared by metrics of {' and '.join(FAMILIES)} that say which values are better, and "
                f"{name_of(m)} is none"
            )
    faithful = [m for m in made if m.info.family == "faithfulness"]
    if not faithful:
        raise TorchwhyError("name at least one metric of faithfulness, such as Deletion")
    return faithful, [m for m in made if m.info.family != "faithfulness"]


def _metric(given: MetricLike) -> Metric:
    if isinstance(given, Metric):
        return given.with_options(controls=()) if given.controls else given
    cls = lookup_metric(given) if isinstance(given, str) else given
    if not (isinstance(cls, type) and issubclass(cls, Metric) and hasattr(cls, "info")):
        raise TorchwhyError(f"a metric is a name, a class or an object of torchwhy.metrics.Metric, not {cls!r}")
    return cls(**JUDGES.get(cls.__name__, {}))


def candidates(bench: Bench, given: Sequence[MethodLike] | None) -> tuple[list[Candidate], dict[str, str]]:
    """The settings of all methods, cheap ones first, and what is left out, and why."""
    refused = {}
    if given is None:
        classes = {name: cls for name, cls in all_methods().items() if cls.info.standalone}
        left_out = LEFT_OUT if bench.at is None else LEFT_OUT_AT_A_LAYER
        refused = {name: why for name, why in left_out.items() if name in classes}
        given = [cls for name, cls in classes.items() if name not in refused]
    if not given:
        raise TorchwhyError("name at least one method, or leave methods out for all of them")
    made: list[Candidate] = []
    for one in given:
        if isinstance(one, Method):
            if one.model is not bench.model and one.model != bench.model:
                raise TorchwhyError(f"{type(one).__name__} was made for another model")
            made.append(Candidate(type(one).__name__, one.with_options(progress=False)))
            continue
        cls = lookup(one) if isinstance(one, str) else one
        if not (isinstance(cls, type) and issubclass(cls, Method) and hasattr(cls, "info")):
            raise TorchwhyError(f"a method is a name, a class or an object of torchwhy.Method, not {cls!r}")
        if not cls.info.standalone:
            raise TorchwhyError(f"{cls.__name__} goes around another method: make it yourself and give it as it is")
        made += [made_ for setting in SETTINGS.get(cls.__name__, (Setting(),)) for made_ in _set(bench, cls, setting)]
    return made, refused


def _set(bench: Bench, cls: type[Method], setting: Setting) -> Iterable[Candidate]:
    """A method in a setting; none where the setting does not apply."""
    options, inputs = dict(setting.options), bench.p.inputs
    if setting.base == "mean" and not all(t.is_floating_point() for t in inputs):
        return
    if setting.window is not None:
        sizes = tuple(_window(t.shape[1:], setting.window) for t in bench.p.point)
        options["sliding_window_shapes"] = sizes if len(sizes) > 1 else sizes[0]
    if setting.layer == "halfway":
        if bench.at is not None:
            return
        try:
            sites = maps_on_the_way(bench.model, inputs[:1], bench.extra, inputs.size)
        except TorchwhyError:
            return
        if len(sites) < 2:
            return
        options["at"] = sites[(len(sites) - 1) // 2]
    yield Candidate(cls.__name__, cls(bench.model, batch_size=bench.p.batch_size, progress=False, **options), setting)


def _window(shape: Sequence[int], side: int) -> tuple[int, ...]:
    """Of a sliding window over all channels."""
    return (shape[0], *(min(side, n) for n in shape[1:])) if len(shape) > 1 else (min(side, *shape),)
