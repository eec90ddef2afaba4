"""Any method, averaged over noisy copies of the input."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Literal, Self, TypeAlias

import torch
from torch import Tensor

from torchwhy.core.errors import TorchwhyError
from torchwhy.core.guard import Arguments
from torchwhy.core.inputs import leaf
from torchwhy.core.precision import Precision
from torchwhy.core.problem import Problem
from torchwhy.core.site import At
from torchwhy.core.tensors import Tensors
from torchwhy.engines.gradients import Moments
from torchwhy.engines.noise import Stdevs, check_seed, check_stdevs, normal
from torchwhy.methods.base import Attribution, Method, at_least
from torchwhy.methods.saliency import Saliency
from torchwhy.registry import Info, register

Kind: TypeAlias = Literal["smoothgrad", "smoothgrad_sq", "vargrad"]
KINDS = ("smoothgrad", "smoothgrad_sq", "vargrad")


def through_noise(
    p: Problem, method: Method, kind: Kind, count: int, stdevs: Stdevs | Tensors, seed: int
) -> Attribution:
    """The method at ``count`` noisy copies of the inputs: mean, mean square or variance of its values."""
    noise = normal(stdevs, p.inputs, seed)
    if noise is None:
        raise TorchwhyError("stdevs is 0, so that every copy of the input is the same: give the noise a size")
    random = any(f.name == "seed" for f in fields(method))
    alone = random or method.info.needs == "forward passes"
    if not alone:
        p.expect(count)
    total: Moments | None = None
    k = 0
    with p.progress.task("averaging over noise", count) as advance:
        while k < count:
            # A method with draws of its own gets new ones for every copy; one that only takes away has enough rows.
            copies = 1 if alone else min(count - k, max(1, p.rows_per_pass() // p.size))
            ks = slice(k, k + copies)
            inner = method.with_options(seed=seed * 1_000_003 + k) if random else method
            values = inner.compute(p.moved(noise(slice(0, p.size), ks).merge(), copies)).values.double_for_sums()
            if kind == "smoothgrad_sq":
                values = values * values
            found = Moments.of(values.split(copies))
            total = found if total is None else total.merge(found)
            k = ks.stop
            advance(copies)
    assert total is not None
    if kind == "vargrad":
        return Attribution(total.variance())
    return Attribution.mean(total)


@register(
    Info(
        family="noise",
        summary="any method, averaged over noisy copies of the input",
        paper="Smilkov, Thorat, Kim, Viégas, Wattenberg: SmoothGrad; Adebayo et al.: Local Explanation Methods",
        year=2017,
        needs="gradients",
        cost="nt_samples times the method's",
        standalone=False,
    )
)
@dataclass(kw_only=True, eq=False)
class NoiseTunnel(Method):
    r"""A method's values at noisy copies of the input: their mean, mean square or variance.

    .. math:: \phi = \mathbb{E}\,[a(x + \epsilon)], \quad \mathbb{E}\,[a(x + \epsilon)^2], \quad
        \mathrm{Var}\,[a(x + \epsilon)], \qquad \epsilon \sim N(0, \sigma^2)

    The target is fixed at the clean input. All examples share the same draws, so an example's values do not depend on
    its batch.

    Args:
        method: the method :math:`a`, with its model.
        nt_type: "smoothgrad" (mean), "smoothgrad_sq" (mean square) or "vargrad" (variance).
        nt_samples: noisy copies.
        stdevs: :math:`\sigma`, one for all inputs or one per input of a tuple.
        seed: of the noise.

    Shapes: those of the method. Units: those of the method, squared for the latter two. A standard error for the
        former two.

    Paper: D. Smilkov et al., "SmoothGrad", 2017, arXiv:1706.03825; J. Adebayo et al., 2018, arXiv:1810.03307.

    >>> from torchwhy import Saliency
    >>> tunnel = NoiseTunnel(Saliency(lambda x: (x**2).sum(1), abs=False), nt_samples=2000, stdevs=0.5)
    >>> tunnel.attribute(torch.tensor([[3.0]])).round(decimals=1)
    tensor([[6.]])
    """

    model: Any = field(init=False, repr=False)
    at: At = field(init=False)
    method: Method = field(kw_only=False)
    nt_type: Kind = "smoothgrad"
    nt_samples: int = 20
    stdevs: Stdevs = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.method, Method):
            raise TorchwhyError(
                f"NoiseTunnel goes around a method, such as NoiseTunnel(Saliency(model)), "
                f"not {type(self.method).__name__}"
            )
        self.model, self.at = self.method.model, self.method.at
        self.batch_size = self.method.batch_size if self.batch_size is None else self.batch_size
        super().__post_init__()
        at_least("nt_samples", self.nt_samples, 1)
        check_stdevs(self.stdevs)
        check_seed(self.seed)
        if self.nt_type not in KINDS:
            raise TorchwhyError(f"nt_type is one of {', '.join(KINDS)}, not {self.nt_type!r}")

    @property
    def facts(self) -> Info:
        inner = self.method.facts
        return replace(
            self.info,
            needs=inner.needs,
            baselines=inner.baselines,
            zero_at_layer=inner.zero_at_layer,
            signed=inner.signed and self.nt_type == "smoothgrad",
            form=inner.form,
        )

    def with_options(self, **options: Any) -> Self:
        """This tunnel with some options replaced; those that are not its own are its method's."""
        own = {f.name for f in fields(self) if f.init}
        inner = {name: value for name, value in options.items() if name not in own}
        if inner:
            options = {name: value for name, value in options.items() if name in own}
            options["method"] = options.get("method", self.method).with_options(**inner)
        return super().with_options(**options)

    def options(self) -> dict[str, Any]:
        """Its own and its method's."""
        return self.method.options() | super().options() | {"method": type(self.method).__name__}

    def compute(self, p: Problem) -> Attribution:
        return through_noise(p, self.method, self.nt_type, self.nt_samples, self.stdevs, self.seed)

    def _site(self, inputs: Tensors, extra: Arguments) -> At:
        return self.method._site(inputs, extra)

    def _as_held(self, p: Problem, values: Tensors) -> Tensors:
        return self.method._as_held(p, values)

    def _precision(self) -> Precision:
        return self.method._precision()


