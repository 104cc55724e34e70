"""Long work can be watched: one bar on standard error, nothing where no one looks."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import rich.progress

Advance = Callable[[int, int], None]
"""``advance(done, total)``: how heavy functions report; any callable of two integers will do."""


class Progress(Protocol):
    """Opens one bar for each piece of work."""

    def task(self, what: str) -> Advance:
        """Begin a piece of work called ``what``; returns what it reports to."""
        ...


class Silent:
    """No bars: what libraries and tests want."""

    def task(self, what: str) -> Advance:
        """Ignore the reports."""
        return lambda done, total: None


class Titled:
    """Bars that say which of several like pieces of work they are of."""

    def __init__(self, progress: Progress, title: str) -> None:
        self.progress, self.title = progress, title

    def task(self, what: str) -> Advance:
        """Begin a piece of work, with the title before its name."""
        return self.progress.task(f"{self.title}: {what}")


@contextmanager
def bars(show: bool | None = None) -> Iterator[Progress]:
    """Bars drawn by rich on standard error; by default only where that is a terminal."""
    if not (sys.stderr.isatty() if show is None else show):
        yield Silent()
        return
    from rich import progress
    from rich.console import Console

    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(bar_width=None),
        progress.MofNCompleteColumn(),
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(*columns, console=Console(stderr=True), transient=True) as drawn:
        yield _Bars(drawn)


class _Bars:
    def __init__(self, drawn: rich.progress.Progress) -> None:
        self.drawn = drawn
        self.current: rich.progress.TaskID | None = None

    def task(self, what: str) -> Advance:
        if self.current is not None:
            self.drawn.remove_task(self.current)
        self.current = task = self.drawn.add_task(what, total=None)

        def advance(done: int, total: int) -> None:
            if task == self.current:
                self.drawn.update(task, completed=done, total=total)

        return advance
