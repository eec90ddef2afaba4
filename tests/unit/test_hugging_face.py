"""Models of Hugging Face, made from a configuration: token ids, arguments by name, outputs by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import torchwhy as why
from torchwhy import LogOdds, Probability, Token, TorchwhyError

transformers = pytest.importorskip("transformers")

EMBEDDING = "bert.embeddings.word_embeddings"


@pytest.fixture(scope="module")
def bert() -> nn.Module:
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=40,
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=12,
        max_position_embeddings=12,
        num_labels=3,
    )
    model = transformers.BertForSequenceClassification(config).eval().double().requires_grad_(False)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(4)  # as made, it says nearly the same of everything
    return model


@pytest.fixture(scope="module")
def gpt() -> nn.Module:
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=30, n_positions=12, n_embd=8, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
    )
    return transformers.GPT2LMHeadModel(config).eval().double().requires_grad_(False)


IDS = torch.tensor([[5, 6, 7, 8, 9], [10, 11, 12, 1, 1], [13, 14, 15, 16, 1]])
MASK = (IDS != 1).long()
NAMED: dict[str, Any] = {"attention_mask": MASK}


def test_tokens_through_their_embedding(bert):
    found = why.IntegratedGradients(bert, at=EMBEDDING, n_steps=100).explain(
        IDS, baselines=0, target=1, additional_forward_args=NAMED
    )
    moved = bert(IDS, **NAMED).logits[:, 1] - bert(0 * IDS, **NAMED).logits[:, 1]
    assert moved.abs().min() > 1e-3
    tokens = found.per_token().values
    assert tokens.shape == IDS.shape
    torch.testing.assert_close(tokens.sum(1), moved, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(found.output, bert(IDS, **NAMED).logits)
    assert (tokens[MASK == 0] == 0).all()
    without = why.IntegratedGradients(bert, at=EMBEDDING, n_steps=100).attribute(IDS, baselines=0, target=1)
    assert not torch.allclose(without, found.values)


def test_the_prediction_and_scores_of_it(bert):
    logits = bert(IDS, **NAMED).logits
    predicted = tuple(map(str, logits.argmax(1).tolist()))
    found = why.Saliency(bert, at=EMBEDDING).explain(IDS, additional_forward_args=NAMED)
    assert (found.target, found.predicted) == (predicted, True)
    odds = why.DeepLift(bert, at=EMBEDDING).explain(IDS, baselines=0, target=LogOdds(2), additional_forward_args=NAMED)
    p = logits.softmax(1)[:, 2]
    torch.testing.assert_close(odds.scores, (p / (1 - p)).log())
    shapley = why.ShapleyValueSampling(bert, n_samples=3).attribute(
        IDS, baselines=0, target=Probability(), additional_forward_args=NAMED
    )
    best = logits.argmax(1)[:, None]
    base = bert(0 * IDS, **NAMED).logits.softmax(1).gather(1, best)
    torch.testing.assert_close(shapley.sum(1), (logits.softmax(1).gather(1, best) - base)[:, 0])


def test_words_and_positions_together(bert):
    layers = [EMBEDDING, "bert.embeddings.position_embeddings"]
    given = NAMED | {"position_ids": torch.arange(5).expand(3, 5)}
    ig = why.IntegratedGradients(bert, at=layers, n_steps=100)
    words, places = ig.attribute(IDS, baselines=0, target=1, additional_forward_args=given)
    assert words.shape == places.shape == (3, 5, 8)
    assert not places.any()  # they are the same for the baseline
    with pytest.raises(TorchwhyError, match=r"\(1, 5, 8\)\) for 3 rows.*the model makes it once for all rows"):
        ig.attribute(IDS, baselines=0, target=1, additional_forward_args=NAMED)


def test_every_check_of_a_verdict_is_answered(bert):
    at_embedding = why.IntegratedGradients(bert, at=EMBEDDING)
    for method in (at_embedding, why.FeatureAblation(bert), why.ShapleyValueSampling(bert, n_samples=3)):
        found = method.explain(IDS, baselines=0, additional_forward_args=NAMED, check="full")
        assert {v.status for v in found.verdicts} == {"warn"}  # it was never trained
        status = {check.name: set(check.status) for check in found.evidence}
        assert status["training"] == {"warn"}
        assert status["noise"] == {"unknown"}  # of token ids
        assert "unknown" not in status["weights"]
        assert ("unknown" in status["steadiness"]) == (method is not at_embedding)


@pytest.mark.parametrize("of", ["logits", "log-probabilities"])
def test_the_next_token(gpt, of):
    ids = torch.tensor([[4, 8, 15, 16], [23, 2, 7, 9]])
    logits = gpt(ids).logits
    found = why.IntegratedGradients(gpt, at="transformer.wte", n_steps=100).explain(
        ids, baselines=0, target=Token(-1, of=of)
    )
    best = logits[:, -1].argmax(1)
    assert found.predicted
    assert all(name.startswith(f"token {b} at position 3") for name, b in zip(found.target, best, strict=True))

    def read(logits: Tensor) -> Tensor:
        last = logits[:, -1] if of == "logits" else logits[:, -1].log_softmax(1)
        return last.gather(1, best[:, None])[:, 0]

    moved = read(logits) - read(gpt(0 * ids).logits)
    torch.testing.assert_close(found.values.sum((1, 2)), moved, rtol=1e-3, atol=1e-5)
    plain = why.Saliency(gpt, at="transformer.wte").attribute(ids, target=[(3, int(b)) for b in best])
    same = why.Saliency(gpt, at="transformer.wte").attribute(ids, target=Token(3, best))
    torch.testing.assert_close(plain, same)
