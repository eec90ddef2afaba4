"""AttnLRP and CP-LRP: every rule by hand, normalisation and gates in every spelling, a language model by detaching."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812  as everyone calls it
from torch import Tensor, nn

from torchwhy.core.errors import TorchwhyError, UnsupportedError
from torchwhy.engines.rules import trace
from torchwhy.engines.rules.attnlrp import transformer
from torchwhy.engines.rules.lrp import LAYERS, ZPlus, on
from torchwhy.methods.lrp import LRP
from torchwhy.methods.saliency import InputXGradient

COMPOSITES = ["AttnLRP", "CP-LRP"]


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def relevance(model: Any, x: Tensor, composite: str = "AttnLRP", **options: Any) -> Tensor:
    return LRP(model, composite=composite, **{"epsilon": 0} | options).attribute(x)


def close(a: Tensor, b: Tensor, limit: float = 1e-9) -> None:
    assert apart(a, b) < limit


def apart(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


def identity(x: Tensor, f: Callable[[Tensor], Tensor]) -> Tensor:
    """f(x), of which all relevance goes to x."""
    return x * (f(x) / x).detach()


def halved(y: Tensor) -> Tensor:
    """y, of whose relevance one half comes through."""
    return y / 2 + (y / 2).detach()


def by_hand(model: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Input times gradient of a model in which rules are written as detached parts."""
    x = x.clone().requires_grad_()
    (g,) = torch.autograd.grad(model(x).sum(), x)
    return (x * g).detach()


# -- one operation ----------------------------------------------------------------------------------------------------


def test_softmax_is_expanded_at_the_input():
    x, r = rand(2, 5), rand(5, seed=1)
    s = x.softmax(1)
    expected = x * (r * s - s * (r * s).sum(1, keepdim=True))
    close(relevance(lambda x: x.softmax(1) @ r, x), expected)


def test_softmax_is_a_constant_of_cp_lrp():
    x, r = rand(2, 5), rand(5, seed=1)
    close(relevance(lambda x: (x.softmax(1) * x) @ r, x, "CP-LRP"), x.softmax(1) * x * r)
    with pytest.raises(UnsupportedError, match="does not depend"):
        relevance(lambda x: x.softmax(1) @ r, x, "CP-LRP")


def test_a_matrix_product_gives_one_half_to_either_factor():
    x = rand(2, 3, 6)

    def model(x: Tensor) -> Tensor:
        a, v = x[..., :3], x[..., 3:]
        return (a @ v)[:, 0, 1]

    a, v = x[..., :3], x[..., 3:]
    expected = torch.zeros_like(x)
    expected[:, 0, :3] = a[:, 0] * v[:, :, 1] / 2
    expected[:, :, 4] = a[:, 0] * v[:, :, 1] / 2
    close(relevance(model, x), expected)
    close(relevance(model, x).sum((1, 2)), model(x))


def test_epsilon_takes_its_share_of_a_matrix_product():
    x, epsilon = rand(2, 3, 6), 0.5

    def model(x: Tensor) -> Tensor:
        return (x[..., :3] @ x[..., 3:]).sum((1, 2))

    o = x[..., :3] @ x[..., 3:]
    passed = o * o / (o + epsilon * o.sign())
    close(relevance(model, x, epsilon=epsilon).sum((1, 2)), passed.sum((1, 2)))


