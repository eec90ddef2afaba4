"""What one sees of an explanation is what it says: colours, panels, figures, notebook cards, pages."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from io import BytesIO
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from torchwhy.core.errors import TorchwhyError
from torchwhy.core.evidence import Check
from torchwhy.core.explanation import Explanation
from torchwhy.render import colour, html
from torchwhy.render.chart import line_chart
from torchwhy.render.figure import figure
from torchwhy.render.html import DemoStory, Example, Layer
from torchwhy.render.image import heatmap, heatmap_png, picture, picture_png
from torchwhy.render.panels import HeatMap, panels
from torchwhy.render.tabular import Bars, bars

NASTY = '<script>alert("1")</script> & $x^2$'
VOID = {"meta", "img", "wbr", "br", "link", "input", "hr"}


def explanation(values=None, inputs=None, batch=2, **changes):
    """Two digits, the first with a warning."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.rand(batch, 1, 12, 12, generator=generator) if inputs is None else inputs
    values = torch.randn(batch, 1, 12, 12, generator=generator) if values is None else values
    check = Check(
        "completeness",
        "Do the parts add up?",
        ("warn", *["pass"] * (batch - 1)),
        (1.0,) * batch,
        tuple(f"reason {i}" for i in range(batch)),
    )
    given = {
        "scores": torch.arange(1.0, batch + 1),
        "target": tuple(map(str, range(batch))),
        "method": "IntegratedGradients",
        "evidence": (check,),
        "provenance": {"seconds": 0.5, "versions": {"torch": "2.6"}},
    }
    return Explanation(values, inputs, **given | changes)


def story(**changes):
    e = explanation(classes=(NASTY, "one"), predicted=True)
    other = replace(e, method="Saliency", signed=False, evidence=())
    examples = tuple(
        Example(f"digit {i}", (e[i], other[i]), (("one", 0.9), (NASTY, 0.1)), label=NASTY if i else "one")
        for i in range(2)
    )
    curve = [SimpleNamespace(epoch=i, train_loss=2 / i, test_loss=3 / i, accuracy=1 - 0.5 / i) for i in (1, 2, 3)]
    given = {
        "network": "two convolutions",
        "parameters": 531_914,
        "accuracy": 0.975,
        "tested": 360,
        "seconds": 12.0,
        "curve": curve,
        "confusion": torch.tensor([[30, 2], [0, 28]]),
        "classes": (NASTY, "one"),
        "layers": (
            Layer("conv1", torch.randn(16, 1, 3, 3)),
            Layer("conv2", torch.randn(32, 16, 3, 3)),
            Layer("conv1", torch.rand(16, 10, 10), e.inputs[0], "digit 0"),
        ),
        "methods": {"IntegratedGradients": "which way?"},
        "next_steps": (("torchwhy methods", "see them all"),),
        "provenance": {"seed": 0},
    }
    return DemoStory("A title", "A lead", examples, **given | changes)


