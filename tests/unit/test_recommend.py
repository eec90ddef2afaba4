"""Comparing methods: the exact one wins, controls show which metrics say nothing, and rows are counted."""

import json

import pytest
import torch
from torch import nn

import torchwhy as why
from torchwhy import Deconvolution, FeatureAblation, InputXGradient, Occlusion, Saliency, TorchwhyError
from torchwhy.core.guard import untouched
from torchwhy.core.progress import Progress
from torchwhy.metrics import Deletion, MuFidelity
from torchwhy.recommendation import recommend
from torchwhy.recommendation.bench import Bench, Candidate
from torchwhy.recommendation.planted import Plant
from torchwhy.recommendation.settings import JUDGES, LEFT_OUT, SETTINGS


class Planted(nn.Module):
    """(B, 1, 6, 6) to (B, 2): saturated terms of a 2 x 3 patch, and a little of everything else."""

    def __init__(self):
        super().__init__()
        self.register_buffer("weights", torch.zeros(6, 6))
        self.weights[1:3, 2:5] = torch.tensor([[3.0, -2.0, 1.5], [-1.0, 2.5, -3.0]])
        self.drop = nn.Dropout(0.5)
        self.rows = 0

    def forward(self, x):
        self.rows += len(x)
        x = self.drop(x)
        score = (self.weights * torch.tanh(6 * x[:, 0])).sum((1, 2)) + 0.02 * x.sum((1, 2, 3))
        return torch.stack([score, -score], 1)


class Squares(nn.Module):
    """(B, 8) to (B, 2): every element matters by its size, so the size of the input explains it."""

    def forward(self, x):
        score = (x**2).sum(1)
        return torch.stack([score, -score], 1)


def images(n=24, seed=0):
    g = torch.Generator().manual_seed(seed)
    return 0.6 + 0.8 * torch.rand(n, 1, 6, 6, generator=g)


def vectors(n=24):
    return torch.randn(n, 8, generator=torch.Generator().manual_seed(3))


FEW = ["FeatureAblation", "InputXGradient", "Saliency"]


@pytest.fixture
def model():
    return Planted()


@pytest.fixture
def found(model):
    return recommend(model, images(), 0, methods=FEW, metrics=["Deletion", "MuFidelity"])


# -- what wins -----------------------------------------------------------------------------------------------


def test_the_exact_method_wins_where_gradients_are_saturated(found):
    best, *others = found.contenders
    assert (found.best, best.standing, best.name) == (best, "chosen", "FeatureAblation")
    assert best.merit == pytest.approx(1, abs=1e-6)
    assert {c.name: c.standing for c in others} == {"InputXGradient": "worse", "Saliency": "worse"}
    assert all(c.behind > c.margin > 0 for c in others)
    assert isinstance(found.method, FeatureAblation)
    assert all(j.informative for j in found.judgements)
    assert "Use FeatureAblation here" in found.sentences[0]
    assert "better than Saliency and InputXGradient" in found.sentences[1]


def test_random_attributions_have_no_merit(model):
    """A method that is one more random control is worse than the exact one and no better than chance."""
    torch.manual_seed(0)
    noise = {i: torch.randn(1, 6, 6) for i in range(1000)}

    class Noise(Saliency):
        def compute(self, p):
            made = super().compute(p)
            keys = [int(1e4 * t.sum()) % 1000 for t in p.inputs.parts[0]]
            made.values = made.values.map(lambda v: torch.stack([noise[k] for k in keys]).to(v))
            return made

    result = recommend(model, images(), 0, methods=["FeatureAblation", Noise(model)], metrics=["Deletion"])
    merits = {c.name: c for c in result.contenders}
    assert result.best.name == "FeatureAblation"
    assert merits["Noise"].standing == "worse"
    assert abs(merits["Noise"].merit) < 0.35


def test_equal_methods_tie_and_the_cheapest_is_chosen():
    torch.manual_seed(0)
    linear = nn.Sequential(nn.Flatten(), nn.Linear(36, 2)).eval()
    result = recommend(linear, images(), 0, methods=["FeatureAblation", "InputXGradient"], metrics=["Deletion"])
    assert result.best.name == "InputXGradient"
    (other,) = [c for c in result.contenders if c is not result.best]
    assert (other.standing, other.cost > 10) == ("ties", True)
    assert "It ties with FeatureAblation" in result.sentences[1]