SPELLINGS = {
    "@": lambda a, b: a @ b,
    "matmul": torch.matmul,
    "bmm": torch.bmm,
    "einsum": lambda a, b: torch.einsum("bij,bjk->bik", a, b),
    "einsum of a list": lambda a, b: torch.einsum("bij,bjk->bik", [a, b]),
    "baddbmm": lambda a, b: torch.baddbmm(torch.zeros(1, 1, 1, dtype=a.dtype), a, b),
    "mm": lambda a, b: torch.stack([torch.mm(one, other) for one, other in zip(a, b, strict=True)]),
    "*": lambda a, b: (a.unsqueeze(-1) * b.unsqueeze(1)).sum(2),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_products_in_every_spelling(name):
    x = rand(2, 3, 6)
    found = relevance(lambda x: SPELLINGS[name](x[..., :3], x[..., 3:]).sum((1, 2)), x)
    close(found, by_hand(lambda x: halved(x[..., :3] @ x[..., 3:]), x))


def test_a_summand_beside_a_product_keeps_its_own():
    x = rand(2, 3, 9)

    def model(x: Tensor) -> Tensor:
        return torch.baddbmm(x[..., 6:], x[..., :3], x[..., 3:6]).sum((1, 2))

    close(relevance(model, x), by_hand(lambda x: x[..., 6:] + halved(x[..., :3] @ x[..., 3:6]), x))


def test_three_factors_get_a_third_each():
    x = rand(2, 3, 3)
    found = relevance(lambda x: torch.einsum("bi,bi,bi->b", x[:, 0], x[:, 1], x[:, 2]), x)
    close(found, x.prod(1, keepdim=True).expand_as(x) / 3)


@pytest.mark.parametrize("name", ["silu", "gelu", "tanh", "sigmoid", "mish"])
def test_functions_of_one_number_hand_on_what_they_get(name):
    x, f = rand(2, 5), getattr(F, name, None) or getattr(torch, name)
    close(relevance(lambda x: f(x).sum(1), x), f(x))


WRITTEN_OUT: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": lambda x: x * x.sigmoid(),
    "silu, by division": lambda x: x / (1 + (-x).exp()),
    "quick gelu": lambda x: torch.sigmoid(1.702 * x) * x,
    "gelu_new": lambda x: 0.5 * x * (1.0 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * torch.pow(x, 3.0)))),
    "gelu, by erf": lambda x: x * 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0))),
    "mish": lambda x: x * F.softplus(x).tanh(),
    "squared relu": lambda x: x.relu() * x.relu(),
    "in place": lambda x: x.sigmoid().mul_(x),
    "in place, into the number itself": lambda x: (y := 1 * x).mul_(y.sigmoid()),
}


@pytest.mark.parametrize("name", WRITTEN_OUT)
@pytest.mark.parametrize("composite", [*COMPOSITES, "epsilon"])
def test_activations_written_out_are_one_function(name, composite):
    f, x, w = WRITTEN_OUT[name], rand(3, 4), rand(6, 4, seed=1)
    found = relevance(lambda x: f(F.linear(x, w)).sum(1), x, composite)
    close(found, by_hand(lambda x: identity(F.linear(x, w), f), x))


def test_a_number_of_its_own_may_be_changed_in_place():
    def model(x: Tensor) -> Tensor:
        y = 2 * x
        gate = y.sigmoid()
        return (y.add_(1) * gate).sum(1)

    x = rand(3, 4)
    close(relevance(model, x), (2 * x + 1) * (2 * x).sigmoid())


def test_a_tensor_changed_in_between_is_another():
    x, w = rand(3, 4), rand(6, 4, seed=1)

    def model(x: Tensor) -> Tensor:
        y = F.linear(x, w)
        gate = y.sigmoid()
        return (y.add_(1) * gate).sum(1)

    def expected(x: Tensor) -> Tensor:
        y = F.linear(x, w)
        return halved((y + 1) * identity(y, torch.sigmoid))

    close(relevance(model, x), by_hand(expected, x))


# -- normalisation ----------------------------------------------------------------------------------------------------

