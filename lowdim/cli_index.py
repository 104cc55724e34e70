"""``lowdim index``: parsing and printing only; the work is in :mod:`lowdim.report.index`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from lowdim.cli_shared import AsJson, Memory, Resume, Seed, show, stoppable
from lowdim.errors import require

app = typer.Typer(no_args_is_help=True)

AIM, MEASURED, CODEC = "What is wanted, one of them", "What is measured", "In place of --plan"

Vectors = Annotated[
    Path, typer.Argument(metavar="VECTORS", help="Points: .npy .npz .parquet .fvecs .hdf5 …")
]
Folder = Annotated[
    Path, typer.Argument(metavar="INDEX", help="Folder that lowdim index build wrote")
]
Column = Annotated[
    str | None, typer.Option(help="Column or data set of the vectors, where there are several")
]
Queries = Annotated[
    Path | None,
    typer.Option(help="Real queries; rows are held out without", rich_help_panel=MEASURED),
]
Neighbours = Annotated[int, typer.Option("-k", "--k", help="Rows wanted of a query")]


@app.callback()
def index() -> None:
    """How small can my vector index be at this recall?"""


@app.command(no_args_is_help=True)
def plan(
    vectors: Vectors,
    queries: Queries = None,
    qrels: Annotated[
        Path | None,
        typer.Option(
            help="Rows relevant to each query, for nDCG and MRR: query, row, gain a line",
            rich_help_panel=MEASURED,
        ),
    ] = None,
    keep_recall: Annotated[
        float | None,
        typer.Option(help="The smallest that keeps this recall, e.g. 0.98", rich_help_panel=AIM),
    ] = None,
    budget: Annotated[
        int | None,
        typer.Option(
            metavar="BYTES", help="The best recall in so many bytes a vector", rich_help_panel=AIM
        ),
    ] = None,
    metric: Annotated[
        str, typer.Option(help="cosine, dot or euclidean", rich_help_panel=MEASURED)
    ] = "cosine",
    k: Annotated[
        int, typer.Option("-k", "--k", help="Rows wanted of a query", rich_help_panel=MEASURED)
    ] = 10,
    n_queries: Annotated[
        int | None,
        typer.Option(help="Rows held out without --queries; 1,000", rich_help_panel=MEASURED),
    ] = None,
    n_index: Annotated[
        int | None,
        typer.Option(
            help="Vectors that the index will hold, if these are a sample", rich_help_panel=MEASURED
        ),
    ] = None,
    configuration: Annotated[
        list[str] | None,
        typer.Option(
            help="Measure this alone, e.g. 'pca 128, int8'; repeatable", rich_help_panel=MEASURED
        ),
    ] = None,
    column: Column = None,
    out: Annotated[
        Path, typer.Option(help="Folder for plan.json, index-plan.json and report.html")
    ] = Path("lowdim-index"),
    resume: Resume = False,
    memory: Memory = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """How small can my vectors be? Measures reductions and codes on held-out queries.

    Writes plan.json, index-plan.json and report.html, and prints the frontier.
    """
    from lowdim.report.index import plan as run

    for module in ("jinja2", "plotly"):  # what the page needs is missed before the work, not after
        require(module, "report")
    with stoppable(f"configurations are in {out}") as progress:
        report = run(
            vectors, queries=queries, qrels=qrels, keep_recall=keep_recall, budget=budget,
            metric=metric, k=k, n_queries=n_queries, n_index=n_index,
            configurations=configuration or (), column=column, out=out, resume=resume,
            memory=memory, seed=seed, progress=progress,
        )  # fmt: skip
    page = report.save(out)
    if as_json:
        print(json.dumps(report.to_dict(), indent=1))
    else:
        show(report)
        print(page)


@app.command(no_args_is_help=True)
def build(
    vectors: Vectors,
    plan: Annotated[
        Path | None, typer.Option(help="plan.json, whose choice is built, or its folder")
    ] = None,
    code: Annotated[
        str | None, typer.Option(help="int8, binary, pq48 …", rich_help_panel=CODEC)
    ] = None,
    reduction: Annotated[
        str | None, typer.Option(help="none, pca …", rich_help_panel=CODEC)
    ] = None,
    dims: Annotated[
        int | None, typer.Option(help="Coordinates that are kept", rich_help_panel=CODEC)
    ] = None,
    metric: Annotated[
        str | None, typer.Option(help="cosine, dot or euclidean", rich_help_panel=CODEC)
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Of what is drawn in a fit", rich_help_panel=CODEC)
    ] = None,
    lists: Annotated[
        int | None, typer.Option(help="Inverted lists, of which a search looks at a few")
    ] = None,
    ids: Annotated[
        Path | None, typer.Option(help="Names of the rows: .txt .csv .parquet .jsonl")
    ] = None,
    column: Column = None,
    out: Annotated[Path, typer.Option(help="Folder of the index")] = Path("index"),
    resume: Resume = False,
    memory: Memory = None,
) -> None:
    """Code the vectors into an index, shard by shard."""
    from lowdim.report.index import build as run

    given = {"code": code, "reduction": reduction, "dims": dims, "metric": metric, "seed": seed}
    codec = {name: value for name, value in given.items() if value is not None}
    with stoppable(f"shards are in {out}") as progress:
        built = run(
            vectors, out, plan=plan, codec=codec, lists=lists, ids=ids, column=column,
            resume=resume, memory=memory, progress=progress,
        )  # fmt: skip
    print(built)


@app.command(no_args_is_help=True)
def search(
    index: Folder,
    queries: Annotated[Path, typer.Option(help="Vectors to look for, in any format of points")],
    k: Neighbours = 10,
    rescore: Annotated[
        bool, typer.Option("--rescore", help="Rank the best anew by the vectors themselves")
    ] = False,
    candidates: Annotated[int | None, typer.Option(help="How many of them; 4 k by default")] = None,
    probes: Annotated[int | None, typer.Option(help="Inverted lists that are looked at")] = None,
    column: Column = None,
    out: Annotated[
        Path | None, typer.Option(help="Write all that was found: .npz, .tsv or .jsonl")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Which rows are nearest to each query? Prints the first few, and the time of a query."""
    from lowdim.report.index import search as run

    with stoppable(None):
        found = run(
            index, queries, k=k, rescore=rescore, candidates=candidates, probes=probes,
            column=column, out=out,
        )  # fmt: skip
    if as_json:
        print(json.dumps(found.to_dict()))
    else:
        show(found)


@app.command(no_args_is_help=True)
def export(
    index: Folder,
    to: Annotated[str, typer.Option(metavar="FORMAT", help="faiss, usearch, npz or onnx")],
    dtype: Annotated[
        str | None,
        typer.Option(help="For faiss and usearch: decoded vectors as float32 or float16"),
    ] = None,
    queries: Annotated[
        Path | None, typer.Option(help="Vectors that what is written is tried with")
    ] = None,
    column: Column = None,
    out: Annotated[Path, typer.Option(help="Folder for what is written")] = Path("export"),
) -> None:
    """Write the index for another store, or its transform as ONNX, and compare the answers."""
    from lowdim.report.index import export as run

    with stoppable(None):
        made = run(index, to, out, dtype=dtype, queries=queries, column=column)
    share = f"{made.agreement:.1%} as the index itself"
    print(f"{made.path}: {made.bytes:,} bytes, {share}; {made.note}")
