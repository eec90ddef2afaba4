"""What methods there are, and whether they keep what they promise."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from torchwhy import registry
from torchwhy.cli.asked import options_of
from torchwhy.cli.shared import Json, console, print_json
from torchwhy.methods import Method
from torchwhy.registry import Info

if TYPE_CHECKING:
    from torchwhy.testing import Report


def methods(
    name: Annotated[str | None, typer.Argument(help="Show one method with its options.")] = None,
    as_json: Json = False,
) -> None:
    """List the methods: what each is, needs, promises and costs."""
    chosen = registry.methods() if name is None else {(cls := registry.lookup(name)).__name__: cls}
    if as_json:
        print_json([_facts(cls) for cls in chosen.values()])
        return
    from rich.box import SIMPLE_HEAD
    from rich.table import Column, Table

    to = console()
    if name is None:
        table = Table(
            Column("method", style="bold", no_wrap=True), "what it shows, needs, promises and costs", box=SIMPLE_HEAD
        )
        for label, cls in chosen.items():
            table.add_row(label, _told(cls.info))
        to.print(table)
        to.print("One method with its options: torchwhy methods NAME")
        return
    for label, cls in chosen.items():
        to.print(label, style="bold")
        to.print(_told(cls.info))
        to.print(f"{cls.info.paper}, {cls.info.year}")
        table = Table("option", "default", box=SIMPLE_HEAD)
        for option, default in options_of(cls).items():
            table.add_row(option, json.dumps(default))
        to.print(table)


def _told(info: Info) -> str:
    promised = ", ".join(info.promises) or "nothing"
    return f"{info.summary}\nneeds {info.needs}; promises {promised}; costs {info.cost} per example"


def _facts(cls: type[Method]) -> dict[str, Any]:
    return {"name": cls.__name__, **dataclasses.asdict(cls.info), "options": options_of(cls)}


def selftest(
    name: Annotated[str | None, typer.Argument(help="Test one method, and show every case.")] = None,
    as_json: Json = False,
) -> None:
    """Hold the methods to what they promise, on models with known answers; exit code 1 if a promise is broken."""
    from torchwhy.testing import selftest as hold

    reports = hold(name)
    ok = all(report.ok for report in reports.values())
    if as_json:
        print_json({"ok": ok, "methods": [report.as_dict() for report in reports.values()]})
    elif name is not None:
        print(*reports.values(), sep="\n")
    else:
        _show_reports(reports)
    if not ok:
        raise typer.Exit(1)


def _show_reports(reports: dict[str, Report]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Column, Table

    to = console()
    table = Table(Column("method", style="bold", no_wrap=True), "promises", "on all cases", box=SIMPLE_HEAD)
    for label, report in reports.items():
        broken = ", ".join(f"{r.check} on {r.case!r}" for r in report.failed) or ("" if report.ok else "all is refused")
        promised = "broken: " + broken if broken else "kept" if any(r.claimed for r in report.rows) else "none"
        found = "; ".join([*([", ".join(report.keeps)] if report.keeps else []), *(f"= {c}" for c in report.computes)])
        refused = f"{len(report.refused)} of {len(report.rows)} checks refused" if report.refused else ""
        table.add_row(label, "" if report.skipped else promised, found or report.skipped or refused or "nothing")
    to.print(table)
    to.print("One method, case by case: torchwhy selftest NAME")