class Page(HTMLParser):
    """Checks that tags nest, and gathers what is to be looked at."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.ids, self.text = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.ids += [value for name, value in attributes if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        # A page may leave rows and cells open to the next one; these templates do not.
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self.text.append(data)

    def all(self, name):
        return [attributes for tag, attributes in self.tags if tag == name]

    @property
    def words(self):
        return " ".join(" ".join(self.text).split())


# -- colours -----------------------------------------------------------------------------------------------


def test_zero_is_no_paint_and_the_scale_is_symmetric():
    painted = colour.paint(torch.tensor([-2.0, -1.0, 0.0, 0.5, 1.0, 2.0, 9.0]), signed=True, limit=2.0)
    assert painted[:, 3].tolist() == [1, 0.5, 0, 0.25, 0.5, 1, 1]
    colours = [tuple(rgb) for rgb in (painted[:, :3] * 255).tolist()]
    assert set(colours[:2]) == {colour.NEGATIVE}
    assert set(colours[3:]) == {colour.POSITIVE}
    unsigned = colour.paint(torch.tensor([-2.0, 2.0]), signed=False, limit=2.0)
    assert torch.equal(unsigned[0], unsigned[1])


def luminance(rgb):
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in rgb)]
    return np.dot(linear, (0.2126, 0.7152, 0.0722))


def test_signs_weigh_the_same_and_differ_for_the_colour_blind():
    lightness = [116 * np.cbrt(luminance(c)) - 16 for c in (colour.POSITIVE, colour.NEGATIVE, colour.SIZE)]
    assert lightness == pytest.approx([55, 55, 55], abs=1)
    # Machado, Oliveira and Fernandes (2009), severity 1, on linear RGB; red-green blindness in two kinds.
    blindness = (
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    )
    linear = [(np.array(c) / 255) ** 2.2 for c in (colour.POSITIVE, colour.NEGATIVE, colour.SIZE)]
    for matrix in blindness:
        seen = [np.clip(np.array(matrix) @ c, 0, 1) ** (1 / 2.2) for c in linear]
        distances = [np.abs(seen[i] - seen[j]).max() for i, j in ((0, 1), (0, 2), (1, 2))]
        assert min(distances) > 0.3


def test_full_colour_is_robust_but_never_hides_the_only_values():
    values = torch.ones(1000)
    values[:3] = 1e6
    assert colour.full_colour(values) == 1
    assert colour.full_colour(torch.zeros(1000).index_fill(0, torch.tensor([7]), -3)) == 3
    assert colour.full_colour(torch.zeros(5)) == 0
    assert colour.paint(torch.zeros(5), signed=True)[:, 3].sum() == 0


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_has_no_colour(bad):
    values = torch.tensor([[0.0, bad]])
    with pytest.raises(TorchwhyError, match="1 of 2 values"):
        heatmap(values, signed=True)
    with pytest.raises(TorchwhyError, match="1 of 2 values"):
        heatmap(torch.zeros(1, 2), values[None], signed=True)
    with pytest.raises(TorchwhyError, match="1 of 2 values"):
        bars(values, signed=True)
    with pytest.raises(TorchwhyError, match="nothing to draw"):
        heatmap(torch.zeros(0, 3), signed=True)


# -- pictures ----------------------------------------------------------------------------------------------


def decoded(content):
    return np.array(Image.open(BytesIO(content)))


def test_pixels_of_small_maps_become_equal_squares():
    values = torch.tensor([[1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
    image = decoded(heatmap_png(values, signed=True, size=10))
    assert image.shape == (6, 9, 4)  # three whole pixels each, not three and a third
    assert (image[:3, :3] == (*colour.POSITIVE, 255)).all()
    assert (image[3:, 3:6] == (*colour.NEGATIVE, 255)).all()
    assert (image[:3, 3:, 3] == 0).all()


def test_a_drawing_leaves_its_ground_transparent_and_a_photograph_is_opaque():
    drawing = torch.zeros(1, 6, 6)
    drawing[0, 2:4, 2:4] = 1
    none = torch.zeros(6, 6)
    image = np.array(heatmap(none, drawing, signed=True))
    assert image[0, 0, 3] == 0
    assert 0 < image[2, 2, 3] < 128
    assert np.array_equal(image, np.array(heatmap(none, 1 - drawing, signed=True)))  # ink on paper alike
    photograph = np.array(heatmap(none, torch.rand(3, 6, 6) * 9 - 4, signed=True))
    assert photograph.shape == (6, 6, 3)
    assert photograph.min() > 127  # faint
    painted = np.array(heatmap(none + 1, torch.rand(3, 6, 6), signed=True))
    assert (painted == colour.POSITIVE).all()


def test_layer_maps_are_enlarged_smoothly_or_pixel_by_pixel():
    values, under = torch.tensor([[0.0, 1.0]]), torch.zeros(1, 1, 8)
    alpha = {s: np.array(heatmap(values, under, signed=True, smooth=s))[0, :, 3] for s in (True, False)}
    assert set(alpha[False]) == {0, 255}
    assert (np.diff(alpha[True].astype(int)) >= 0).all()
    assert len(set(alpha[True])) > 3


def test_inputs_in_any_range():
    assert decoded(picture_png(torch.tensor([[0.0, 0.5]]), size=2)).tolist() == [[[0] * 3, [128] * 3]]
    assert decoded(picture_png(torch.tensor([[-3.0, 5.0]]), size=2)).tolist() == [[[0] * 3, [255] * 3]]
    assert decoded(picture_png(torch.tensor([[7.0, 7.0]]), size=2)).tolist() == [[[128] * 3, [128] * 3]]
    bytes_ = torch.tensor([10, 20, 30], dtype=torch.uint8).reshape(3, 1, 1)
    assert decoded(picture_png(bytes_, size=1)).tolist() == [[[10, 20, 30]]]
    assert picture(torch.rand(5, 4, 6)).size == (6, 4)
    with pytest.raises(TorchwhyError, match=r"\(H, W\)"):
        picture(torch.zeros(7))


def test_half_precision_and_gradients_are_no_obstacle():
    values = torch.ones(2, 1, 4, 4, dtype=torch.bfloat16, requires_grad=True)
    (panel,) = panels(explanation(values, torch.ones(2, 1, 4, 4, dtype=torch.float16)))
    assert panel.limit == 1


# -- panels ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "kind", "caption"),
    [
        ((1, 12, 12), HeatMap, ""),
        ((3, 12, 12), HeatMap, "sum over 3 channels"),
        ((32, 8, 8), HeatMap, "sum over 32 channels, 8 x 8 map, enlarged bilinearly to 12 x 12"),
        ((5, 9), HeatMap, "5 rows x 9 columns"),
        ((4,), Bars, "4 units"),
        ((64, 1, 1), Bars, "the 20 largest of 64 units; the others add up to 44"),
        ((2, 3, 4, 5), Bars, "the 20 largest of 120 units; the others add up to 100"),
        ((), Bars, "1 unit"),
    ],
)
def test_every_shape_has_a_panel(shape, kind, caption):
    e = explanation(torch.ones(2, *shape), at="layer")
    (panel,) = panels(e, 1)
    assert isinstance(panel, kind)
    assert panel.caption == caption
    assert html.card(e)
    assert figure(e)


def test_channels_are_summed_over_the_right_example():
    values = torch.arange(2 * 3 * 4 * 4.0).reshape(2, 3, 4, 4)
    (panel,) = panels(explanation(values, torch.rand(2, 3, 4, 4)), 1)
    assert torch.equal(panel.values, values[1].sum(0).double())
    assert not panel.smooth


def test_tuples_have_a_panel_each_over_their_own_input():
    inputs = (torch.rand(2, 3, 8, 8), torch.rand(2, 5))
    e = explanation(inputs, inputs)
    image, features = panels(e)
    assert torch.equal(image.background, inputs[0][0])
    assert isinstance(features, Bars)


def test_bars_are_ordered_by_magnitude_and_keep_their_errors():
    shown = bars(torch.tensor([[1.0, -3.0], [0.0, 2.0]]), torch.tensor([[0.1, 0.3], [0.0, 0.2]]), signed=True, most=3)
    assert shown.names == ("feature 0, 1", "feature 1, 1", "feature 0, 0")
    assert shown.values == (-3, 2, 1)
    assert shown.errors == pytest.approx((0.3, 0.2, 0.1))
    assert shown.limit == pytest.approx(3.3)


def test_words_for_those_who_do_not_see_the_picture():
    values = torch.zeros(1, 1, 4, 4)
    values[0, 0, 2, 1], values[0, 0, 0, 0] = 3, -1
    (panel,) = panels(explanation(values, batch=1))
    assert panel.in_words() == (
        "75 % of the weight raises the score, the rest lowers it; strongest at row 3 of 4, column 2 of 4"
    )


# -- figures -----------------------------------------------------------------------------------------------


def texts(fig):
    fig.draw_without_rendering()
    return [t.get_text() for t in fig.findobj(lambda a: hasattr(a, "get_text"))]


def test_a_figure_tells_target_score_and_verdict(tmp_path):
    fig = figure(explanation(classes=(r"zero $\frac$", "one"), predicted=True, values=-torch.ones(2, 1, 12, 12)))
    words = "\n".join(texts(fig))
    for expected in (
        "IntegratedGradients",
        r"“zero $\frac$”",
        "its own prediction",
        "score 2",
        "warn: reason 0",
        "pass: reason 1",
    ):
        assert expected in words
    fig.savefig(tmp_path / "figure.svg")
    fig.savefig(tmp_path / "figure.png")
    images = [image for ax in fig.subfigs[0].axes for image in ax.images]
    assert (images[-1].get_array()[..., :3] * 255 == colour.NEGATIVE).all()


def test_a_figure_shows_as_many_examples_as_asked():
    assert len(figure(explanation(batch=5), examples=3).subfigs) == 3
    with pytest.raises(TorchwhyError, match="at least one"):
        figure(explanation(), examples=0)


def test_a_figure_says_what_its_scale_clips():
    values = torch.ones(1, 1, 40, 40)
    values[0, 0, 0, 0] = 50
    words = " ".join(texts(figure(explanation(values, torch.rand(1, 1, 40, 40), batch=1))))
    assert "the largest, 50," in words


def test_a_figure_touches_no_global_state():
    import matplotlib as mpl

    def state():
        return {key: mpl.rcParams._get(key) for key in mpl.rcParams}  # reading the backend would choose one

    before = state()
    figure(explanation())
    assert state() == before


# -- cards and pages ---------------------------------------------------------------------------------------

PAGES = {
    "card": lambda: html.card(explanation(classes=(NASTY, "one"))),
    "report": lambda: html.report([explanation(classes=(NASTY, "one"), options={"n": NASTY})], NASTY, NASTY),
    "demo": lambda: html.demo_report(story(title=NASTY) if False else replace(story(), title=NASTY, lead=NASTY)),
}


@pytest.mark.parametrize("page", PAGES)
def test_names_are_escaped(page):
    text = PAGES[page]()
    assert "<script" not in text
    assert NASTY in Page(text).words


@pytest.mark.parametrize("page", PAGES)
def test_pages_are_self_contained_and_well_formed(page):
    text = PAGES[page]()
    parsed = Page(text)
    assert len(parsed.ids) == len(set(parsed.ids))
    sources = [a[name] for _, a in parsed.tags for name in ("src", "href", "srcset", "data", "action") if name in a]
    assert sources
    assert all(s.startswith("data:image/") or s[1:] in parsed.ids for s in sources)
    assert not re.search(r"url\(|@import|https?://|javascript:|\son\w+=", text)
    assert not {"script", "link", "iframe", "object", "base"} & {tag for tag, _ in parsed.tags}
    assert all(image["alt"] for image in parsed.all("img"))
    if page != "card":
        assert parsed.all("html") == [{"lang": "en"}]
        policies = [m["content"] for m in parsed.all("meta") if m.get("http-equiv")]
        assert policies == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]
        assert "prefers-color-scheme: dark" in text
        assert len(parsed.all("h1")) == len(parsed.all("main")) == 1


@pytest.mark.parametrize("page", PAGES)
def test_every_example_tells_its_verdict_in_words(page):
    words = Page(PAGES[page]()).words
    for expected in ("Why “one”?", "warn", "reason 0", "pass", "reason 1"):
        assert expected in words


def test_a_card_stops_at_eight_examples():
    parsed = Page(html.card(explanation(batch=11)))
    assert "and 3 more" in parsed.words
    assert len([a for a in parsed.all("img") if a["alt"].startswith("Heat map")]) == 8
    assert "Why “8”?" not in parsed.words


def test_a_report_has_every_example_and_its_provenance():
    words = Page(html.report([explanation(batch=11, options={"n_steps": 50}), explanation()], "Title")).words
    assert all(f"Why “{i}”?" in words for i in range(11))
    assert "n steps 50" in words
    assert "seconds 500 ms" in words
    assert "versions torch 2.6" in words
    with pytest.raises(TorchwhyError, match="at least one"):
        html.report([], "Title")


def test_only_warnings_are_open_on_a_card():
    opened = ["open" in a for a in Page(html.card(explanation())).all("details")]
    assert opened == [True, False]


def test_a_demo_tells_the_whole_story():
    parsed = Page(html.demo_report(story()))
    for expected in (
        "of 360 test examples classified correctly 97.5 %",  # a figure stands above its words, by style alone
        "mistakes 9",
        "531,914",
        "epoch 3, test: 83.3 %",
        "taken for “one” (2)",
        "the network says “one”: right",
        "wrong ✗, it is “<script>",
        "90.0 %",
        "conv2: 32 filters",
        "None is silent here",
        "torchwhy methods",
    ):
        assert expected in parsed.words
    heat = [a for a in parsed.all("img") if a["alt"].startswith("Heat map")]
    assert len(heat) == 4  # two methods on two examples
    assert len([a for a in parsed.all("img") if ", filter " in a["alt"]]) == 16
    assert len([a for a in parsed.all("img") if ", feature map " in a["alt"]]) == 16
    geometry = [v for _, a in parsed.tags for k, v in a.items() if k != "src"]
    assert not any(re.search(r"\b(nan|inf)\b", str(v)) for v in geometry)


def test_a_story_says_which_epoch_it_shows():
    curve = [
        SimpleNamespace(epoch=i, train_loss=1.0, test_loss=loss, accuracy=accuracy)
        for i, loss, accuracy in ((1, 0.3, 0.9), (2, 0.2, 0.98), (3, 0.1, 0.98), (4, 0.1, 0.97))
    ]
    assert story(curve=curve, accuracy=0.98).kept == 3
    assert story(curve=curve, accuracy=0.97).kept is None  # the last
    assert story(curve=curve[:3], accuracy=0.98).kept is None
    assert "epoch 3, the best" in html.demo_report(story(curve=curve, accuracy=0.98))


def test_a_story_without_training_serves_photographs():
    photo = torch.rand(1, 3, 224, 224)
    e = explanation(torch.randn(1, 3, 224, 224), photo, batch=1, classes=("tabby",))
    text = html.demo_report(DemoStory("Cats", "A cat.", (Example("Cat", (e,), (("tabby", 0.7),)),), network="Lite0"))
    assert "Lite0" in text
    sources = [a["src"] for a in Page(text).all("img")]
    assert all(s.startswith("data:image/jpeg") for s in sources)
    assert "Confusion matrix" not in text
    assert "right ✓" not in text


def test_a_story_that_does_not_fit_is_refused():
    e = explanation()
    with pytest.raises(TorchwhyError, match=r"digit: expected explanations of one example each, got sizes \[2\]"):
        Example("digit", (e,))
    with pytest.raises(TorchwhyError, match="at least one example"):
        DemoStory("t", "l", ())
    with pytest.raises(TorchwhyError, match=r"has shape \(2, 2\); for 1 classes"):
        story(classes=("one",))
    with pytest.raises(TorchwhyError, match="conv1: filters are"):
        Layer("conv1", torch.zeros(3, 3))


def test_a_mosaic_has_a_column_per_filter_and_a_row_per_channel():
    kernels = torch.zeros(4, 2, 3, 3)
    kernels[3, 1, 2, 0] = -1
    image = np.array(Layer("conv", kernels).mosaic)
    assert image.shape == (2 * 4 - 1, 4 * 4 - 1, 4)
    assert np.argwhere(image[..., 3]).tolist() == [[4 + 2, 3 * 4]]
    assert tuple(image[6, 12, :3]) == colour.NEGATIVE


def test_silent_maps_are_counted():
    maps = torch.rand(5, 4, 4)
    maps[[1, 3]] = 0
    layer = Layer("conv", maps)
    assert (layer.silent, layer.signed) == (2, False)
    assert layer.tiles[1][1] == "feature map 1: zero everywhere"


def test_a_chart_leaves_out_what_is_not_finite_and_keeps_labels_apart():
    chart = line_chart(
        "Loss",
        [1, 2, 3],
        {"a": [1.0, float("nan"), 0.0], "b": [2.0, 1.0, 0.01]},
        x_label="epoch",
        words="{:g}".format,
    )
    a, b = chart.lines
    assert [p[2] for p in a.points] == ["epoch 1, a: 1", "epoch 3, a: 0"]
    assert a.label_y - b.label_y >= 16
    assert a.points[0][1] < a.points[1][1]  # a greater value is higher up
    assert line_chart("Flat", [1], {"a": [0.0]}, x_label="epoch", words=str).lines[0].points


def test_pages_are_written_whole_or_not_at_all(tmp_path):
    path = html.write("é", tmp_path / "new" / "report.html")
    assert path.read_text(encoding="utf-8") == "é"
    with pytest.raises(UnicodeEncodeError):
        html.write("half\ud800", path)
    assert path.read_text(encoding="utf-8") == "é"
    with pytest.raises(TorchwhyError, match="cannot write"):
        html.write("x", path / "below-a-file.html")
    (tmp_path / "folder").mkdir()
    with pytest.raises(TorchwhyError, match="cannot write"):
        html.write("x", tmp_path / "folder")
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["folder", "new", "report.html"]


# -- where relevance leaks --------------------------------------------------------------------------------------------


def traced(*leaks: float) -> Explanation:
    steps = [
        {"operation": "conv2d", "module": f"<{i}>", "line": "net.py:3", "rule": "ZPlus", "relevance": 2.0, "leak": leak}
        for i, leak in enumerate(leaks)
    ]
    x = torch.ones(1, 3)
    trace = {"composite": "LRP", "score": 2.0, "passed": 2 - sum(leaks), "steps": steps}
    return Explanation(x, x, torch.ones(1), ("0",), "LRP", provenance={"trace": trace, "seed": 7})


def test_a_report_tells_where_relevance_leaks():
    page = html.report([traced(0.5, 0.0, -0.75)], "Why?")
    assert "2.25 of 2 arrived" in page
    assert "2 of 3 operations kept something back" in page
    assert page.index("&lt;2&gt;") < page.index("&lt;0&gt;")  # the largest first
    assert "&lt;1&gt;" not in page
    assert "composite" not in page  # not among the facts
    assert "these the most" in html.report([traced(*[0.1] * 20)], "Why?")
    assert "All 2 operations handed on what they got" in html.report([traced(0.0, 1e-9)], "Why?")
    assert "Where does relevance leak" not in html.report([replace(traced(0.5), provenance={})], "Why?")