W, B = rand(6, seed=5), rand(6, seed=6)
RMS = {
    "rms_norm": lambda x: F.rms_norm(x, (6,), W, 1e-5),
    "module": lambda x: nn.RMSNorm(6, 1e-5, elementwise_affine=False)(x) * W,
    "pow, mean, rsqrt": lambda x: W * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5)),
    "in place": lambda x: W * (x * x.pow(2).mean(-1, keepdim=True).add_(1e-5).rsqrt_()),
    "square, sqrt, division": lambda x: x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * W,
    "division in place": lambda x: (1 * x).div_((x * x).mean(-1, keepdim=True).add(1e-5).sqrt()) * W,
    "negative power": lambda x: x * (x.pow(2).mean(-1, keepdim=True) + 1e-5).pow(-0.5) * W,
    "operator": lambda x: x * (x**2).mean(-1, keepdim=True).add(1e-5) ** -0.5 * W,
    "reciprocal": lambda x: x * (x.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt().reciprocal() * W,
    "one over": lambda x: x * (1 / (x.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()) * W,
}
LAYER = {
    "layer_norm": lambda x: F.layer_norm(x, (6,), W, B),
    "group_norm": lambda x: F.group_norm(x, 1, W, B),
    "mean, var, rsqrt": lambda x: (
        (x - x.mean(-1, keepdim=True)) * (x.var(-1, unbiased=False, keepdim=True) + 1e-5).rsqrt() * W + B
    ),
    "std": lambda x: (
        (x - x.mean(-1, keepdim=True))
        / (x - x.mean(-1, keepdim=True)).pow(2).mean(-1, keepdim=True).add(1e-5).sqrt()
        * W
        + B
    ),
}


@pytest.mark.parametrize("composite", COMPOSITES)
@pytest.mark.parametrize("name", RMS)
def test_rms_norm_hands_on_all_it_gets(name, composite):
    x, v = rand(3, 6), rand(6, seed=2)
    y = RMS["pow, mean, rsqrt"](x)
    close(RMS[name](x), y)
    close(relevance(lambda x: RMS[name](x) @ v, x, composite), y * v)
    assert apart(InputXGradient(lambda x: RMS[name](x) @ v).attribute(x), y * v) > 0.1


@pytest.mark.parametrize("composite", COMPOSITES)
@pytest.mark.parametrize("name", LAYER)
def test_layer_norm_divides_by_a_constant(name, composite):
    x, v = rand(3, 6), rand(6, seed=2)
    scale = (x.var(-1, unbiased=False, keepdim=True) + 1e-5).rsqrt()
    close(LAYER[name](x), LAYER["layer_norm"](x))
    expected = x * (W * v - (W * v).mean()) * scale
    close(relevance(lambda x: LAYER[name](x) @ v, x, composite), expected)
    close(expected.sum(1), LAYER[name](x) @ v - B @ v)  # what the bias takes does not come back


def test_normalize_divides_by_a_constant():
    x, v = rand(3, 6), rand(6, seed=2)
    close(relevance(lambda x: F.normalize(x) @ v, x), F.normalize(x) * v)


def test_what_is_not_divided_by_is_no_constant():
    x = rand(3, 6).abs()
    close(relevance(lambda x: x.sqrt().sum(1), x), x.sqrt())
    close(relevance(lambda x: x.pow(3).sum(1), x), x**3)
    close(relevance(lambda x: (2**x).sum(1), x), 2**x)
    with pytest.raises(UnsupportedError, match="does not depend"):
        relevance(lambda x: x.rsqrt().sum(1), x)


def test_a_part_of_a_tensor_is_no_constant():
    def model(x: Tensor) -> Tensor:
        y = x.abs() + 1
        y[:, :2].rsqrt_()
        return y.sum(1)

    with pytest.raises(UnsupportedError, match=r"rsqrt.*in-place form.*test_attention_rules.py"):
        relevance(model, rand(3, 6))


# -- rotary embeddings ------------------------------------------------------------------------------------------------


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat([-b, a], -1) * sin


def test_rotations_are_linear():
    angle = torch.arange(5.0, dtype=torch.float64)[:, None] * torch.tensor([1.0, 0.3], dtype=torch.float64)
    x, v = rand(2, 5, 4), rand(5, 4, seed=1)
    cos, sin = angle.cos().repeat(1, 2), angle.sin().repeat(1, 2)

    def real(x: Tensor) -> Tensor:
        return (rotated(x, cos, sin) * v).sum((1, 2))

    def complex_(x: Tensor) -> Tensor:
        z = torch.view_as_complex(torch.stack(x.chunk(2, -1), -1)) * torch.polar(torch.ones_like(angle), angle)
        return (torch.view_as_real(z).transpose(-1, -2).flatten(-2) * v).sum((1, 2))

    close(complex_(x), real(x))
    for model in (real, complex_):
        close(relevance(model, x), by_hand(real, x))
        close(relevance(model, x).sum((1, 2)), real(x))


# -- attention and a whole model --------------------------------------------------------------------------------------


class Llama(nn.Module):
    """The language model, small and in plain PyTorch; ``by_hand`` writes AttnLRP as halved and detached parts.

    That is the form in which LXT computes it: the gates' activation by identity, q and k with a quarter of their
    gradient and v with one half, gated products with one half, no gradient through the variance.
    """

    def __init__(self, fused: bool = False, by_hand: frozenset[str] = frozenset()) -> None:
        super().__init__()
        self.fused, self.rules = fused, by_hand
        self.embed = nn.Embedding(20, 16)
        for i in range(2):
            for name, (n, m) in {"q": (16, 16), "k": (16, 8), "v": (16, 8), "o": (16, 16)}.items():
                self.add_module(f"{name}{i}", nn.Linear(n, m, bias=False))
            for name, (n, m) in {"gate": (16, 24), "up": (16, 24), "down": (24, 16)}.items():
                self.add_module(f"{name}{i}", nn.Linear(n, m, bias=False))
        self.scales = nn.Parameter(torch.ones(5, 16))
        self.head = nn.Linear(16, 20, bias=False)
        self.double()
        for p, seed in zip(self.parameters(), range(100), strict=False):
            p.data = rand(*p.shape, seed=seed) / 3

    def norm(self, x: Tensor, scale: Tensor) -> Tensor:
        if self.fused:
            return F.rms_norm(x, (16,), scale, 1e-6)
        divisor = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)
        return scale * (x * (divisor.detach() if "norm" in self.rules else divisor))

    def attend(self, i: int, x: Tensor) -> Tensor:
        def heads(name: str) -> Tensor:
            return getattr(self, f"{name}{i}")(x).unflatten(-1, (-1, 4)).transpose(1, 2)

        angle = torch.arange(x.shape[1], dtype=x.dtype)[:, None] * torch.tensor([1.0, 0.1], dtype=x.dtype)
        cos, sin = angle.cos().repeat(1, 2), angle.sin().repeat(1, 2)
        q, k, v = rotated(heads("q"), cos, sin), rotated(heads("k"), cos, sin), heads("v")
        if self.fused:
            out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        else:
            if "products" in self.rules:
                q, k, v = halved(halved(q)), halved(halved(k)), halved(v)
            k, v = k.repeat_interleave(2, 1), v.repeat_interleave(2, 1)
            mask = torch.full((x.shape[1], x.shape[1]), -math.inf, dtype=x.dtype).triu(1)
            out = torch.softmax(q @ k.transpose(-1, -2) / 2 + mask, -1) @ v
        return getattr(self, f"o{i}")(out.transpose(1, 2).flatten(2))

    def feed(self, i: int, x: Tensor) -> Tensor:
        gate, up = getattr(self, f"gate{i}")(x), getattr(self, f"up{i}")(x)
        gate = identity(gate, F.silu) if "gate" in self.rules else F.silu(gate)
        y = gate * up
        return getattr(self, f"down{i}")(halved(y) if "products" in self.rules else y)

    def forward(self, ids: Tensor) -> Tensor:
        return self.decode(self.embed(ids))

    def decode(self, x: Tensor) -> Tensor:
        for i in range(2):
            x = x + self.attend(i, self.norm(x, self.scales[2 * i]))
            x = x + self.feed(i, self.norm(x, self.scales[2 * i + 1]))
        return self.head(self.norm(x, self.scales[4]))[:, -1]


