"""From docstrings to pages: doctests become code, and formulas MathML, which needs no script."""

import re
from importlib import import_module
from inspect import cleandoc, signature
from typing import Any

import griffe
from latex2mathml.converter import convert

# As doctest reads it: prompts with their output, up to an empty line.
DOCTEST = re.compile(r"^(?P<indent> *)>>> .*\n?(?:(?P=indent).*\S.*\n?)*", re.MULTILINE)
FORMULA = re.compile(r"^(?P<indent> *)\.\. math:: (?P<latex>.+(?:\n(?P=indent) +\S.*)*)", re.MULTILINE)
INLINE_FORMULA = re.compile(r":math:`(?P<latex>[^`]+)`")


class Docstrings(griffe.Extension):
    """Translates docstrings, and adds what only an imported dataclass knows."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Translate a docstring."""
        if obj.docstring:
            obj.docstring.value = translate(obj.docstring.value)

    def on_class(self, *, cls: griffe.Class, **_: Any) -> None:
        """Order the arguments of a dataclass as Python does, and find a docstring that is put together."""
        if "dataclass" not in cls.labels:
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
    text = FORMULA.sub(lambda found: found["indent"] + convert(found["latex"], display="block"), text)
    # Within a span: a formula that begins a line would be taken for a paragraph of its own.
    text = INLINE_FORMULA.sub(lambda found: f"<span>{convert(found['latex'])}</span>", text)
    return DOCTEST.sub(fence, text)


def fence(example: re.Match[str]) -> str:
    """The example between two fences, as deep as it stands."""
    indent = example["indent"]
    return f"{indent}```pycon\n{example[0].rstrip()}\n{indent}```\n"