def test_settings_are_tuned_and_those_left_behind_are_told(model):
    """Of windows, single elements are exact here."""
    result = recommend(model, images(), 0, methods=["Occlusion"], metrics=["Deletion"])
    assert result.best.options["sliding_window_shapes"] == (1, 1, 1)
    assert result.best.method.sliding_window_shapes == (1, 1, 1)
    assert result.tuned == result.scored == 12
    many = recommend(model, images(), 0, metrics=["Deletion"], methods=[*FEW, *MORE])
    names = {c.name for c in many.contenders} | {s.told.partition("(")[0] for s in many.screened}
    assert names == {*FEW, *MORE}
    assert many.screened
    assert all(s.examples <= 12 for s in many.screened)


MORE = ["BetaSmooth", "Deconvolution", "DeepLift", "GuidedBackprop", "IntegratedGradients", "Occlusion", "SmoothGrad"]


def test_a_method_made_by_the_user_stays_as_it_is(model):
    result = recommend(
        model, images(), 0, methods=[Occlusion(model, sliding_window_shapes=(1, 2, 2))], metrics=["Deletion"]
    )
    (only,) = result.contenders
    assert only.told == "Occlusion(sliding_window_shapes=(1, 2, 2))"
    assert only.standing == "chosen"


# -- what metrics are worth ----------------------------------------------------------------------------------


def test_a_metric_that_a_control_does_as_well_on_does_not_count():
    result = recommend(
        Squares(), vectors(), 0, methods=["FeatureAblation", "Saliency"], metrics=["Deletion", "MuFidelity"]
    )
    counts = {j.metric: j for j in result.judgements}
    assert not counts["Deletion"].informative
    assert counts["Deletion"].control == "input"
    assert counts["Deletion"].control_value == pytest.approx(counts["Deletion"].value)
    assert counts["MuFidelity"].informative
    assert result.best.name == "FeatureAblation"
    assert any(
        "Deletion says nothing on this model, since the size of the input does as well" in s for s in result.sentences
    )
    # What does not count does not change the merit.
    alone = recommend(Squares(), vectors(), 0, methods=["FeatureAblation", "Saliency"], metrics=["MuFidelity"])
    assert [c.merit for c in alone.contenders] == [c.merit for c in result.contenders]


def test_where_no_metric_counts_nothing_is_recommended():
    result = recommend(Squares(), vectors(), 0, methods=["FeatureAblation", "Saliency"], metrics=["Deletion"])
    assert result.best is None
    assert "No method can be recommended" in result.sentences[0]
    assert {c.standing for c in result.contenders} == {"unjudged"}
    assert {c.merit for c in result.contenders} == {None}
    with pytest.raises(TorchwhyError, match="no method was chosen"):
        result.method  # noqa: B018
    assert "No method" in str(result)
    assert json.loads(json.dumps(result.as_dict(), allow_nan=False))["best"] is None
    assert "<table" in result._repr_html_()
    result.plot()


def test_stability_is_measured_and_belongs_to_the_front(model):
    result = recommend(model, images(), 0, methods=FEW, metrics=["Deletion", "AvgSensitivity"])
    assert result.stability == ("AvgSensitivity",)
    assert all(c.values["AvgSensitivity"] >= 0 for c in result.contenders)
    assert result.best.front
    for c in result.contenders:
        beaten = [
            o
            for o in result.contenders
            if o is not c
            and o.merit >= c.merit
            and o.cost <= c.cost
            and o.values["AvgSensitivity"] <= c.values["AvgSensitivity"]
        ]
        assert c.front == (not beaten)


# -- the planted term ----------------------------------------------------------------------------------------


def missed(model, method, x, **options):
    bench = Bench(model, x, None, 0, None, None, None, None, Progress(False))
    with untouched(model, x.device):
        question = bench.question(torch.arange(2))
        plant = Plant.of(bench, question, seed=0)
        return plant and plant.error(bench, Candidate("m", method(model, **options)))


