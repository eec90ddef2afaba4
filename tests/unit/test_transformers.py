"""Models of Hugging Face as they are: every method that reads operations, without a patch or a version."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from torchwhy.core.errors import UnsupportedError
from torchwhy.engines.rules import trace
from torchwhy.engines.rules.attnlrp import transformer
from torchwhy.methods.attention import AttentionRollout, TransformerRelevance
from torchwhy.methods.deep_lift import DeepLift
from torchwhy.methods.integrated_gradients import IntegratedGradients
from torchwhy.methods.lrp import LRP
from torchwhy.methods.saliency import InputXGradient

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what a package says of itself when it is imported
    transformers = pytest.importorskip("transformers")
    transformers.logging.set_verbosity_error()
pytestmark = [pytest.mark.filterwarnings(f"ignore::{kind}") for kind in ("DeprecationWarning", "FutureWarning")]

IDS = torch.tensor([[1, 5, 7, 9, 3], [2, 4, 4, 8, 11]])
IMPLEMENTATIONS = ["sdpa", "eager"]
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "intermediate_size": 24, "initializer_range": 0.4}
TEXT = SIZES | {"vocab_size": 20, "max_position_embeddings": 16, "bos_token_id": 0, "eos_token_id": 0}


class Kind(NamedTuple):
    """A model with its place of tokens, a score, and the token that this is read from."""

    config: str
    model: str
    options: dict[str, Any]
    at: str | None
    inputs: Tensor
    score: Callable[[Any], Tensor]
    token: int


def of_class(output: Any) -> Tensor:
    return output.logits[:, 1]


def of_next_token(output: Any) -> Tensor:
    return output.logits[:, -1, 3]


GROUPED = {"num_attention_heads": 4, "num_key_value_heads": 2}
KINDS = {
    "BERT": Kind(
        "BertConfig",
        "BertForSequenceClassification",
        TEXT | {"num_attention_heads": 2, "num_labels": 3},
        "bert.embeddings.word_embeddings",
        IDS,
        of_class,
        0,
    ),
    "GPT-2": Kind(
        "GPT2Config",
        "GPT2LMHeadModel",
        {k: v for k, v in TEXT.items() if k != "intermediate_size"} | {"num_attention_heads": 2},
        "transformer.wte",
        IDS,
        of_next_token,
        -1,
    ),
    "Llama": Kind("LlamaConfig", "LlamaForCausalLM", TEXT | GROUPED, "model.embed_tokens", IDS, of_next_token, -1),
    "ViT": Kind(
        "ViTConfig",
        "ViTForImageClassification",
        SIZES | {"num_attention_heads": 2, "num_labels": 3, "image_size": 16, "patch_size": 4},
        None,
        torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64),
        of_class,
        0,
    ),
}


def build(name: str, implementation: str = "sdpa", **options: Any) -> nn.Module:
    kind = KINDS[name]
    torch.manual_seed(0)
    config = getattr(transformers, kind.config)(**kind.options | options, attn_implementation=implementation)
    model: nn.Module = getattr(transformers, kind.model)(config).double().eval()
    for i, (parameter_name, p) in enumerate(model.named_parameters()):
        if "bias" in parameter_name:  # zero as they are made
            p.data = torch.randn(p.shape, generator=torch.Generator().manual_seed(i), dtype=torch.float64) / 4
    return model


def apart(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


@pytest.fixture(params=KINDS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


# -- differences ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_deep_lift_is_complete(name, implementation):
    kind, model = KINDS[name], build(name, implementation)
    found = DeepLift(model, at=kind.at).explain(kind.inputs, target=kind.score, check="free")
    (check,) = [c for c in found.evidence if c.name == "completeness"]
    assert max(check.value) < 1e-6
    other = InputXGradient(model, at=kind.at).attribute(kind.inputs, target=kind.score)
    assert apart(other.flatten(1).sum(1), found.values.flatten(1).sum(1)) > 1e-2


@pytest.mark.parametrize("name", ["BERT", "Llama"], indirect=False)
def test_deep_lift_with_a_mask_of_padding(name):
    kind, model = KINDS[name], build(name)
    mask = torch.tensor([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1]])
    target = (lambda out: out.logits[:, -1, 3]) if name == "Llama" else kind.score
    found = DeepLift(model, at=kind.at).explain(kind.inputs, target=target, additional_forward_args=mask, check="free")
    (check,) = [c for c in found.evidence if c.name == "completeness"]
    assert max(check.value) < 1e-6
    if name == "Llama":
        assert (found.values[1, :2] == 0).all()
        assert found.values[0, :2].abs().sum() > 0


# -- relevance --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("composite", ["AttnLRP", "CP-LRP"])
def test_lrp_does_not_depend_on_how_attention_is_computed(name, composite):
    kind = KINDS[name]
    one, other = (
        LRP(build(name, implementation), composite=composite, at=kind.at).attribute(kind.inputs, target=kind.score)
        for implementation in IMPLEMENTATIONS
    )
    assert apart(one, other) < 1e-5  # eager attention takes its softmax in float32
    plain = InputXGradient(build(name), at=kind.at).attribute(kind.inputs, target=kind.score)
    assert apart(one, plain) > 1e-2


@pytest.mark.parametrize("composite", ["AttnLRP", "CP-LRP"])
def test_relevance_leaks_where_it_may(name, composite):
    kind, model = KINDS[name], build(name)
    found = trace(model, kind.inputs, transformer(composite, epsilon=0), target=kind.score, at=kind.at)
    biases = {"linear", "addmm", "add", "conv2d", "cat"}  # so are positions and the class token, which are constants
    softmax = {"softmax"} if composite == "AttnLRP" else set()
    assert {s.operation for s in found.leaks(1e-5)} <= biases | softmax
    if name == "Llama":  # which has no biases
        assert {s.operation for s in found.leaks(1e-5)} == softmax
    told = sum(s.leak for s in found.steps if s.leak is not None)
    assert abs(found.score - found.passed - told) < 1e-5 * abs(found.score)


def test_cp_lrp_of_llama_conserves():
    kind = KINDS["Llama"]
    found = LRP(build("Llama"), composite="CP-LRP", epsilon=0, at=kind.at).explain(kind.inputs, target=kind.score)
    assert apart(found.values.sum((1, 2)), found.scores) < 1e-5


def halved(t: Tensor) -> Tensor:
    return t / 2 + (t / 2).detach()


@pytest.mark.parametrize("name", ["Llama", "GPT-2"], indirect=False)
def test_attn_lrp_is_what_lxt_patches_models_to(name, monkeypatch):
    """The reference changes the model as LXT 2.1 does, and multiplies input and gradient."""
    kind, model = KINDS[name], build(name, "eager")
    found = LRP(model, composite="AttnLRP", epsilon=0, at=kind.at).attribute(kind.inputs, target=kind.score)

    def reference() -> Tensor:
        x = model.get_input_embeddings()(kind.inputs).detach().requires_grad_()
        (g,) = torch.autograd.grad(kind.score(model(inputs_embeds=x, use_cache=False)).sum(), x)
        return (x * g).detach()

    assert apart(found, reference()) > 1e-2
    _patch(model, monkeypatch)
    assert apart(found, reference()) < 1e-6


def _patch(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = type(model).__module__
    module = __import__(kind, fromlist=["eager_attention_forward"])
    eager = module.eager_attention_forward

    def attend(owner: nn.Module, q: Tensor, k: Tensor, v: Tensor, *args: Any, **kwargs: Any) -> Any:
        return eager(owner, halved(halved(q)), halved(halved(k)), halved(v), *args, **kwargs)

    monkeypatch.setattr(module, "eager_attention_forward", attend)
    for m in model.modules():
        if type(m).__name__ == "LlamaRMSNorm":
            monkeypatch.setattr(m, "forward", lambda x, m=m: _normalised(x, 0, m.weight, None, m.variance_epsilon))
        elif isinstance(m, nn.LayerNorm):
            monkeypatch.setattr(
                m, "forward", lambda x, m=m: _normalised(x, x.mean(-1, keepdim=True), m.weight, m.bias, m.eps)
            )
        elif type(m).__name__ == "LlamaMLP":
            monkeypatch.setattr(
                m, "forward", lambda x, m=m: m.down_proj(halved(_identity(m.act_fn, m.gate_proj(x)) * m.up_proj(x)))
            )
        elif type(m).__name__ == "GPT2MLP":
            monkeypatch.setattr(m, "forward", lambda x, m=m: m.c_proj(_identity(m.act, m.c_fc(x))))


def _normalised(x: Tensor, mean: Any, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    y = (x - mean) * ((x - mean).square().mean(-1, keepdim=True) + eps).rsqrt().detach() * weight
    return y if bias is None else y + bias


def _identity(fn: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return x * (fn(x) / x).detach()


# -- attention --------------------------------------------------------------------------------------------------------


def expected(name: str, kind: Kind) -> tuple[Tensor, Tensor]:
    """Rollout and relevance from what the model gives when it is asked for its attention."""
    layers = build(name, "eager")(kind.inputs, output_attentions=True)
    slopes = torch.autograd.grad(kind.score(layers).sum(), layers.attentions)
    one = torch.eye(layers.attentions[0].shape[-1], dtype=torch.float64)
    flow = relevance = one
    for a, g in zip(layers.attentions, slopes, strict=True):
        flow = (a.detach().mean(1) + one) / 2 @ flow
        relevance = relevance + (a.detach() * g).clamp(min=0).mean(1) @ relevance
    return flow[:, kind.token], (relevance - one)[:, kind.token]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("place", ["input", "embedding"])
def test_attention_is_read_without_asking_for_it(name, implementation, place):
    kind, model = KINDS[name], build(name, implementation)
    at = kind.at if place == "embedding" else None
    for method, tokens in zip((AttentionRollout, TransformerRelevance), expected(name, kind), strict=True):
        found = method(model, at=at).attribute(kind.inputs, target=kind.score)
        if name == "ViT":
            assert found.shape == (2, 1, 16, 16)
            found = torch.cat([tokens[:, :1], found[:, 0, ::4, ::4].flatten(1)], 1)
        assert found.shape == tokens.shape
        assert apart(found, tokens) < 1e-5


# -- others -----------------------------------------------------------------------------------------------------------


def test_gradients_along_a_path_agree_with_differences_in_their_sum():
    kind, model = KINDS["BERT"], build("BERT")
    path = IntegratedGradients(model, at=kind.at, n_steps=64).attribute(kind.inputs, target=kind.score)
    difference = DeepLift(model, at=kind.at).attribute(kind.inputs, target=kind.score)
    assert apart(path.sum((1, 2)), difference.sum((1, 2))) < 1e-3


def test_token_ids_have_no_gradient():
    with pytest.raises(Exception, match="explain the layer behind it"):
        LRP(build("BERT"), composite="AttnLRP").attribute(IDS, target=of_class)


def test_other_composites_name_the_line_of_the_model():
    kind = KINDS["Llama"]
    with pytest.raises(UnsupportedError, match=r"LRP cannot keep its promise at \w+: .*modeling_llama\.py:\d+"):
        LRP(build("Llama"), composite="epsilon", at=kind.at).attribute(kind.inputs, target=kind.score)
