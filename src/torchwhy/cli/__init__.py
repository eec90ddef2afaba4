"""The command line. It knows no method by name: what there is to choose from it reads from the registry."""

from __future__ import annotations

import io
import os
import sys
from typing import Annotated, Any, NoReturn

import typer

from torchwhy.cli import data
from torchwhy.cli.catalogue import methods, selftest
from torchwhy.cli.explaining import compare, explain
from torchwhy.cli.training import demo, roar, train
from torchwhy.core.errors import TorchwhyError
from torchwhy.core.versions import versions

app = typer.Typer(
    help="Ask a PyTorch model why, and know whether to believe the answer.",
    epilog="To begin with: torchwhy demo",
    no_args_is_help=True,
    add_completion=False,  # every press of the tab key would wait for PyTorch
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (demo, train, explain, compare, roar, methods, selftest):  # in the order of the help
    app.command()(command)
app.add_typer(data.app, name="data")


def main() -> None:
    """Run the command line; what is wrong with the input, or with a file, is one line and exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names can hold what a terminal cannot show
    try:
        try:
            code = app(standalone_mode=False)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # the reader has seen enough, as in `torchwhy methods | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (TorchwhyError, OSError) as error:
        _refuse(str(error))
    except Exception as error:
        if not hasattr(error, "format_message"):  # typer's own, whose classes have other names in other versions
            raise
        _refuse(_of_usage(error))
    sys.exit(code or 0)


def _refuse(reason: str) -> NoReturn:
    if reason:
        print("error:", " ".join(reason.split()), file=sys.stderr)
    sys.exit(2)


def _of_usage(error: Any) -> str:
    """What typer says of wrong usage, with what was given; nothing where it has shown the help instead."""
    told = error.format_message().replace("Value error, ", "").rstrip(".")
    if not told:
        return ""
    given = [repr(one["input"]) for one in getattr(error.__cause__, "errors", list)()]
    told += "".join(f", not {one}" for one in given if one not in told)
    context = getattr(error, "ctx", None)
    command = "torchwhy" if context is None else context.command_path
    return f"{told}{'' if told.endswith('?') else '.'} See {command} --help"


def _print_version(asked: bool) -> None:
    if asked:
        print(versions()["torchwhy"])
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    pass