IDS = torch.tensor([[3, 7, 7, 1, 12], [0, 19, 4, 4, 2]])
ALL = frozenset({"norm", "products", "gate"})


@pytest.mark.parametrize("fused", [False, True])
def test_attn_lrp_of_a_language_model_is_that_of_lxt(fused):
    model, reference = Llama(fused), Llama(by_hand=ALL)
    close(model(IDS).detach(), reference(IDS).detach())
    x = model.embed(IDS).detach()
    found = LRP(model, composite="AttnLRP", epsilon=0, at="embed").attribute(IDS, target=5)
    close(found, by_hand(lambda x: reference.decode(x)[:, 5], x))


@pytest.mark.parametrize("rule", sorted(ALL))
def test_every_rule_of_it_matters(rule):
    reference = Llama(by_hand=ALL - {rule})
    x = reference.embed(IDS).detach()
    found = LRP(Llama(), composite="AttnLRP", epsilon=0, at="embed").attribute(IDS, target=5)
    assert apart(found, by_hand(lambda x: reference.decode(x)[:, 5], x)) > 1e-3


@pytest.mark.parametrize("fused", [False, True])
def test_cp_lrp_of_a_language_model_without_biases_conserves(fused):
    model = Llama(fused)
    found = LRP(model, composite="CP-LRP", epsilon=0, at="embed").attribute(IDS, target=5)
    close(found.sum((1, 2)), model(IDS)[:, 5].detach())
    other = LRP(model, composite="AttnLRP", epsilon=0, at="embed").attribute(IDS, target=5)
    assert apart(other.sum((1, 2)), model(IDS)[:, 5].detach()) > 1e-3


