"""From docstrings to pages: doctests become code, tables Markdown, and formulas MathML, which needs no script."""

import re
from importlib import import_module
from inspect import cleandoc, signature
from itertools import pairwise
from typing import Any

import griffe
from latex2mathml.converter import convert

# As doctest reads it: prompts with their output, up to an empty line.
DOCTEST = re.compile(r"^(?P<indent> *)>>> .*\n?(?:(?P=indent).*\S.*\n?)*", re.MULTILINE)
FORMULA = re.compile(r"^(?P<indent> *)\.\. math:: (?P<latex>.+(?:\n(?P=indent) +\S.*)*)", re.MULTILINE)
# Columns lie below the signs of the first line; the last one ends with its line.
TABLE = re.compile(
    r"^(?P<indent> *)(?P<columns>=+(?: +=+)+)\n(?P<head>.*)\n(?P=indent)=[= ]+\n(?P<body>(?:.*\n)+?)(?P=indent)=[= ]+$",
    re.MULTILINE,
)
# Words such as "Shapes: ..." that go on below, which would be taken for the title of a box.
SENTENCE = re.compile(r"^[A-Z][a-z]+: .+(?:\n +\S.*)+", re.MULTILINE)
INLINE_FORMULA = re.compile(r":math:`(?P<latex>[^`]+)`")


class Docstrings(griffe.Extension):
    """Translates docstrings, and adds what only an imported dataclass knows."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Translate a docstring."""
        if obj.docstring:
            obj.docstring.value = translate(obj.docstring.value)

    def on_class(self, *, cls: griffe.Class, **_: Any) -> None:
        """Order the arguments of a dataclass as Python does, and find a docstring that is put together."""
        if "dataclass" not in cls.labels or "__init__" not in cls.members:  # the latter where it only inherits
            return
        made = getattr(import_module(cls.module.path), cls.name)
        if not cls.docstring and "__doc__" in cls.members:
            cls.docstring = griffe.Docstring(translate(cleandoc(made.__doc__)), parent=cls)
        init = cls.members["__init__"]
        taken = [init.parameters["self"]]
        for name, parameter in signature(made).parameters.items():
            taken.append(init.parameters[name])
            taken[-1].kind = griffe.ParameterKind[parameter.kind.name.lower()]
        init.parameters = griffe.Parameters(*taken)


def translate(text: str) -> str:
    """To Markdown."""
    text = TABLE.sub(table, text)
    text = SENTENCE.sub(lambda found: re.sub(r"\n +", "\n", found[0]), text)
    text = FORMULA.sub(lambda found: found["indent"] + convert(found["latex"], display="block"), text)
    return DOCTEST.sub(fence, formulas(text))


def formulas(text: str) -> str:
    """With formulas in lines as MathML."""
    # Within a span: a formula that begins a line would be taken for a paragraph of its own.
    return INLINE_FORMULA.sub(lambda found: f"<span>{convert(found['latex'])}</span>", text)


def table(found: re.Match[str]) -> str:
    """A table of reStructuredText as one of Markdown."""
    starts = [found.start("columns") - found.start() + column.start() for column in re.finditer("=+", found["columns"])]
    slices = [slice(start, end) for start, end in pairwise([*starts, None])]

    def row(line: str) -> str:
        # Formulas first: a sign between columns is a norm within them.
        cells = (formulas(line[part].strip()).replace("|", "&#124;") for part in slices)
        return f"{found['indent']}| {' | '.join(cells)} |"

    rule = f"{found['indent']}|{' --- |' * len(slices)}"
    return "\n".join([row(found["head"]), rule, *map(row, found["body"].splitlines())])


def fence(example: re.Match[str]) -> str:
    """The example between two fences, as deep as it stands."""
    indent = example["indent"]
    return f"{indent}```pycon\n{example[0].rstrip()}\n{indent}```\n"