@pytest.mark.parametrize(
    ("method", "options"),
    [
        (why.FeatureAblation, {}),
        (why.InputXGradient, {}),
        (why.IntegratedGradients, {"n_steps": 5}),
        (why.SmoothGrad, {"n_samples": 3}),
        (why.KernelShap, {"n_samples": 100}),
        (why.RISE, {"n_samples": 20}),
    ],
)
def test_linear_methods_miss_nothing_of_a_planted_term(method, options):
    assert missed(Planted().double(), method, images().double(), **options) < 1e-9


@pytest.mark.parametrize("method", [why.Saliency, why.SmoothGradSquared, why.VarGrad])
def test_methods_that_are_not_linear_miss_some_of_it(method):
    found = missed(Planted().double(), method, images().double())
    assert found is None or found > 0.05


def test_what_saliency_misses_is_what_it_is_by_hand():
    """Of f = a x with g = w x: | |a + w| - |a| - |w| | over |w|."""
    a = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
    x = torch.rand(12, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.5

    def model(x):
        return x @ a

    bench = Bench(model, x, None, None, None, None, None, None, Progress(False))
    with untouched(model, x.device):
        plant = Plant.of(bench, bench.question(torch.arange(3)), seed=0)
        w = plant.alone.model.parts[0].weight[0]
        found = plant.error(bench, Candidate("m", Saliency(model)))
    expected = ((a + w).abs() - a.abs() - w.abs()).abs().sum() / w.abs().sum()
    assert found == pytest.approx(float(expected))
    # The term is as large as what the inputs change in the score.
    size = (x[:3] * w).abs().sum(1).mean()
    assert float(size) == pytest.approx(float((x[:3] @ a).abs().mean()))


def test_where_no_term_can_be_planted_there_is_no_column(model):
    x = images()
    probability = recommend(model, x, why.Probability(0), methods=["InputXGradient"], metrics=["Deletion"])
    assert probability.contenders[0].planted is None
    with untouched(model, x.device):
        bench = Bench(model, x, None, 0, None, None, None, None, Progress(False))
        assert Plant.of(bench, bench.question(torch.arange(2)), 0) is not None


# -- what runs -----------------------------------------------------------------------------------------------


def test_what_does_not_run_is_listed_with_the_reason(model):
    def function(x):
        return model(x)

    names = ["GradCAM", "ShapleyInteractions", "InputXGradient"]
    result = recommend(function, images(12), 0, methods=names, metrics=["Deletion"])
    assert set(result.refused) == {"GradCAM", "ShapleyInteractions"}
    assert "the model is a function" in result.refused["GradCAM"]
    assert "pairs" in result.refused["ShapleyInteractions"]
    assert [c.name for c in result.contenders] == ["InputXGradient"]
    with pytest.raises(TorchwhyError, match="no method runs here: GradCAM: "):
        recommend(function, images(12), 0, methods=["GradCAM"], metrics=["Deletion"])


def test_a_method_that_fails_on_an_example_is_told_of(model):
    class Fragile(InputXGradient):
        def compute(self, p):
            if float(p.inputs.parts[0][:, 0, 0, 0].amin()) < 0.65:
                raise TorchwhyError("too dark")
            return super().compute(p)

    x = images()
    assert (x[:, 0, 0, 0] < 0.65).any()
    result = recommend(model, x, 0, methods=[Fragile(model), "FeatureAblation"], metrics=["Deletion"])
    assert result.refused == {"Fragile": "it does not run on all examples: too dark"}
    assert [c.name for c in result.contenders] == ["FeatureAblation"]


def test_maps_of_a_layer_are_enlarged_and_layers_tuned():
    torch.manual_seed(0)
    cnn = nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2)
    ).eval()
    result = recommend(cnn, images(12), methods=["GradCAM", "HiResCAM", "InputXGradient"], metrics=["MuFidelity"])
    assert {c.name for c in result.contenders} == {"GradCAM", "HiResCAM", "InputXGradient"}
    assert all(c.options["at"] in "0123" for c in result.contenders if c.name.endswith("CAM"))
    assert all(c.planted is None for c in result.contenders if c.name.endswith("CAM"))