def test_a_trace_tells_where_relevance_leaks():
    composite = transformer("AttnLRP", epsilon=0)
    found = trace(Llama(fused=True), IDS, composite, target=5, at="embed")
    assert {s.operation for s in found.leaks(1e-9)} == {"softmax"}
    assert {s.rule for s in found.steps if s.operation == "rsqrt"} == {"Constant"}
    constant = transformer("CP-LRP", epsilon=0)
    assert trace(Llama(), IDS, constant, target=5, at="embed").leaks(1e-9) == ()


def encoder(norm_first: bool = False, activation: str = "relu") -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=norm_first, activation=activation)
    net = nn.Sequential(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Flatten(), nn.Linear(40, 3))
    net.double().eval()
    for p, seed in zip(net.parameters(), range(100), strict=False):
        p.data = rand(*p.shape, seed=seed) / 2
    return net


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_an_encoder_of_pytorch_loses_relevance_at_biases_and_softmax_only(norm_first, activation):
    net, x = encoder(norm_first, activation), rand(2, 5, 8)
    composite = transformer("AttnLRP", epsilon=0)
    found = trace(net, x, composite, target=1)
    assert {s.operation for s in found.leaks(1e-9)} <= {"linear", "softmax", "add", "addmm"}
    told = sum(s.leak for s in found.steps if s.leak is not None)
    assert math.isclose(found.score - found.passed, told, rel_tol=1e-9)
    unbiased = encoder(norm_first, activation)
    for name, p in unbiased.named_parameters():
        if "bias" in name:
            nn.init.zeros_(p)
    constant = transformer("CP-LRP", epsilon=0)
    assert trace(unbiased, x, constant, target=1).leaks(1e-9) == ()


def test_z_plus_of_a_transformer_conserves_without_biases():
    net, x = encoder(), rand(2, 5, 8)
    for name, p in net.named_parameters():
        if "bias" in name:
            nn.init.zeros_(p)
    composite = transformer("CP-LRP", ((on(*LAYERS), ZPlus(stabilizer=0)),), 0)
    found = trace(net, x, composite, target=1)
    lost = [s for s in found.leaks(1e-9) if s.operation != "linear"]
    assert lost == []
    # A unit without positive contributions has nothing to share by; with one for each, nothing is lost.
    x = rand(2, 5, 8).abs()
    for p in net.parameters():
        p.data.abs_()
    assert trace(net[2], net[1](x), composite, target=1).leaks(1e-9) == ()


