"""The examples run, and find what they say they find."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

EXAMPLES = Path(__file__).parents[2] / "examples"


def main_of(name: str) -> Any:
    return runpy.run_path(str(EXAMPLES / name))["main"]


def test_every_method_finds_the_word_that_decides():
    found = main_of("language_model.py")(150)
    assert len(found) == 4
    assert min(found.values()) > 0.8


def test_a_vision_transformer_is_explained_and_drawn(tmp_path):
    found = main_of("vision_transformer.py")(60, tmp_path / "best.png")
    assert len(found) == 5
    assert found["AttnLRP"] < found["GradCAM"]  # lower is better
    assert (tmp_path / "best.png").read_bytes().startswith(b"\x89PNG")


def test_each_example_is_tested_here():
    used = Path(__file__).read_text(encoding="utf-8")
    assert all(f'"{example.name}"' in used for example in EXAMPLES.glob("*.py"))