def test_tuples_functions_and_sets_of_baselines():
    w = torch.tensor([1.0, -2.0, 3.0])

    def model(a, b, scale):
        return torch.stack([(a * w).sum(1) * scale + torch.tanh(b).sum(1), b.sum(1)], 1)

    g = torch.Generator().manual_seed(0)
    inputs = torch.rand(12, 3, generator=g), torch.rand(12, 2, generator=g)
    result = recommend(
        model,
        inputs,
        [0, 1] * 6,
        methods=["GradientShap", "FeatureAblation"],
        metrics=["Deletion"],
        baselines=(torch.zeros(12, 3), torch.full((12, 2), 0.1)),
        background=tuple(t[:4] for t in inputs),
        additional_forward_args=torch.linspace(1, 2, 12),
    )
    assert {c.name for c in result.contenders} == {"GradientShap", "FeatureAblation"}
    assert all(c.planted == pytest.approx(0, abs=1e-4) for c in result.contenders)


# -- what it costs -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", [6_000, 12_000, 40_000])
def test_no_more_rows_are_sent_than_the_budget_says(model, budget):
    names = ["FeatureAblation", "InputXGradient", "Occlusion", "RISE", "KernelShap", "IntegratedGradients"]
    result = recommend(model, images(40), 0, methods=names, metrics=["Deletion"], budget=budget)
    assert model.rows <= result.evaluations <= budget
    assert result.evaluations > budget / 4
    assert result.scored >= 5


def test_rows_are_counted_as_the_model_sees_them(model):
    """Of methods without gradients, all but those of the planted term alone, which the model does not see."""
    result = recommend(model, images(12), 0, methods=[FeatureAblation(model)], metrics=["Deletion"])
    term = 2 * (36 + 2)
    assert model.rows <= result.evaluations <= model.rows + term


def test_the_cost_of_a_method_is_what_one_example_takes(found):
    costs = {c.name: c.cost for c in found.contenders}
    assert costs["InputXGradient"] == costs["Saliency"] == 2
    assert costs["FeatureAblation"] in (36, 37)


def test_what_is_too_dear_is_left_out(model):
    result = recommend(model, images(), 0, methods=["InputXGradient", "RISE"], metrics=["Deletion"], budget=5_000)
    assert "too many for the budget" in result.refused["RISE"]
    assert result.evaluations <= 5_000


def test_a_budget_that_is_too_small_says_what_is_enough(model):
    with pytest.raises(TorchwhyError, match=r"a budget of 100 .* is too small .* at least [\d,]+") as caught:
        recommend(model, images(), 0, methods=FEW, metrics=["Deletion"], budget=100)
    enough = int(str(caught.value).rpartition("at least ")[2].split(", or")[0].replace(",", ""))
    assert recommend(model, images(), 0, methods=["InputXGradient"], metrics=["Deletion"], budget=enough).contenders


# -- promises ------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_whatever_the_batch_size(model, found):
    again = recommend(model, images(), 0, methods=FEW, metrics=["Deletion", "MuFidelity"], batch_size=7)
    for a, b in zip(found.contenders, again.contenders, strict=True):
        assert (a.told, a.cost, a.standing) == (b.told, b.cost, b.standing)
        assert a.merit == pytest.approx(b.merit, abs=1e-5)
    other = recommend(model, images(), 0, methods=FEW, metrics=["Deletion", "MuFidelity"], seed=1)
    assert other.best.name == "FeatureAblation"
    assert other.contenders[1].merit != found.contenders[1].merit


def test_nothing_of_the_model_or_of_the_world_is_changed(model):
    model.train()
    model.weights.requires_grad_()
    x = images(12)
    before, random, copy = model.weights.detach().clone(), torch.get_rng_state(), x.clone()
    recommend(model, x, 0, methods=FEW, metrics=["Deletion"])
    assert model.training
    assert model.drop.training
    assert model.weights.requires_grad
    assert torch.equal(model.weights, before)
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.equal(x, copy)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"methods": ["GradCam2"]}, "there is no method 'GradCam2'"),
        ({"methods": ["NoiseTunnel"]}, "goes around another method"),
        ({"methods": []}, "name at least one method"),
        ({"methods": [3]}, "a method is a name"),
        ({"methods": [Saliency(nn.Identity())]}, "was made for another model"),
        ({"metrics": ["Nosuch"]}, "there is no metric 'Nosuch'"),
        ({"metrics": ["Deletion", Deletion()]}, "each of another kind"),
        ({"metrics": ["AvgSensitivity"]}, "at least one metric of faithfulness"),
        ({"metrics": ["Sparseness"]}, "compared by metrics of faithfulness and robustness"),
        ({"metrics": [3]}, "a metric is a name"),
        ({"budget": 0}, "budget is a whole number"),
        ({"seed": -1}, "seed is a whole number"),
    ],
    ids=str,
)
def test_what_cannot_be_compared_is_refused(model, options, message):
    with pytest.raises(TorchwhyError, match=message):
        recommend(model, images(), 0, **({"methods": FEW, "metrics": [MuFidelity(n_subsets=10)]} | options))