def test_experts_get_what_they_are_weighted_with():
    router, experts, x = rand(4, 3, seed=1), rand(3, 4, 4, seed=2), rand(2, 4)

    def mixture(x: Tensor, rule: Callable[[Tensor], Tensor]) -> Tensor:
        weights, chosen = (x @ router).softmax(-1).topk(2)
        outs = torch.stack([torch.einsum("bi,bij->bj", x, experts[chosen[:, k]]) for k in range(2)], 1)
        return rule(outs * weights[..., None]).sum((1, 2))

    close(relevance(lambda x: mixture(x, lambda y: y), x), by_hand(lambda x: mixture(x, halved), x))
    close(relevance(lambda x: mixture(x, lambda y: y), x, "CP-LRP").sum(1), mixture(x, lambda y: y))


def test_multi_head_attention_agrees_with_attention_written_out():
    layer = nn.MultiheadAttention(8, 2, batch_first=True).double().eval()
    x = rand(2, 5, 8)

    def written_out(x: Tensor) -> Tensor:
        projected = F.linear(x, layer.in_proj_weight, layer.in_proj_bias).chunk(3, -1)
        q, k, v = (t.unflatten(-1, (2, 4)).transpose(1, 2) for t in projected)
        out = torch.einsum("bhij,bhjd->bhid", (torch.einsum("bhid,bhjd->bhij", q, k) / 2).softmax(-1), v)
        return F.linear(out.transpose(1, 2).flatten(2), layer.out_proj.weight, layer.out_proj.bias)[:, 0, 1]

    expected = relevance(written_out, x)
    for options in ({}, {"need_weights": False}, {"average_attn_weights": False}):
        close(relevance(lambda x, o=options: layer(x, x, x, **o)[0][:, 0, 1], x), expected)


# -- options ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spelling", ["AttnLRP", "attn-lrp", "attnlrp", "ATTN_LRP"])
def test_names_of_composites(spelling):
    assert LRP(encoder(), composite=spelling).composite == "AttnLRP"


def test_there_are_two_composites_for_transformers():
    with pytest.raises(TorchwhyError, match="'AttnLRP' and 'CP-LRP', not 'cp'"):
        transformer("cp")


def test_an_unknown_composite_gets_the_closest_names():
    with pytest.raises(TorchwhyError, match="did you mean 'AttnLRP'"):
        LRP(encoder(), composite="AtnLRP")


def test_rules_for_layers_can_be_chosen():
    net, x = encoder(), rand(2, 5, 8)
    chosen = transformer("AttnLRP", ((on(*LAYERS), ZPlus()),))
    found = LRP(net, composite=chosen).attribute(x, target=1)
    assert apart(found, LRP(net, composite="AttnLRP").attribute(x, target=1)) > 0.1


@pytest.mark.parametrize("composite", COMPOSITES)
def test_float32_is_close_to_float64(composite):
    model = Llama()
    wide = LRP(model, composite=composite, at="embed").attribute(IDS, target=5)
    narrow = LRP(model.float(), composite=composite, at="embed").attribute(IDS, target=5)
    assert apart(narrow.double(), wide) < 1e-3


def test_random_attention_is_refused():
    def model(x: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(x, x, x, dropout_p=0.5).sum((1, 2))

    with pytest.raises(UnsupportedError, match=r"scaled_dot_product_attention.*at random.*test_attention_rules.py"):
        relevance(model, rand(2, 3, 4))


def test_an_operation_without_a_rule_is_refused_with_its_line():
    with pytest.raises(UnsupportedError, match=r"AttnLRP.*cummax: there is no rule.*test_attention_rules.py:\d+"):
        relevance(lambda x: x.cummax(1).values.sum(1), rand(2, 3))


def test_other_composites_refuse_attention():
    with pytest.raises(UnsupportedError, match=r"softmax: there is no rule"):
        LRP(lambda x: x.softmax(1)[:, 0], composite="epsilon").attribute(rand(2, 3))
    with pytest.raises(UnsupportedError, match="AttnLRP has"):
        LRP(lambda x: (x @ x.mT)[:, 0, 1], composite="epsilon").attribute(rand(2, 3, 3))
