"""Scores of an output: each against its formula, on linear models whose gradients can be written down."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import torchwhy as why
from torchwhy import Difference, LogOdds, Output, Probability, Score, Similarity, Token, TorchwhyError
from torchwhy.core.problem import Problem
from torchwhy.core.tensors import Tensors

ROWS = torch.arange(3)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


WEIGHT, BIAS, X = normal(5, 4, seed=1), normal(5, seed=2), normal(3, 4, seed=3)


def logits(x: Tensor) -> Tensor:
    return x @ WEIGHT.T + BIAS


def chances(x: Tensor) -> Tensor:
    return logits(x).softmax(1)


def single(x: Tensor) -> Tensor:
    return logits(x)[:, 2]


def gradient(model: Any, target: Any) -> Tensor:
    return why.Saliency(model, abs=False).attribute(X, target=target)


def close(a: Any, b: Any) -> None:
    torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def refused(model: Any, target: Any, *words: str) -> None:
    with pytest.raises(TorchwhyError) as caught:
        why.Saliency(model).attribute(X, target=target)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


# -- probabilities and log-odds ------------------------------------------------------------------------------


def test_the_gradient_of_a_probability():
    """Of a softmax: p_c (w_c - sum_j p_j w_j)."""
    p = chances(X)
    expected = p[:, 1:2] * (WEIGHT[1] - p @ WEIGHT)
    close(gradient(logits, Probability(1)), expected)
    close(gradient(chances, Probability(1, of="probabilities")), expected)
    assert not torch.allclose(gradient(logits, 1), expected)


def test_the_gradient_of_the_log_odds():
    """Of a softmax: w_c - sum_j p_j w_j / (1 - p_c), over the other classes."""
    p = chances(X)
    others = p * (torch.arange(5) != 1)
    expected = WEIGHT[1] - others @ WEIGHT / others.sum(1, keepdim=True)
    close(gradient(logits, LogOdds(1)), expected)
    close(gradient(chances, LogOdds(1, of="probabilities")), expected)
    close(gradient(lambda x: logits(x).log_softmax(1), LogOdds(1)), expected)
    assert not torch.allclose(gradient(logits, LogOdds(2)), expected)
    found = why.explain(logits, X, LogOdds(1))
    close(found.scores, (p[:, 1] / (1 - p[:, 1])).log())


def test_log_odds_keep_their_digits_where_the_probability_is_certain():
    far = torch.tensor([[40.0, 0.0, 0.0]], dtype=torch.float64)
    exact = 40 - np.log(2)
    for target, output in ((LogOdds(0), far), (LogOdds(0, of="probabilities"), far.softmax(1))):
        score = target.resolve(output, ROWS[:1], 1)(output, ROWS[:1])
        assert abs(score.item() - exact) < 1e-12
    p = far.softmax(1)[0, 0]
    assert not torch.isfinite((p / (1 - p)).log())  # 1 - p has no digits left


@pytest.mark.parametrize("shape", [(3,), (3, 1)])
def test_a_single_output_is_the_log_odds_of_a_yes(shape):
    def one(x: Tensor) -> Tensor:
        return single(x).view(shape)

    p = single(X).sigmoid()
    close(gradient(one, LogOdds()), WEIGHT[2].expand(3, 4))
    close(gradient(one, Probability()), (p * (1 - p))[:, None] * WEIGHT[2])
    close(gradient(lambda x: one(x).sigmoid(), LogOdds(of="probabilities")), WEIGHT[2].expand(3, 4))
    close(gradient(lambda x: one(x).sigmoid(), Probability(of="probabilities")), gradient(one, Probability()))


def test_classes_that_do_not_exclude_each_other():
    p = logits(X).sigmoid()[:, 3:4]
    close(gradient(logits, LogOdds(3, exclusive=False)), WEIGHT[3].expand(3, 4))
    close(gradient(logits, Probability(3, exclusive=False)), p * (1 - p) * WEIGHT[3])
    many = Probability(3, of="probabilities", exclusive=False)
    close(gradient(lambda x: logits(x).sigmoid(), many), p * (1 - p) * WEIGHT[3])


@pytest.mark.parametrize("kind", [Probability, LogOdds])
def test_what_the_model_gives_is_not_guessed(kind):
    refused(chances, kind(1), "sum to 1", f"{kind.__name__}(..., of='probabilities')")
    refused(logits, kind(1, of="probabilities"), "no probabilities", "leave out")
    refused(lambda x: logits(x).sigmoid(), kind(1, of="probabilities"), "do not sum to 1", "exclusive=False")
    with pytest.raises(TorchwhyError, match="of is 'logits' or 'probabilities', not 'softmax'"):
        kind(1, of="softmax")


# -- which class ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Probability, LogOdds])
@pytest.mark.parametrize(
    "cls",
    [[3, 0, 1], [-2, 0, 1], torch.tensor([3, 0, 1]), np.array([3, 0, 1])],
    ids=["list", "minus", "tensor", "array"],
)
def test_a_class_for_each_example(kind, cls):
    found = why.Saliency(logits, abs=False, batch_size=2).explain(X, target=kind(cls))
    for i, c in enumerate([3, 0, 1]):
        close(found.values[i], gradient(logits, kind(c))[i])
    assert not found.predicted
    assert [name[-2:].strip(")") for name in found.target] in (["3", "0", "1"], [" 3", " 0", " 1"])


@pytest.mark.parametrize("kind", [Probability, LogOdds])
def test_no_class_is_the_predicted_one(kind):
    predicted = logits(X).argmax(1)
    assert len(set(predicted.tolist())) > 1
    found = why.Saliency(logits, abs=False, batch_size=1).explain(X, target=kind())
    assert found.predicted
    close(found.values, gradient(logits, kind(predicted)))
    # At another model, it is still the class that this one predicts.
    target = kind().resolve(logits(X), ROWS, 3)
    close(gradient(chances, kind(predicted, of="probabilities")), gradient(logits, target.of_another(None)))


@pytest.mark.parametrize("cls", [5, -6, [0, 5, 0]], ids=repr)
def test_a_class_out_of_range_is_refused(cls):
    refused(logits, Probability(cls), "out of range", "5 outputs, numbered 0 to 4")


@pytest.mark.parametrize("cls", ["3", 1.5, True, [0, 1.5, 2], (1, 2)], ids=repr)
def test_what_is_no_class_is_refused(cls):
    refused(logits, LogOdds(cls), "target")


def test_a_wrong_number_of_classes_is_told():
    refused(logits, Probability([1, 2]), "a list of 2 was given for 3 examples")
    refused(lambda x: logits(x)[:, :, None], Probability(1), "(3, 5, 1)")


# -- why A rather than B -------------------------------------------------------------------------------------


def test_the_difference_of_two_classes():
    close(gradient(logits, Difference(3, 1)), (WEIGHT[3] - WEIGHT[1]).expand(3, 4))
    each = gradient(logits, Difference([3, 0, 1], 2))
    close(each, WEIGHT[[3, 0, 1]] - WEIGHT[2])
    assert why.explain(logits, X, Difference([3, 0, 1], 2)).target == (
        "3 rather than 2",
        "0 rather than 2",
        "1 rather than 2",
    )


def test_the_difference_to_the_prediction():
    predicted = logits(X).argmax(1)
    other = next(c for c in range(5) if c not in predicted.tolist())
    found = why.Saliency(logits, abs=False).explain(X, target=Difference(None, other))
    close(found.values, WEIGHT[predicted] - WEIGHT[other])
    assert found.predicted
    refused(logits, Difference(int(predicted[2]), None), "is predicted as", "name another")
    refused(logits, Difference(2, -3), "example 0 is asked about 2", "name another")


def test_the_difference_in_an_output_of_several_dimensions():
    def table(x: Tensor) -> Tensor:
        return logits(x)[:, :4].view(-1, 2, 2)

    found = why.Saliency(table, abs=False).explain(X, target=Difference((1, 0), (0, 1)))
    close(found.values, (WEIGHT[2] - WEIGHT[1]).expand(3, 4))
    assert found.target[0] == "(1, 0) rather than (0, 1)"
    refused(table, Difference((1, 2), (0, 1)), "out of range")


# -- numbers -------------------------------------------------------------------------------------------------


def test_an_output_that_is_a_number():
    close(gradient(logits, Output(2)), WEIGHT[2].expand(3, 4))
    close(gradient(single, Output()), WEIGHT[2].expand(3, 4))
    close(gradient(lambda x: single(x)[:, None], Output()), WEIGHT[2].expand(3, 4))
    assert why.explain(logits, X, Output(2)).target == ("output 2",) * 3
    assert why.explain(single, X, Output()).target == ("output",) * 3
    assert not why.explain(logits, X, Output(2)).predicted
    refused(logits, Output(), "5 outputs", "Output(0)")
    refused(logits, Output(9), "out of range")


# -- tokens --------------------------------------------------------------------------------------------------

TABLE = normal(3, 4, 6, seed=5)


def tokens(x: Tensor) -> dict[str, Tensor]:
    """Logits (B, 3, 6) as a model of Hugging Face gives them."""
    return {"loss": None, "logits": torch.einsum("bd,tdv->btv", x, TABLE)}


def test_a_token_at_a_position():
    close(gradient(tokens, Token(1, 4)), TABLE[1, :, 4].expand(3, 4))
    close(gradient(tokens, Token(-1, -1)), TABLE[2, :, 5].expand(3, 4))
    p = tokens(X)["logits"][:, 1].softmax(1)
    close(gradient(tokens, Token(1, 4, of="log-probabilities")), TABLE[1, :, 4] - p @ TABLE[1].T)
    each = gradient(tokens, Token([0, 1, 2], [5, 4, 3]))
    close(each, torch.stack([TABLE[0, :, 5], TABLE[1, :, 4], TABLE[2, :, 3]]))


def test_several_tokens_are_summed():
    found = why.Saliency(tokens, abs=False).explain(X, target=Token((0, 2), [(1, 2), (3, 4), (5, 0)]))
    close(found.values, torch.stack([TABLE[0, :, a] + TABLE[2, :, b] for a, b in ((1, 2), (3, 4), (5, 0))]))
    assert found.target[1] == "tokens 3, 4 at positions 0, 2"


def test_the_token_the_model_would_choose():
    best = tokens(X)["logits"][:, 2].argmax(1)
    found = why.Saliency(tokens, abs=False).explain(X, target=Token(-1))
    close(found.values, TABLE[2].T[best])
    assert found.predicted
    assert found.target == tuple(f"token {t} at position 2" for t in best.tolist())


@pytest.mark.parametrize(
    ("target", "word"),
    [
        (Token(3, 0), "a position, 3, is out of range: there are 3"),
        (Token(0, 6), "a token, 6, is out of range: there are 6"),
        (Token((0, 1), 2), "1 tokens were given for 2 positions"),
        (Token([0, 1], 2), "positions: a list of 2"),
        (Token([(0, 1), 1, 1], 2), "every example has as many"),
        (Token("0", 2), "a position is a whole number"),
        (Token((), ()), "a position is a whole number"),
    ],
)
def test_tokens_that_are_not_there_are_refused(target, word):
    refused(tokens, target, word)


def test_a_token_needs_a_sequence():
    refused(logits, Token(0, 0), "(B, positions, vocabulary)", "(3, 5)")
    with pytest.raises(TorchwhyError, match="log-probabilities"):
        Token(0, 0, of="log_probs")


# -- similarity ----------------------------------------------------------------------------------------------


def test_the_similarity_to_a_reference():
    r = normal(5, seed=7)
    close(gradient(logits, Similarity(r, "dot")), (r @ WEIGHT).expand(3, 4))
    e = logits(X)
    size = e.norm(dim=1, keepdim=True)
    cosine = (e @ r)[:, None] / (size * r.norm())
    expected = (r / r.norm() - cosine * e / size) / size @ WEIGHT
    close(gradient(logits, Similarity(r)), expected)
    close(gradient(logits, Similarity(7 * r)), expected)
    assert why.explain(logits, X, Similarity(r)).target[0] == "cosine similarity to the reference"
    each = normal(3, 5, seed=8)
    close(gradient(logits, Similarity(each, "dot")), each @ WEIGHT)
    chunked = why.Saliency(logits, abs=False, batch_size=2).attribute(X, target=Similarity(each, "dot"))
    close(chunked, each @ WEIGHT)


def test_references_that_do_not_fit_are_refused():
    refused(logits, Similarity(torch.ones(4)), "(4,)", "(5,)")
    refused(logits, Similarity(torch.zeros(5)), "no direction")
    with pytest.raises(TorchwhyError, match="kind is 'cosine' or 'dot'"):
        Similarity(torch.ones(5), "l2")
    with pytest.raises(TorchwhyError, match="NaN"):
        Similarity(torch.full((5,), float("nan")))
    with pytest.raises(TorchwhyError, match="not list"):
        Similarity([1.0])


# -- parts of an output --------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["aux", lambda output: output["aux"]], ids=["key", "function"])
def test_a_part_of_the_output_is_read(part):
    def model(x: Tensor) -> dict[str, Tensor]:
        return {"out": logits(x), "aux": 2 * logits(x)}

    close(gradient(model, Output(1, part=part)), 2 * WEIGHT[1].expand(3, 4))
    close(gradient(model, Output(1)), WEIGHT[1].expand(3, 4))
    close(gradient(model, 1), WEIGHT[1].expand(3, 4))
    close(gradient(lambda x: (x, logits(x)), Output(1, part=1)), WEIGHT[1].expand(3, 4))
    refused(model, Output(1, part="feat"), "no part 'feat'")
    refused(lambda x: (logits(x),), Output(1), "tuple")


def test_the_record_holds_the_logits_of_a_dict():
    found = why.explain(lambda x: {"loss": None, "logits": logits(x)}, X)
    close(found.output, logits(X))
    assert found.target == tuple(map(str, logits(X).argmax(1).tolist()))


# -- with every method ---------------------------------------------------------------------------------------

ALL: list[Score] = [
    Probability(),
    LogOdds([0, 1, 2]),
    Difference(0, [1, 2, 3]),
    Output(2),
    Similarity(normal(3, 5, seed=8)),
]


@pytest.mark.parametrize("target", ALL, ids=lambda t: type(t).__name__)
@pytest.mark.parametrize("method", [why.IntegratedGradients, why.DeepLift, why.ShapleyValues])
def test_attributions_add_up_to_the_change_of_the_score(method, target):
    net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5)).double()
    found = method(net).explain(X, target=target)
    score = target.resolve(net(X), ROWS, 3)
    close(found.scores, score(net(X), ROWS).detach())
    moved = found.scores - score(net(torch.zeros_like(X)), ROWS).detach()
    torch.testing.assert_close(found.values.sum(1), moved, rtol=1e-6, atol=1e-8)
    # The same for each example by itself, and through noise.
    alone = method(net, batch_size=1).attribute(X, target=target)
    torch.testing.assert_close(alone, found.values, rtol=1e-8, atol=1e-10)
    tunnel = why.NoiseTunnel(method(net), nt_samples=2, stdevs=1e-9)
    torch.testing.assert_close(tunnel.attribute(X, target=target), found.values, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("target", ALL, ids=lambda t: type(t).__name__)
def test_a_score_is_the_same_as_a_function_of_the_output(target):
    resolved = target.resolve(logits(X), ROWS, 3)
    for method in (why.Saliency, why.FeatureAblation):
        found = method(logits).attribute(X, target=target)
        for i in range(3):
            one = method(logits).attribute(X[i : i + 1], target=lambda y, i=i: resolved(y, torch.full((len(y),), i)))
            close(found[i : i + 1], one)


@pytest.mark.parametrize("keep", [False, True], ids=["tensor", "dict"])
def test_scores_that_are_asked_about_together(keep):
    def model(x: Tensor) -> Any:
        return {"logits": logits(x)} if keep else logits(x)

    wanted = [Probability(), Difference(0, [1, 2, 3]), 2, lambda y: (y["logits"] if keep else y)[:, 0] ** 2]
    parts = Problem(model, Tensors([X])).aimed(wanted)
    for part, target in zip(parts, wanted, strict=True):
        alone = Problem(model, Tensors([X]), target=target)
        close(part.scores, alone.scores)
        close(part.base_scores(), alone.base_scores())
        assert part.target.names(3) == alone.target.names(3)


def test_a_score_at_a_layer():
    net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5)).double()
    held = net[1](net[0](X)).detach()
    close(
        why.Saliency(net, at="1", abs=False).attribute(X, target=Difference(1, 0)),
        (net[2].weight[1] - net[2].weight[0]).detach().expand(3, 6),
    )
    found = why.FeatureAblation(net, at="1").attribute(X, target=Probability(1))
    p = net[2](held).softmax(1)[:, 1]
    without = torch.stack([net[2](held * (torch.arange(6) != i)).softmax(1)[:, 1] for i in range(6)], 1)
    close(found, (p[:, None] - without).detach())


def test_words_for_people(tmp_path):
    names = ("ant", "bee", "cat", "dog", "eel")
    assert why.explain(logits, X, Probability(3), classes=names).target == ("P(dog)",) * 3
    assert why.explain(logits, X, Difference(3, 1), classes=names).target == ("dog rather than bee",) * 3
    found = why.explain(logits, X, LogOdds(2), classes=names)
    assert found.target_name(0) == "log-odds of cat"
    again = why.Explanation.load(found.save(tmp_path / "found.safetensors"))
    assert again.target == ("log-odds of cat",) * 3
    assert again.as_dict()["examples"][0]["target_name"] == "log-odds of cat"
