"""Agreement of explanations against counts by hand, and what changes nothing."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.testing import assert_close

from torchwhy import InputXGradient, IntegratedGradients, Saliency, TorchwhyError, metrics

CLASSES = {name: cls for name, cls in metrics.metrics().items() if cls.info.family == "agreement"}
TOP = {name: cls for name, cls in CLASSES.items() if name != "RankCorrelation"}

# Sizes in order: a 0 1 2 3 4 5, b 1 0 2 4 3 5; the signs of 2 and 5 differ.
A = torch.tensor([[9.0, -7, 5, 3, 2, 1]], dtype=torch.float64)
B = torch.tensor([[8.0, -9, -6, 1, 2, -0.5]], dtype=torch.float64)


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def value(name: str, a: Tensor = A, b: Tensor = B, **options: object) -> float:
    return CLASSES[name](other=b, **options).score(a).value.item()


@pytest.mark.parametrize(
    ("name", "k", "known"),
    [
        ("FeatureAgreement", 1, 0),
        ("FeatureAgreement", 2, 1),
        ("FeatureAgreement", 4, 3 / 4),
        ("RankAgreement", 3, 1 / 3),
        ("RankAgreement", 6, 2 / 6),
        ("SignAgreement", 3, 2 / 3),
        ("SignAgreement", 6, 4 / 6),
        ("SignedRankAgreement", 3, 0),
        ("SignedRankAgreement", 6, 0),
    ],
)
def test_values_by_hand(name: str, k: int, known: float) -> None:
    assert value(name, k=k) == pytest.approx(known)


def test_the_correlation_is_that_of_scipy() -> None:
    from scipy.stats import spearmanr

    a, b = rand(3, 20, seed=1).mul(2).round(), rand(3, 20, seed=2).mul(2).round()  # many ties
    for absolute in (False, True):
        found = metrics.RankCorrelation(other=b, abs=absolute).score(a).value
        for x, y, rho in zip(a, b, found, strict=True):
            x, y = (x.abs(), y.abs()) if absolute else (x, y)  # noqa: PLW2901
            assert rho.item() == pytest.approx(spearmanr(x, y).statistic)


def test_a_share_is_a_number_of_features() -> None:
    assert value("FeatureAgreement", k=0.5) == value("FeatureAgreement", k=3)
    assert value("FeatureAgreement", k=0.01) == value("FeatureAgreement", k=1)


def test_zeros_agree_with_nothing() -> None:
    for cls in TOP.values():
        found = cls(other=torch.cat([0 * B, B])).score(A.repeat(2, 1))
        assert found.reasons == ("in one of the two, every attribution is zero", "")
    assert metrics.RankCorrelation(other=B**0).score(A).reasons == (
        "in one of the two, the attributions are the same everywhere, so none stands out",
    )


def test_a_constant_explanation_agrees_as_chance_would() -> None:
    assert value("FeatureAgreement", A, torch.ones_like(A), k=3) == pytest.approx(3 / 6)


# -- signs -------------------------------------------------------------------------------------------------------


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()


def test_sizes_have_no_sign_to_agree(model: nn.Module) -> None:
    x = rand(2, 6)
    for name in ("SignAgreement", "SignedRankAgreement", "RankCorrelation"):
        found = CLASSES[name](other=Saliency(model)).score(IntegratedGradients(model), x, target=0)
        assert found.reasons == ("one of the two has sizes, which have no sign",) * 2
        found = CLASSES[name](other=Saliency(model).explain(x, target=0)).score(Saliency(model), x, target=0)
        assert found.value.isnan().all()
    for metric in (
        metrics.FeatureAgreement(other=Saliency(model)),
        metrics.RankCorrelation(other=Saliency(model), abs=True),
    ):
        assert metric.score(IntegratedGradients(model), x, target=0).value.isfinite().all()


def test_methods_explanations_and_values_are_compared_alike(model: nn.Module) -> None:
    x, base = rand(3, 6), rand(3, 6, seed=1)
    first, second = InputXGradient(model), IntegratedGradients(model)
    a, b = first.attribute(x, target=1), second.attribute(x, base, target=1)
    known = metrics.RankCorrelation(other=b).score(a).value
    assert_close(metrics.RankCorrelation(other=second).score(first, x, base, 1).value, known)
    assert_close(metrics.RankCorrelation(other=first).score(second, x, base, 1).value, known)
    assert_close(metrics.RankCorrelation(other=second.explain(x, base, 1)).score(a).value, known)
    unlike = metrics.RankCorrelation(other=second).score(first, x, None, 1).value
    assert not torch.allclose(unlike, known)


def test_a_map_of_one_channel_is_compared_with_sums_of_channels() -> None:
    images, maps = rand(2, 3, 4, 4), rand(2, 1, 4, 4, seed=1)
    known = metrics.RankCorrelation(other=maps).score(images.sum(1, keepdim=True)).value
    assert_close(metrics.RankCorrelation(other=maps).score(images).value, known)
    assert_close(metrics.RankCorrelation(other=images).score(maps).value, known)


def test_what_does_not_fit_is_refused(model: nn.Module) -> None:
    with pytest.raises(TorchwhyError, match=r"FeatureAgreement\(other=values\)"):
        metrics.FeatureAgreement().score(A)
    with pytest.raises(TorchwhyError, match="not of the same features"):
        metrics.FeatureAgreement(other=rand(1, 5)).score(A)
    with pytest.raises(TorchwhyError, match="2 examples"):
        metrics.FeatureAgreement(other=rand(2, 6)).score(A)
    with pytest.raises(TorchwhyError, match="explains inputs"):
        metrics.FeatureAgreement(other=Saliency(model)).score(A)
    with pytest.raises(TorchwhyError, match="more than the 6"):
        value("FeatureAgreement", k=7)


# -- properties --------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 9), st.floats(0.01, 100))
def test_it_is_symmetric_and_knows_no_scale(seed: int, k: int, scale: float) -> None:
    a, b = rand(2, 9, seed=seed).mul(3).round(), rand(2, 9, seed=seed + 1).mul(3).round()
    a[:, 0], b[:, 1] = 5, -7  # something is not zero
    for name, cls in CLASSES.items():
        options = {} if name == "RankCorrelation" else {"k": k}
        known = cls(other=b, **options).score(a).value
        assert_close(cls(other=a, **options).score(b).value, known)
        assert_close(cls(other=scale * b, **options).score(a).value, known)
        assert_close(cls(other=a, **options).score(a).value, torch.ones(2, dtype=torch.float64))
        assert ((known >= cls.info.range[0] - 1e-12) & (known <= 1 + 1e-12)).all()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 9))
def test_more_is_asked_for_from_metric_to_metric(seed: int, k: int) -> None:
    a, b = rand(2, 9, seed=seed), rand(2, 9, seed=seed + 1)
    of = {name: cls(other=b, k=k).score(a).value for name, cls in TOP.items()}
    assert (of["SignedRankAgreement"] <= of["RankAgreement"] + 1e-12).all()
    assert (of["SignedRankAgreement"] <= of["SignAgreement"] + 1e-12).all()
    assert (of["RankAgreement"] <= of["FeatureAgreement"] + 1e-12).all()


# -- several at once ---------------------------------------------------------------------------------------------


def test_pairs_of_several_are_those_of_two(model: nn.Module) -> None:
    x = rand(3, 6)
    methods = [Saliency(model), InputXGradient(model), IntegratedGradients(model).explain(x, target=0)]
    found = metrics.agreement(methods, x, 0, k=2)
    assert found.names == ("Saliency", "InputXGradient", "IntegratedGradients")
    assert set(found) == set(CLASSES)
    a, b = methods[1].attribute(x, target=0), methods[2].values
    for name, cls in CLASSES.items():
        options = {} if name == "RankCorrelation" else {"k": 2}
        matrix = found[name]
        assert matrix.shape == (3, 3, 3)
        assert_close(matrix[1, 2], cls(other=b, **options).score(a).value)
        assert_close(matrix, matrix.transpose(0, 1), equal_nan=True)
    # Saliency has sizes, so that its row has no signs to agree: three pairs of three examples.
    assert found.undefined["SignAgreement"] == {"one of the two has sizes, which have no sign": 9}
    assert found.mean("SignAgreement")[0].isnan().all()
    assert found.mean("FeatureAgreement").diagonal().tolist() == [1, 1, 1]
    assert metrics.agreement(methods, x, 0, absolute=True).mean("RankCorrelation").isfinite().all()


def test_it_shows_itself_and_turns_to_json() -> None:
    found = metrics.agreement({"a": A, "b": B, "zero": 0 * A})
    text = repr(found)
    assert "FeatureAgreement" in text
    assert "undefined: in one of the two, every attribution is zero" in text
    record = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert record["names"] == ["a", "b", "zero"]
    assert record["means"]["RankCorrelation"][0][2] is None


def test_explanations_of_other_targets_are_refused(model: nn.Module) -> None:
    x = rand(2, 6)
    with pytest.raises(TorchwhyError, match="explains"):
        metrics.agreement([Saliency(model).explain(x, target=0), Saliency(model).explain(x, target=1)])
    with pytest.raises(TorchwhyError, match="two explanations or more"):
        metrics.agreement([A])
    with pytest.raises(TorchwhyError, match="give them"):
        metrics.agreement([Saliency(model), A])
