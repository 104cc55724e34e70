"""The command line: parsing and printing only; a user's mistake ends in one line, exit code 2."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from lowdim import cli_adapt, cli_index
from lowdim.cli_shared import AsJson, Memory, Resume, Seed, show, stoppable
from lowdim.errors import InputError, LowdimError, require

app = typer.Typer(
    name="lowdim",
    help="Measure the low-dimensional structure of a neural network, and put it to use.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.add_typer(cli_adapt.app, name="adapt")
app.add_typer(cli_index.app, name="index")


@app.command()
def scan(
    what: Annotated[
        Path | None,
        typer.Argument(help="Model folder, weights file or points; the bundled default"),
    ] = None,
    text: Annotated[
        Path | None, typer.Option(help="Text to run a model on, or one a point")
    ] = None,
    labels: Annotated[Path | None, typer.Option(help="One label a row")] = None,
    out: Annotated[Path, typer.Option(help="Folder for report.html and scan.json")] = Path(
        "lowdim-out"
    ),
    pooling: Annotated[str, typer.Option(help="A layer's point: mean, last or tokens")] = "mean",
    max_points: Annotated[
        int, typer.Option(help="Measure more rows than this on a sample")
    ] = 20_000,
    resume: Resume = False,
    deep: Annotated[
        bool, typer.Option(help="Add what takes minutes: positions, profile, token clouds, …")
    ] = False,
    memory: Memory = None,
    seed: Seed = 0,
) -> None:
    """What does my model, or my set of embeddings, look like inside?

    Writes report.html and scan.json. Without arguments it scans the bundled default:
    all-MiniLM-L6-v2 on 2,000 WordNet glosses of eight fields.
    """
    from lowdim.report.scan import scan as run

    for module in ("jinja2", "plotly"):  # what the page needs is missed before the work, not after
        require(module, "report")
    with stoppable(f"pieces are in {out}") as progress:
        report = run(
            what,
            text=text,
            labels=labels,
            out=out,
            pooling=pooling,
            max_points=max_points,
            resume=resume,
            deep=deep,
            memory=memory,
            seed=seed,
            progress=progress,
        )
    page = report.save(out)
    show(report)
    print(page)


@app.command()
def strata(
    what: Annotated[
        Path | None, typer.Argument(help="Points or a model folder; the bundled default")
    ] = None,
    text: Annotated[
        Path | None,
        typer.Option("--text", "--texts", help="Text to run a model on, or one a point"),
    ] = None,
    labels: Annotated[Path | None, typer.Option(help="One label a row")] = None,
    pieces: Annotated[str, typer.Option(help="How many pieces, or auto")] = "auto",
    method: Annotated[
        str, typer.Option(help="A finder of pieces: lowdim methods --room structure")
    ] = "subspaces",
    layer: Annotated[
        int | None,
        typer.Option(help="Layer of a model, -1 the last; by default its own embedding"),
    ] = None,
    pooling: Annotated[str, typer.Option(help="What a layer has of a text: mean or last")] = "mean",
    dims: Annotated[
        int, typer.Option(help="Principal directions to look for pieces in; 0 for all columns")
    ] = 64,
    out: Annotated[
        Path, typer.Option(help="Folder for report.html, strata.json, assignments.parquet, strata/")
    ] = Path("lowdim-strata"),
    max_points: Annotated[
        int, typer.Option(help="Measure more rows than this on a sample")
    ] = 20_000,
    resume: Resume = False,
    memory: Memory = None,
    seed: Seed = 0,
) -> None:
    """Which parts of my embedding space are really different places?

    Writes a page, strata.json, the piece of every row and the pieces themselves. Without arguments:
    all-MiniLM-L6-v2 on 2,000 WordNet glosses of eight fields.
    """
    from lowdim.report.strata import strata as run

    for module in ("jinja2", "plotly"):
        require(module, "report")
    with stoppable(f"parts are in {out}") as progress:
        report = run(
            what,
            text=text,
            labels=labels,
            pieces=int(pieces) if pieces.isdecimal() else pieces,
            method=method,
            layer=layer,
            pooling=pooling,
            dims=dims,
            max_points=max_points,
            out=out,
            resume=resume,
            memory=memory,
            seed=seed,
            progress=progress,
        )
    page = report.save(out)
    show(report)
    print(page)


@app.command()
def measure(
    points: Annotated[Path, typer.Argument(help="Points: .npy .npz .parquet .csv .safetensors …")],
    names: Annotated[
        list[str] | None, typer.Argument(help="Methods; by default all that fit")
    ] = None,
    engine: Annotated[
        str, typer.Option(help="local, ray, or the address of a Ray cluster, ray://host:10001")
    ] = "local",
    out: Annotated[
        Path | None, typer.Option(help="Folder for finished pieces, measure.json and scores/")
    ] = None,
    resume: Resume = False,
    reference: Annotated[
        int | None, typer.Option(help="Search for neighbours among this many sampled rows")
    ] = None,
    as_json: AsJson = False,
    memory: Memory = None,
    seed: Seed = 0,
) -> None:
    """Numbers only: measure points by method name, all from one search and one spectrum."""
    from lowdim.battery import measure as run

    with stoppable(f"pieces are in {out}" if out else None) as progress:
        found = run(
            points,
            *(names or ()),
            memory=memory,
            seed=seed,
            engine=engine,
            out=out,
            resume=resume,
            reference=reference,
            progress=progress,
        )
    if found.reused:
        print(f"{found.reused} finished pieces of an earlier run used", file=sys.stderr)
    if as_json:
        print(json.dumps(found.to_dict(), indent=1))
    else:
        show(found)


@app.command("methods")
def list_methods(
    room: Annotated[str | None, typer.Option(help="Only this room")] = None,
    as_json: AsJson = False,
) -> None:
    """Every registered method: the question it answers, its paper, cost, needs and oracle."""
    from rich.table import Table

    from lowdim.registry import methods

    known = methods(room)
    if as_json:
        print(json.dumps([m.to_dict() for m in known], indent=1))
        return
    table = Table(box=None, pad_edge=False, header_style="bold", show_lines=False)
    table.add_column("method", no_wrap=True, style="bold")
    table.add_column("answers, source, cost, needs, oracle")
    for m in known:
        needs = ", ".join(map(str, m.needs))
        source = m.paper + (f", arXiv:{m.arxiv}" if m.arxiv else "")
        facts = f"{source} · cost {m.cost} · needs {needs} · oracle {m.oracle or 'closed forms'}"
        facts += " · only when asked for by name" * m.deep
        table.add_row(m.id, f"{m.question}\n[dim]{facts}[/dim]")
    show(table)


@app.command()
def diff(
    before: Annotated[Path, typer.Argument(help="scan.json, or the folder of one")],
    after: Annotated[Path, typer.Argument(help="scan.json, or the folder of one")],
    fail_over: Annotated[
        list[str] | None,
        typer.Option(help="measure=amount or measure=percent%: exit 1 past it; repeatable"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """What changed between two scans; exits 1 past a --fail-over limit, so it serves in CI."""
    from lowdim.report.diff import diff as run

    limits = dict(_limit(text) for text in fail_over or ())
    found = run(before, after)
    past = found.exceeds(limits)
    if as_json:
        print(json.dumps(found.to_dict(), indent=1))
    else:
        show(found)
    if past:
        for row in past:
            print(f"past the limit: {row}", file=sys.stderr)
        raise SystemExit(1)


def _limit(text: str) -> tuple[str, float | str]:
    name, equals, amount = text.partition("=")
    try:
        value = float(amount.removesuffix("%"))
    except ValueError:
        value = -1.0
    if not equals or not name or not value >= 0:
        raise InputError(f"--fail-over {text}: write measure=amount, e.g. two-nn=0.5 or vendi=5%")
    return name, amount if amount.endswith("%") else value


def _version(show: bool) -> None:
    if show:
        from lowdim import __version__

        print(f"lowdim {__version__}")
        raise typer.Exit()


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version")
    ] = False,
) -> None:
    """Options before the command."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; errors raised on purpose end in one line and exit code 2."""
    run: Callable[..., Any] = app
    try:
        run(arguments)
    except LowdimError as error:
        print(f"lowdim: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except BrokenPipeError:  # `lowdim methods | head`
        sys.stderr.close()
        raise SystemExit(0) from None