def test_a_few_examples_are_too_few(model):
    with pytest.raises(TorchwhyError, match="give 10 or more, not 9"):
        recommend(model, images(9), 0, methods=FEW)


# -- what it shows -------------------------------------------------------------------------------------------


def test_it_turns_to_json_text_pages_and_figures(found, tmp_path):
    told = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert told["best"] == found.best.told
    assert [c["name"] for c in told["contenders"]] == [c.name for c in found.contenders]
    assert found.save(tmp_path / "r.json").read_text().startswith("{")
    page = found.save(tmp_path / "r.html").read_text()
    assert all(sentence in page for sentence in found.sentences)
    assert "http" not in page.replace("http-equiv", "")
    text = str(found)
    assert "FeatureAblation" in text
    assert "MuFidelity" in text
    assert repr(found) == "<Recommendation FeatureAblation, 3 contenders on 12 examples>"
    assert len(found.plot().axes) == 1
    with pytest.raises(TorchwhyError, match=r"as \.html or \.json"):
        found.save(tmp_path / "r.txt")


@pytest.mark.parametrize("width", [60, 80])
def test_no_name_is_cut_on_a_narrow_terminal(found, width):
    from rich.console import Console

    console = Console(width=width, no_color=True)
    with console.capture() as captured:
        console.print(found.table())
    text = captured.get()
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    for name in [*(c.told for c in found.contenders if len(c.told) <= 24), *(j.metric for j in found.judgements)]:
        assert f"  {name} " in text


def test_names_are_escaped(found):
    import dataclasses

    best = dataclasses.replace(found.contenders[0], told="<b>")
    page = dataclasses.replace(found, contenders=(best,))._repr_html_()
    assert "<b>" not in page
    assert "&lt;b&gt;" in page


def test_the_tables_name_methods_options_and_metrics_that_exist():
    methods, metrics = why.registry.methods(), why.metrics.metrics()
    assert set(LEFT_OUT) <= set(methods)
    assert set(JUDGES) <= set(metrics)
    for name, settings in SETTINGS.items():
        for setting in settings:
            methods[name](nn.Identity()).with_options(**setting.options)
    for name, options in JUDGES.items():
        metrics[name]().with_options(**options)


def test_the_result_is_ready_to_explain(found):
    assert found.method.explain(images(2), target=0).values.shape == (2, 1, 6, 6)
    assert Deconvolution.__name__ not in found.refused
    assert isinstance(next(c for c in found.contenders if c.name == "InputXGradient").method, InputXGradient)


# -- at a layer ----------------------------------------------------------------------------------------------


