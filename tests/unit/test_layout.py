"""Images that lie in memory pixel by pixel: faster, the same numbers, and given up where a model could tell."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  as everyone calls it

import torchwhy as why
from torchwhy.core import layout
from torchwhy.core.layout import ByPixel, Tells
from torchwhy.core.problem import Problem
from torchwhy.core.tensors import Tensors

IMAGES = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """A small network with something in the middle."""

    def __init__(self, middle: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm, self.last = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 5, 3)
        self.fc = nn.Linear(80, 3)
        self.middle = middle

    def forward(self, x: Tensor) -> Tensor:
        y = self.middle(F.relu(self.norm(self.conv(x))))
        return self.fc(torch.flatten(F.max_pool2d(self.last(y), 1), 1))


@pytest.fixture(autouse=True)
def small_images_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "MANY_PIXELS", 1)


def passes(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For every pass from now on, whether it began on images that lie pixel by pixel."""
    found: list[bool] = []
    run = Problem._run

    def noted(self: Problem, *args: object) -> object:
        found.append(self._by_pixel)
        return run(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Problem, "_run", noted)
    return found


def reads_memory(y: Tensor) -> Tensor:
    return y.as_strided(y.shape, (144, 36, 6, 1))


def changes_a_copy(y: Tensor) -> Tensor:
    y.reshape(len(y), -1).mul_(2)  # of the usual layout a view, of the other a copy
    return y


def by_numpy(y: Tensor) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(y.numpy()))


SAFE = {
    "nothing": lambda y: y,
    "in place": lambda y: F.relu(y - 0.5, inplace=True).add_(1),
    "shuffled": lambda y: y.view(len(y), 2, 2, 6, 6).transpose(1, 2).contiguous().view(y.shape),
    "gate": lambda y: y * y.mean((2, 3), keepdim=True).sigmoid(),
}
TELLING = {
    "strides": reads_memory,
    "in place on a copy": changes_a_copy,
    "random": lambda y: y + torch.randn_like(y) * 0 + F.dropout(y, 0.5, training=True) * 0,
    "numpy": by_numpy,
    "asks": lambda y: y * (1 if y.is_contiguous() else 7),
    "views": lambda y: y.view(len(y), -1).view(y.shape),
}


@pytest.mark.parametrize("name", SAFE)
def test_what_cannot_tell_runs_pixel_by_pixel(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Net(SAFE[name]).eval()
    began = passes(monkeypatch)
    x = IMAGES.double()
    with torch.no_grad():
        output, held = model.double()(x), SAFE[name](F.relu(model.norm(model.conv(x))))
    monkeypatch.setattr(Problem, "_has_many_pixels", lambda self: True)  # of float64 as well
    p = Problem(model, Tensors([x]), target=1, at="last")
    scores, g = p.at_point()
    assert began == [True]
    torch.testing.assert_close(scores, output[:, 1], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(p.point.parts[0], model.last(held).detach(), rtol=1e-12, atol=1e-12)
    assert p.point.parts[0].is_contiguous()
    assert g.parts[0].is_contiguous()
    assert p.cost.forward == p.cost.backward == 3


@pytest.mark.parametrize("name", TELLING)
def test_what_could_tell_runs_as_always(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Net(TELLING[name]).eval()
    torch.manual_seed(3)
    with torch.no_grad():
        output = model(IMAGES)
    began = passes(monkeypatch)
    torch.manual_seed(3)
    p = Problem(model, Tensors([IMAGES]), target=1)
    torch.testing.assert_close(p.scores, output[:, 1], rtol=0, atol=0)
    assert began == [True, False]
    assert p.cost.forward == 3
    p.rows_scores(p.point, torch.arange(3))
    assert began[2:] == [False], "nothing is tried twice"


def test_without_the_watch_a_model_that_reads_memory_sees_another_image() -> None:
    model = Net(reads_memory).eval()
    with torch.no_grad():
        usual, other = model(IMAGES), model(IMAGES.contiguous(memory_format=torch.channels_last))
    assert not torch.allclose(usual, other, rtol=1e-3)


def test_gradients_at_the_input_keep_the_usual_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    began = passes(monkeypatch)
    why.Saliency(Net(SAFE["nothing"]).eval()).attribute(IMAGES, target=0)
    assert began == [False]


def test_an_output_and_a_tensor_from_elsewhere_are_refused() -> None:
    x = IMAGES.contiguous(memory_format=torch.channels_last)
    hidden = torch.ones(3)
    with ByPixel(None, [x]) as watch:
        y = torch.relu(x)
        with pytest.raises(Tells, match="elsewhere"):
            torch.add(y, hidden[0])
        usual = watch.settled({"y": y})["y"]
        with pytest.raises(Tells, match="elsewhere"):
            watch.settled(IMAGES)
    assert usual.is_contiguous()
    torch.testing.assert_close(usual, IMAGES, rtol=0, atol=0)


def test_grad_cam_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Net(SAFE["nothing"]).eval()
    fast = why.GradCAM(model, at="last").attribute(IMAGES, target=2)
    monkeypatch.setattr(Problem, "_has_many_pixels", lambda self: False)
    slow = why.GradCAM(model, at="last").attribute(IMAGES, target=2)
    torch.testing.assert_close(fast, slow, rtol=1e-5, atol=1e-6)