@dataclass(kw_only=True, eq=False)
class _NoisyGradient(Method):
    kind: ClassVar[Kind]

    n_samples: int = 50
    noise_level: float = 0.15
    stdevs: Stdevs | None = None
    seed: int = 0
    precision: Precision = "full"

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("n_samples", self.n_samples, 1)
        check_stdevs((self.noise_level,))
        check_seed(self.seed)
        if self.stdevs is not None:
            check_stdevs(self.stdevs)

    def compute(self, p: Problem) -> Attribution:
        stdevs = self.stdevs
        gradient = Saliency(self.model, at=self.at, abs=False, precision=self.precision)
        if stdevs is None and self.noise_level == 0:
            raise TorchwhyError("noise_level is 0, so that every copy of the input is the same: give the noise a size")
        if p.site is None:
            p.inputs.map(leaf)
        elif not any(t.is_floating_point() for t in p.inputs):
            raise TorchwhyError(
                "the inputs are integers, to which noise cannot be added: use Saliency or IntegratedGradients"
            )
        scales = p.inputs.map(lambda t: self.noise_level * _range(t)) if stdevs is None else stdevs
        return through_noise(p, gradient, self.kind, self.n_samples, scales, self.seed)


def _range(t: Tensor) -> Tensor:
    """From the least to the largest value of each example, (B, 1, ...); 1 where all are equal."""
    if not t.is_floating_point():
        return torch.zeros(1, device=t.device)
    rows = t.flatten(1) if t.ndim > 1 else t[:, None]
    width = rows.amax(1) - rows.amin(1)
    return torch.where(width > 0, width, 1).view(-1, *[1] * (t.ndim - 1))


