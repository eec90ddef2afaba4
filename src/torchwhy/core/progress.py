"""A progress bar for whatever takes longer than a second, on a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PATIENCE = 1.0  # seconds before a bar appears


class Progress:
    """Counts rows of work; shows a bar on standard error when it is a terminal, or when ``show`` says so."""

    def __init__(self, show: bool | None = None) -> None:
        self.show = sys.stderr is not None and sys.stderr.isatty() if show is None else show
        self._busy = False

    @contextmanager
    def task(self, what: str, total: int) -> Iterator[Callable[[int], None]]:
        """Work of ``total`` steps; call the value with the number of steps done. A task within a task stays silent."""
        if not self.show or self._busy:
            yield lambda steps: None
            return
        self._busy = True
        began, done, bar = time.monotonic(), 0, None

        def advance(steps: int) -> None:
            nonlocal done, bar
            done += steps
            if bar is None and done < total and time.monotonic() - began > PATIENCE:
                from rich.console import Console
                from rich.progress import Progress as Bar

                # Only a terminal's standard output may be sent past the bar: a file's or a pipe's must stay what it is.
                bar = Bar(console=Console(stderr=True), transient=True, redirect_stdout=sys.stdout.isatty())
                bar.start()
                bar.add_task(what, total=total)
            if bar is not None:
                bar.update(bar.task_ids[0], completed=done)

        try:
            yield advance
        finally:
            self._busy = False
            if bar is not None:
                bar.stop()