class Layered(nn.Module):
    """(B, 1, 6, 6) to (B, 2): a layer of two channels, of which a patch of the second counts, saturated."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 1)
        with torch.no_grad():
            self.conv.weight.copy_(torch.tensor([1.0, 2.0]).view(2, 1, 1, 1))
            self.conv.bias.zero_()
        self.register_buffer("weights", torch.zeros(6, 6))
        self.weights[1:3, 2:5] = torch.tensor([[3.0, 2.0, 1.5], [1.0, 2.5, 3.0]])

    def forward(self, x):
        held = self.conv(x)
        score = (self.weights * torch.tanh(2 * held[:, 1])).sum((1, 2))
        return torch.stack([score, 0.1 * held[:, 0].mean((1, 2))], 1)


def test_at_a_layer_methods_are_asked_and_judged_there():
    model = Layered()
    names = ["FeatureAblation", "InputXGradient", "GradCAM", "Conductance"]
    result = recommend(model, images(), 0, at="conv", methods=names, metrics=["Deletion", "MuFidelity"])
    assert result.at == "conv"
    assert result.as_dict()["at"] == "conv"
    assert result.facts["at"] == "conv"
    assert {str(c.method.at) for c in result.contenders} == {"conv"}
    merits = {c.name: c.merit for c in result.contenders}
    assert merits["FeatureAblation"] == pytest.approx(1, abs=1e-6)
    assert merits["GradCAM"] < 0.9  # one value for both channels, of which one does nothing
    assert result.method.attribute(images(2), target=0).shape == (2, 2, 6, 6)
    assert "at conv: " in result.sentences[0]
    assert all(c.planted is None for c in result.contenders)
    module = recommend(model, images(), 0, at=model.conv, methods=names, metrics=["Deletion", "MuFidelity"])
    assert module.as_dict() == result.as_dict()


def test_maps_at_a_layer_are_judged_as_what_they_say_of_every_channel():
    model, x = Layered(), images(4)
    bench = Bench(model, x, "conv", 0, None, None, None, None, Progress(False))
    with untouched(model, x.device):
        question = bench.question(torch.arange(3))
        given = {}
        for method in (why.GradCAM(model), why.FeatureAblation(model)):
            candidate = Candidate(type(method).__name__, method)
            bench.try_out(candidate, question, 1000)
            given[candidate.name] = bench.explain(candidate, question).parts[0]
    assert torch.allclose(given["GradCAM"], why.GradCAM(model, at="conv").attribute(x[:3], target=0).expand(3, 2, 6, 6))
    assert torch.allclose(given["FeatureAblation"], why.FeatureAblation(model, at="conv").attribute(x[:3], target=0))
    assert candidate.cost == 1 + 2 * 36 or candidate.cost > 0


def test_baselines_of_their_own_are_carried_to_the_layer():
    model, x = Layered(), images(12)
    base = 0.1 * images(12, seed=5)
    bench = Bench(model, x, "conv", 0, base, None, None, None, Progress(False))
    some = torch.tensor([7, 2])
    with untouched(model, x.device):
        method = why.FeatureAblation(model, at="conv")
        found = bench.explain(Candidate("FeatureAblation", method), bench.question(some)).parts[0]
    assert torch.allclose(found, method.attribute(x[some], base[some], target=0))


def test_what_does_not_fit_a_layer_is_refused():
    model = Layered()
    elsewhere = InputXGradient(nn.Sequential(model, nn.Identity()))
    with pytest.raises(TorchwhyError, match="compared at one layer"):
        recommend(model, images(), 0, at=["conv"])
    with pytest.raises(TorchwhyError, match="has no layer 'covn'"):
        recommend(model, images(), 0, at="covn", methods=FEW)
    other = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(72, 2)).eval()
    found = recommend(other, images(), 0, at="0", methods=[InputXGradient(other, at="1"), Saliency(other, at="0")])
    assert found.refused == {"InputXGradient": "it was made for 1, and the comparison is at 0"}
    assert elsewhere.at is None


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.last = nn.Embedding(30, 8), nn.Linear(8, 3)

    def forward(self, ids):
        return self.last(torch.tanh(self.embedding(ids)).mean(1))


@pytest.mark.parametrize("at", [None, "embedding"])
def test_a_metric_that_cannot_be_asked_of_tokens_is_left_out_and_told(at):
    ids = torch.randint(0, 30, (12, 7), generator=torch.Generator().manual_seed(0))
    result = recommend(Tokens().eval(), ids, at=at, methods=["FeatureAblation", "InputXGradient"])
    assert result.best is not None
    assert result.stability == ()
    assert list(result.unasked) == ["AvgSensitivity"]
    assert any(s.startswith("AvgSensitivity cannot be asked here: noise cannot be") for s in result.sentences)
    assert ("InputXGradient" in result.refused) == (at is None)
    assert json.dumps(result.as_dict())


def test_a_setting_that_is_too_small_to_run_does_not_hide_a_larger_one():
    torch.manual_seed(0)
    wide = nn.Sequential(nn.Linear(300, 2)).eval()
    x = torch.randn(10, 300, generator=torch.Generator().manual_seed(0))
    result = recommend(wide, x, 0, methods=["KernelShap", "Saliency"], metrics=["Deletion"])
    assert result.refused == {}
    tried = {c.told for c in result.contenders} | {s.told for s in result.screened}
    assert any("n_samples=2048" in told or told == "KernelShap" for told in tried)