@register(
    Info(
        family="noise",
        summary="the gradient averaged over noisy copies of the input",
        paper="Smilkov, Thorat, Kim, Viégas, Wattenberg: SmoothGrad: removing noise by adding noise",
        year=2017,
        needs="gradients",
        cost="n_samples gradients",
    )
)
@dataclass(kw_only=True, eq=False)
class SmoothGrad(_NoisyGradient):
    r"""The mean gradient over noisy copies of the input.

    .. math:: \phi = \mathbb{E}\,[\nabla f(x + \epsilon)], \qquad \epsilon \sim N(0, \sigma^2)

    Args:
        n_samples: noisy copies.
        noise_level: :math:`\sigma` as a share of the range of each example's values (of 1 where all are equal).
        stdevs: :math:`\sigma` itself instead, one for all inputs or one per input of a tuple.
        seed: of the noise.
        precision: "mixed" computes the backward passes in bfloat16.

    Shapes: inputs (B, ...), values (B, ...). Units: score per unit of the input. With a standard error of each value.

    Paper: D. Smilkov et al., "SmoothGrad: removing noise by adding noise", 2017, arXiv:1706.03825.

    >>> SmoothGrad(lambda x: (x**2).sum(1), stdevs=0.5, n_samples=2000).attribute(torch.tensor([[3.0]])).round()
    tensor([[6.]])
    """

    kind = "smoothgrad"


@register(
    Info(
        family="noise",
        summary="the squared gradient averaged over noisy copies of the input",
        paper="Hooker, Erhan, Kindermans, Kim: A Benchmark for Interpretability Methods in Deep Neural Networks",
        year=2019,
        needs="gradients",
        cost="n_samples gradients",
        signed=False,
    )
)
@dataclass(kw_only=True, eq=False)
class SmoothGradSquared(_NoisyGradient):
    r"""The mean squared gradient over noisy copies of the input.

    .. math:: \phi = \mathbb{E}\,[\nabla f(x + \epsilon)^2], \qquad \epsilon \sim N(0, \sigma^2)

    Args:
        n_samples: noisy copies.
        noise_level: :math:`\sigma` as a share of the range of each example's values (of 1 where all are equal).
        stdevs: :math:`\sigma` itself instead, one for all inputs or one per input of a tuple.
        seed: of the noise.
        precision: "mixed" computes the backward passes in bfloat16.

    Shapes: inputs (B, ...), values (B, ...). Units: squared score per squared unit of the input. With a standard error
        of each value.

    Paper: S. Hooker et al., NeurIPS 2019, arXiv:1806.10758.

    >>> SmoothGradSquared(lambda x: (3 * x).sum(1), n_samples=5).attribute(torch.tensor([[1.0, 2.0]]))
    tensor([[9., 9.]])
    """

    kind = "smoothgrad_sq"


@register(
    Info(
        family="noise",
        summary="how much the gradient varies over noisy copies of the input",
        paper="Adebayo, Gilmer, Goodfellow, Kim: Local Explanation Methods for Deep Neural Networks Lack Sensitivity",
        year=2018,
        needs="gradients",
        cost="n_samples gradients",
        signed=False,
    )
)
@dataclass(kw_only=True, eq=False)
class VarGrad(_NoisyGradient):
    r"""The variance of the gradient over noisy copies of the input.

    .. math:: \phi = \mathrm{Var}\,[\nabla f(x + \epsilon)], \qquad \epsilon \sim N(0, \sigma^2)

    It is zero wherever the model is linear.

    Args:
        n_samples: noisy copies.
        noise_level: :math:`\sigma` as a share of the range of each example's values (of 1 where all are equal).
        stdevs: :math:`\sigma` itself instead, one for all inputs or one per input of a tuple.
        seed: of the noise.
        precision: "mixed" computes the backward passes in bfloat16.

    Shapes: inputs (B, ...), values (B, ...). Units: squared score per squared unit of the input.

    Paper: J. Adebayo et al., 2018, arXiv:1810.03307.

    >>> VarGrad(lambda x: (3 * x).sum(1), n_samples=5).attribute(torch.tensor([[1.0, 2.0]]))
    tensor([[0., 0.]])
    """

    kind = "vargrad"
