"""Attention rollout and relevance: by hand, found in every spelling of attention, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812  as everyone calls it
from torch import Tensor, nn

from torchwhy.core.errors import TorchwhyError, UnsupportedError
from torchwhy.core.site import Site
from torchwhy.methods.attention import AttentionRollout, TransformerRelevance

METHODS = [AttentionRollout, TransformerRelevance]


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def close(a: Tensor, b: Tensor, limit: float = 1e-10) -> None:
    torch.testing.assert_close(a, b, rtol=limit, atol=limit)


def fill(module: nn.Module, scale: float = 0.5) -> nn.Module:
    module.double().eval()
    for p, seed in zip(module.parameters(), range(1000), strict=False):
        p.data = rand(*p.shape, seed=seed) * scale
    return module


# -- attention in every spelling --------------------------------------------------------------------------------------


def heads(t: Tensor) -> Tensor:
    return t.unflatten(-1, (2, -1)).transpose(1, 2)


def weights(q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    return (scores if mask is None else scores.masked_fill(~mask, -math.inf)).softmax(-1)


def fused(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, mask)


def causal(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=mask is not None)


def written_out(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    return torch.matmul(F.dropout(weights(q, k, mask), 0.1, training=False), v)


def by_einsum(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    return torch.einsum("bhqk,bhkd->bhqd", weights(q, k, mask), v)


def in_three_dimensions(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    return torch.bmm(weights(q, k, mask).flatten(0, 1), v.flatten(0, 1)).view_as(q)


def functional_softmax(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    scores = torch.einsum("bhqd,bhkd->bhqk", q, k) / math.sqrt(q.shape[-1])
    bias = 0 if mask is None else torch.zeros(mask.shape, dtype=q.dtype).masked_fill(~mask, torch.finfo(q.dtype).min)
    return nn.functional.softmax(scores + bias, dim=-1, dtype=torch.float64).type_as(q) @ v


SPELLINGS = [fused, causal, written_out, by_einsum, in_three_dimensions, functional_softmax]


class Transformer(nn.Module):
    """(B, T) of ids to (B, T, 5); what each layer attends to is kept, so that references can be computed from it."""

    def __init__(self, attend: Callable[..., Tensor] = written_out, decoder: bool = False) -> None:
        super().__init__()
        self.attend, self.decoder = attend, decoder
        self.embed, self.head = nn.Embedding(10, 8), nn.Linear(8, 5)
        self.blocks = nn.ModuleList(nn.Linear(8, 24) for _ in range(3))
        fill(self)

    def forward(self, ids: Tensor) -> Tensor:
        return self.decode(self.embed(ids))

    def decode(self, x: Tensor, kept: list[Tensor] | None = None) -> Tensor:
        mask = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril() if self.decoder else None
        for block in self.blocks:
            q, k, v = map(heads, block(x).chunk(3, -1))
            if kept is None:
                out = self.attend(q, k, v, mask)
            else:
                a = weights(q, k, mask)
                kept.append(a if a.requires_grad else a.requires_grad_())
                out = kept[-1] @ v
            x = x + out.transpose(1, 2).flatten(2).tanh()
        return self.head(x)

    def attention(self, ids: Tensor, score: Callable[[Tensor], Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Weights and their gradients, layer by layer."""
        kept: list[Tensor] = []
        out = self.decode(self.embed(ids).detach(), kept)
        return [a.detach() for a in kept], list(torch.autograd.grad(score(out).sum(), kept))


IDS = torch.tensor([[3, 7, 7, 1], [0, 9, 4, 2], [5, 5, 5, 6]])
FIRST, LAST = (lambda out: out[:, 0, 2]), (lambda out: out[:, -1, 2])


def rollout(layers: list[Tensor]) -> Tensor:
    total = torch.eye(layers[0].shape[-1], dtype=torch.float64)
    for a in layers:
        total = (a + torch.eye(a.shape[-1], dtype=torch.float64)) / 2 @ total
    return total


def relevance(layers: list[Tensor], slopes: list[Tensor]) -> Tensor:
    one = torch.eye(layers[0].shape[-1], dtype=torch.float64)
    total = one
    for a, g in zip(layers, slopes, strict=True):
        total = total + (a * g).clamp(min=0).mean(1) @ total
    return total - one


