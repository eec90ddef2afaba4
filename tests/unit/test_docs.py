"""The documentation tells the truth: its Python runs, and what it names exists."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
FENCE = re.compile(
    r"^(?P<skip><!-- not run: .+ -->\n)?```(?P<language>python|sh)\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
LINK = re.compile(r"\]\((?!\w+:|#)(?P<path>[^)#\s]+)")


def blocks(text: str, language: str) -> Iterator[tuple[int, str]]:
    """Each fenced block to be run, with the number of lines above it."""
    for fence in FENCE.finditer(text):
        if fence["language"] == language and not fence["skip"]:
            yield text.count("\n", 0, fence.start("code")), fence["code"]


def run(page: Path) -> None:
    """Run the Python of a page from top to bottom, as a reader would."""
    names = {"__name__": "__main__"}
    for above, code in blocks(page.read_text(encoding="utf-8"), "python"):
        exec(compile("\n" * above + code, str(page), "exec"), names)  # noqa: S102  this is what the test is for


def commands(program: str) -> list[tuple[str, list[str]]]:
    """Each use of a program in the documentation: where, and its arguments."""
    found = []
    for page in PAGES:
        for above, code in blocks(page.read_text(encoding="utf-8"), "sh"):
            for line in code.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                if words and words[0] == program:
                    found.append((f"{page.relative_to(ROOT)}:{above + 1}", words[1:]))
    return found


def identify(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize(
    "page", [p for p in PAGES if any(blocks(p.read_text(encoding="utf-8"), "python"))], ids=identify
)
def test_the_python_of_a_page_runs(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    run(page)


def test_a_block_that_fails_is_reported_at_its_line(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```python\nx = 1\n```\n\nand\n\n```python\ny = 2\nassert x == y\n```\n", encoding="utf-8")
    with pytest.raises(AssertionError) as caught:
        run(page)
    assert caught.traceback[-1].lineno + 1 == 9  # the traceback counts from 0


def test_a_block_is_left_out_only_with_a_reason(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- not run: needs two GPUs -->\n```python\nraise SystemExit\n```\n", encoding="utf-8")
    run(page)
    page.write_text("<!-- not run: -->\n```python\nraise SystemExit\n```\n", encoding="utf-8")
    with pytest.raises(SystemExit):
        run(page)


def test_the_commands_and_options_exist() -> None:
    from typer.main import get_command

    from torchwhy.cli import app

    uses = commands("torchwhy")
    assert uses
    for where, words in uses:
        command = get_command(app)
        rest = list(words)
        while rest and rest[0] in getattr(command, "commands", {}):
            command = command.commands[rest.pop(0)]
        assert not getattr(command, "commands", None) or rest[:1] in (["--help"], ["--version"]), (
            f"{where}: no command {rest[:1]} in torchwhy {' '.join(words)}"
        )
        options = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
        unknown = {word.split("=")[0] for word in rest if word.startswith("-")} - options - {"--help"}
        assert not unknown, f"{where}: no {', '.join(sorted(unknown))} in torchwhy {' '.join(words)}"


def test_the_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^\.PHONY: (\w+)$", makefile, re.MULTILINE))
    uses = commands("make")
    assert uses
    for where, words in uses:
        asked = {word for word in words if word.isidentifier()}
        assert asked <= targets, f"{where}: make {' '.join(words)}"


def test_linked_files_exist() -> None:
    # The documentation build checks the links within docs/; these pages are read in the repository.
    for page in ROOT.glob("*.md"):
        for link in LINK.finditer(page.read_text(encoding="utf-8")):
            assert (page.parent / link["path"]).exists(), f"{page.name} links to {link['path']}"
