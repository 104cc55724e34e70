"""What the commands share: options, bars with Ctrl-C, and printing."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from lowdim.core.progress import Progress

Memory = Annotated[
    str | None, typer.Option(help="Memory budget, e.g. 2GiB; by default a quarter of free RAM")
]
Seed = Annotated[int, typer.Option(help="Seed of samples and randomised steps")]
Resume = Annotated[bool, typer.Option("--resume", help="Continue a stopped run")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON")]


@contextmanager
def stoppable(finished: str | None) -> Iterator[Progress]:
    """Bars while it runs; Ctrl-C ends in one line, which says where what was finished is."""
    from lowdim.core.interrupt import interruptible
    from lowdim.core.progress import bars

    try:
        with interruptible(), bars() as progress:
            yield progress
    except KeyboardInterrupt:
        kept = f": finished {finished}, continue with --resume" if finished else ""
        print(f"stopped{kept}", file=sys.stderr)
        raise SystemExit(130) from None


def show(what: Any) -> None:
    """Print with rich."""
    from rich.console import Console

    Console().print(what)