@pytest.mark.parametrize("attend", SPELLINGS)
@pytest.mark.parametrize(("decoder", "score", "row"), [(False, FIRST, 0), (True, LAST, -1), (False, LAST, 3)])
@pytest.mark.parametrize("at", [None, "embed"])
def test_both_methods_are_what_their_papers_say(attend, decoder, score, row, at):
    if attend is causal and not decoder:
        score, decoder, row = LAST, True, 3
    model = Transformer(attend, decoder)
    layers, slopes = model.attention(IDS, score)
    found = AttentionRollout(model, at=at).attribute(IDS, target=score)
    close(found, rollout([a.mean(1) for a in layers])[:, row])
    close(found.sum(1), torch.ones(3, dtype=torch.float64))
    found = TransformerRelevance(model, at=at).attribute(IDS, target=score)
    close(found, relevance(layers, slopes)[:, row])
    assert not torch.allclose(found, relevance(layers, [torch.ones_like(g) for g in slopes])[:, row])


def test_a_chosen_token_and_all_that_are_pooled():
    model = Transformer()
    layers, slopes = model.attention(IDS, lambda out: out[:, :, 2].mean(1))
    pooled = lambda out: out[:, :, 2].mean(1)  # noqa: E731  a target
    for method, expected in [
        (AttentionRollout, rollout([a.mean(1) for a in layers])),
        (TransformerRelevance, relevance(layers, slopes)),
    ]:
        close(method(model).attribute(IDS, target=pooled), expected.mean(1))
        for token in (1, -1):
            close(method(model, token=token).attribute(IDS, target=pooled), expected[:, token])


@pytest.mark.parametrize("fuse", ["mean", "max", "min"])
def test_heads_are_fused(fuse):
    layers, _ = Transformer().attention(IDS, FIRST)
    merged = [a.mean(1) if fuse == "mean" else getattr(a, f"a{fuse}")(1) for a in layers]
    total = torch.eye(4, dtype=torch.float64)
    for a in merged:
        mixed = (a + torch.eye(4, dtype=torch.float64)) / 2
        total = mixed / mixed.sum(-1, keepdim=True) @ total
    close(AttentionRollout(Transformer(), heads=fuse).attribute(IDS, target=FIRST), total[:, 0])


def test_the_smallest_weights_can_be_discarded():
    layers, _ = Transformer().attention(IDS, FIRST)
    total = torch.eye(4, dtype=torch.float64)
    for a in layers:
        fused_heads = a.mean(1)
        limit = fused_heads.flatten(1).sort(1).values[:, 8].view(-1, 1, 1)  # half of 16
        mixed = torch.where(fused_heads >= limit, fused_heads, 0) + torch.eye(4, dtype=torch.float64)
        total = mixed / mixed.sum(-1, keepdim=True) @ total
    close(AttentionRollout(Transformer(), discard=0.5).attribute(IDS, target=FIRST), total[:, 0])


def test_the_share_of_the_residual():
    layers, _ = Transformer().attention(IDS, FIRST)
    plain = layers[2].mean(1) @ layers[1].mean(1) @ layers[0].mean(1)
    close(AttentionRollout(Transformer(), residual=0).attribute(IDS, target=FIRST), plain[:, 0])


def test_weights_used_twice_are_one_layer():
    def model(x: Tensor) -> Tensor:
        a = weights(x, x, None)
        return (a @ x + (a @ x.sin()))[:, 0, 0]

    x = rand(2, 4, 4)
    close(AttentionRollout(model).attribute(x), rollout([weights(x, x, None)])[:, 0])


def test_layers_in_front_of_what_is_explained_are_left_out():
    model = Transformer()

    class Split(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model, self.middle = model, nn.Identity()

        def forward(self, ids: Tensor) -> Tensor:
            x = model.embed(ids)
            for i, block in enumerate(model.blocks):
                q, k, v = map(heads, block(x).chunk(3, -1))
                x = x + fused(q, k, v, None).transpose(1, 2).flatten(2).tanh()
                x = self.middle(x) if i == 0 else x
            return model.head(x)

    layers, slopes = model.attention(IDS, FIRST)
    found = AttentionRollout(Split(), at="middle").explain(IDS, target=FIRST)
    close(found.values, rollout([a.mean(1) for a in layers[1:]])[:, 0])
    assert (found.provenance["attention_layers"], found.provenance["tokens"]) == (2, 4)
    close(
        TransformerRelevance(Split(), at="middle").attribute(IDS, target=FIRST), relevance(layers[1:], slopes[1:])[:, 0]
    )
    # A target inside the model leaves out what runs behind it.
    inner = Site("middle", unit=(0, 2))
    close(AttentionRollout(Split()).attribute(IDS, target=inner), rollout([layers[0].mean(1)])[:, 0])


# -- modules of PyTorch -----------------------------------------------------------------------------------------------


class Encoder(nn.Module):
    """nn.TransformerEncoder and a head on its first token."""

    def __init__(self, norm_first: bool = False, batch_first: bool = True) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=batch_first, norm_first=norm_first)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=batch_first and not norm_first)
        self.head, self.batch_first = nn.Linear(8, 3), batch_first
        fill(self)

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        if self.batch_first:
            return self.head(self.encoder(x, src_key_padding_mask=padding)[:, 0])
        return self.head(self.encoder(x.transpose(0, 1), src_key_padding_mask=padding)[0])


