import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

import torchwhy as why

FIRST = """
import sys, torch, torchwhy as why
model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(8464, 3))
x = torch.ones(2, 3, 48, 48)
why.IntegratedGradients(model).attribute(x, target=0)
why.Occlusion(model, sliding_window_shapes=(3, 16, 16), strides=16).attribute(x, target=0)
assert "torch._dynamo" not in sys.modules
"""


def test_explaining_loads_no_compiler():
    ran = subprocess.run([sys.executable, "-c", FIRST], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


class Broken(nn.Module):
    """Compiled, a graph in two pieces with Python in between."""

    def __init__(self) -> None:
        super().__init__()
        self.features, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4 * 46 * 46, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.features(x))
        torch._dynamo.graph_break()
        return self.head((2 * h).flatten(1))


@pytest.mark.filterwarnings("ignore")  # the compiler has its own
def test_what_watches_a_pass_is_not_compiled_with_the_model(monkeypatch):
    torch._dynamo.reset()
    seen = []
    monkeypatch.setattr(torch._dynamo.convert_frame, "compile_frame", _spied(seen))
    model, x = Broken(), torch.rand(2, 3, 48, 48)
    compiled = torch.compile(model, backend="eager")
    got, want = (why.IntegratedGradients(m).attribute(x, target=1) for m in (compiled, model))
    torch.testing.assert_close(got, want)
    assert not [name for name in seen if "torchwhy" in name]


def _spied(seen: list[str]):
    compile_frame = torch._dynamo.convert_frame.compile_frame

    def spied(code, *args, **kwargs):
        seen.append(code.co_filename)
        return compile_frame(code, *args, **kwargs)

    return spied