def captured(model: Encoder, x: Tensor, padding: Tensor | None = None) -> list[Tensor]:
    """What the modules return when they are asked for their weights."""
    x = x if model.batch_first else x.transpose(0, 1)
    out = []
    for layer in model.encoder.layers:
        there = layer.norm1(x) if layer.norm_first else x
        mask = None if padding is None else torch.zeros(padding.shape, dtype=x.dtype).masked_fill(padding, -math.inf)
        out.append(layer.self_attn(there, there, there, key_padding_mask=mask, average_attn_weights=False)[1].detach())
        x = layer(x, src_key_padding_mask=padding)
    return out


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
def test_encoders_of_pytorch_are_read(norm_first, batch_first):
    model, x = Encoder(norm_first, batch_first), rand(3, 5, 8)
    found = AttentionRollout(model).attribute(x, target=1)
    close(found, rollout([a.mean(1) for a in captured(model, x)])[:, 0])
    assert TransformerRelevance(model).attribute(x, target=1).shape == (3, 5)


def test_padding_gets_nothing():
    model, x = Encoder(), rand(3, 5, 8)
    padding = torch.tensor([[False] * 5, [False] * 3 + [True] * 2, [False] * 4 + [True]])
    for method in METHODS:
        found = method(model).attribute(x, target=1, additional_forward_args=padding)
        assert (found[padding] == 0).all()
        assert (found[~padding] > 0).any()
        close(found[1:2, :3], method(model).attribute(x[1:2, :3], target=1))


@pytest.mark.parametrize("options", [{}, {"need_weights": False}, {"average_attn_weights": False}], ids=str)
def test_multi_head_attention_is_read(options):
    layer = fill(nn.MultiheadAttention(8, 2, batch_first=True))
    x = rand(2, 5, 8)
    found = AttentionRollout(lambda x: layer(x, x, x, **options)[0][:, 0, 1]).attribute(x)
    close(found, rollout([layer(x, x, x)[1].detach()])[:, 0])


class Patches(nn.Module):
    """A vision transformer with tokens in front of its patches."""

    def __init__(self, ahead: int) -> None:
        super().__init__()
        self.cut = nn.Conv2d(1, 8, 2, 2)
        self.front = nn.Parameter(torch.zeros(1, ahead, 8))
        self.encoder = Encoder()
        fill(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.cut(x).flatten(2).transpose(1, 2)
        return self.encoder(torch.cat([self.front.expand(len(x), -1, -1), x], 1))


@pytest.mark.parametrize("ahead", [0, 1, 5])
@pytest.mark.parametrize("method", METHODS)
def test_values_of_patches_lie_where_they_are(method, ahead):
    model, x = Patches(ahead), rand(2, 1, 6, 8)
    found = method(model).attribute(x, target=1)
    tokens = method(model, at="cut").attribute(x, target=1)
    assert found.shape == (2, 1, 6, 8)
    close(found, tokens)
    sequence = method(model.encoder).attribute(
        torch.cat([model.front.expand(2, -1, -1), model.cut(x).flatten(2).mT], 1).detach(), target=1
    )
    close(found[:, 0, ::2, ::2].flatten(1), sequence[:, ahead:])
    close(found[:, 0, 1::2, 1::2].flatten(1), sequence[:, ahead:])


# -- as other methods -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_neither_batch_nor_neighbours_decide(method):
    model, x = Encoder(), rand(20, 5, 8)
    whole = method(model).attribute(x, target=1)
    for rows in (1, 7):
        close(method(model, batch_size=rows).attribute(x, target=1), whole)
    close(method(model).attribute(x[3:4], target=1), whole[3:4])
    targets = [i % 3 for i in range(20)]
    found = method(model).attribute(x, target=targets)
    close(found[5:6], method(model).attribute(x[5:6], target=targets[5]))


@pytest.mark.parametrize("method", METHODS)
def test_a_model_is_left_as_it_was(method):
    model, x = Encoder().train(), rand(3, 5, 8)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    found = method(model).explain(x, target=1, check="basic")
    assert model.training
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    close(found.values, method(model.eval()).attribute(x, target=1))
    assert not found.signed
    assert "faithfulness" in [c.name for c in found.evidence]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_dtypes(method, dtype):
    model, x = Encoder(), rand(3, 5, 8)
    wide = method(model).attribute(x, target=1)
    found = method(model.to(dtype)).attribute(x.to(dtype), target=1)
    assert found.dtype == dtype
    assert (found.double() - wide).norm() / wide.norm() < 64 * torch.finfo(dtype).eps


@pytest.mark.parametrize("method", METHODS)
def test_a_tuple_of_one_gives_a_tuple_of_one(method):
    model, x = Encoder(), rand(3, 5, 8)
    (found,) = method(model).attribute((x,), target=1)
    close(found, method(model).attribute(x, target=1))
    with pytest.raises(TorchwhyError, match="additional_forward_args"):
        method(model).attribute((x, torch.zeros(3, 5, dtype=torch.bool)), target=1)


# -- what is refused --------------------------------------------------------------------------------------------------


def cross(x: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(x[:, :2], x, x)[:, 0, 0]


def windows(x: Tensor) -> Tensor:
    parts = x.unflatten(1, (2, 2)).flatten(0, 1)[:, None]
    return F.scaled_dot_product_attention(parts, parts, parts).flatten(1).unflatten(0, (-1, 2))[:, 0, 0]


def pooled(x: Tensor) -> Tensor:
    x = F.scaled_dot_product_attention(x, x, x)[:, ::2]
    return F.scaled_dot_product_attention(x, x, x)[:, 0, 0]


def two_towers(x: Tensor) -> Tensor:
    return (fused(x, x, x, None) + fused(2 * x, x, x, None))[:, 0, 0]


def decoded(x: Tensor) -> Tensor:
    return fill(nn.Transformer(4, 2, 1, 1, 8, batch_first=True))(x, x)[:, 0, 0]


def random(x: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(x, x, x, dropout_p=0.1)[:, 0, 0]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("model", "words"),
    [
        (lambda x: x.softmax(-1)[:, 0, 0], "found no attention"),
        (lambda x: (x.mT @ x).softmax(1).mT.matmul(x.mT)[:, 0, 0], "found no attention"),
        (lambda x: fused(x, x, x, None)[:, 0, 0].detach(), "does not depend.*derivative"),
        (cross, r"test_attention.py:\d+.*from 2 tokens to 4 others"),
        (windows, r"test_attention.py:\d+.*within windows"),
        (pooled, "2 and 4 of them"),
        (two_towers, r"test_attention.py:\d+.* does not stand behind that in .*test_attention.py:\d+"),
        (decoded, "an encoder and a decoder"),
        (random, "at random"),
    ],
    ids=["none", "transposed", "detached", "cross", "windows", "pooled", "side by side", "decoder", "random"],
)
def test_what_cannot_be_followed_is_refused(method, model, words):
    with pytest.raises(UnsupportedError, match=words):
        method(model).attribute(rand(2, 4, 4))


@pytest.mark.parametrize("method", METHODS)
def test_a_score_beside_the_attention_is_refused(method):
    class Beside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            return (fused(x, x, x, None).detach() + x)[:, 0, 0]

    with pytest.raises(UnsupportedError, match="depends on no attention behind first"):
        method(Beside(), at="first").attribute(rand(2, 4, 4))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"heads": "median"}, "'mean', 'max' or 'min'"),
        ({"discard": 1.0}, "discard is a share"),
        ({"residual": -0.1}, "residual is a share"),
        ({"residual": True}, "residual is a share"),
        ({"token": 1.5}, "token is the number"),
        ({"token": True}, "token is the number"),
    ],
    ids=str,
)
def test_bad_options_are_refused(options: dict[str, Any], words):
    with pytest.raises(TorchwhyError, match=words):
        AttentionRollout(Encoder(), **options)


def test_a_token_out_of_range_is_refused():
    with pytest.raises(TorchwhyError, match="token 5 is out of range: there are 5 tokens"):
        AttentionRollout(Encoder(), token=5).attribute(rand(2, 5, 8), target=1)
