"""``lowdim adapt``: parsing and printing only; the work is in :mod:`lowdim.report.adapt`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from lowdim.cli_shared import AsJson, Resume, show, stoppable
from lowdim.errors import InputError, require

if TYPE_CHECKING:
    from lowdim.core.progress import Progress
    from lowdim.report.adapt_document import AdaptReport

UNITS = {"k": 1_000, "m": 1_000_000}
RATES = "0.0003,0.001,0.003,0.01"
FULL_RATES = "0.0001,0.0003,0.001"
"""Step sizes of full training, which few numbers take larger."""


class ModelFirst(TyperGroup):
    """A group that takes a first word which is no command for the MODEL of ``train``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put ``train`` before it."""
        if args and args[0] not in (*self.commands, "-h", "--help"):
            args = ["train", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(cls=ModelFirst, no_args_is_help=True)

DATA, TRAINED, INSTEAD = "Data", "What is trained", "Instead of training one adapter"
STEPS = "Training"

Model = Annotated[Path, typer.Argument(metavar="MODEL", help="Model folder of transformers")]
Train = Annotated[
    Path,
    typer.Option(help="Texts: .jsonl .json .csv .parquet .txt", rich_help_panel=DATA),
]
Valid = Annotated[
    Path | None,
    typer.Option(help="Held-out texts; by default a fifth of --train", rich_help_panel=DATA),
]
Second = Annotated[
    str | None,
    typer.Option(help="Field of the second text, where texts are pairs", rich_help_panel=DATA),
]
Task = Annotated[
    str | None,
    typer.Option(
        help="classification or causal-lm; by default the first where texts have labels",
        rich_help_panel=DATA,
    ),
]
MaxLength = Annotated[
    int | None, typer.Option(help="Tokens that are read of a text", rich_help_panel=DATA)
]
Epochs = Annotated[int, typer.Option(help="Passes over the texts", rich_help_panel=STEPS)]
Rates = Annotated[
    str,
    typer.Option(
        help="Step size; of several, with commas, the best on a fifth of --train is taken",
        rich_help_panel=STEPS,
    ),
]
BatchSize = Annotated[int | None, typer.Option(help="Texts a step", rich_help_panel=STEPS)]
Seed = Annotated[
    int,
    typer.Option(help="Of the split, the start and the order", rich_help_panel=STEPS),
]
Device = Annotated[
    str | None,
    typer.Option(help="Where it runs, e.g. cuda; the CPU by default", rich_help_panel=STEPS),
]
Memory = Annotated[str | None, typer.Option(help="Of measured gradients, e.g. 2GiB")]
Out = Annotated[Path, typer.Option(help="Folder for all that is written")]


@app.callback()
def adapt() -> None:
    """What is the smallest adapter that still learns my task?

    lowdim adapt MODEL ... is short for lowdim adapt train MODEL ...
    """


@app.command(no_args_is_help=True)
def train(
    model: Model,
    train: Train,
    valid: Valid = None,
    second: Second = None,
    task: Task = None,
    max_length: MaxLength = None,
    method: Annotated[
        str | None,
        typer.Option(
            help="lsr by default; lowdim methods --room adapt lists them", rich_help_panel=TRAINED
        ),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE", help="Option of the method; repeatable", rich_help_panel=TRAINED
        ),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(help="Numbers that train at most, 50k by default", rich_help_panel=TRAINED),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(
            help="The option that its count grows with, for a budget", rich_help_panel=TRAINED
        ),
    ] = None,
    rank: Annotated[
        int | None, typer.Option(help="Short for --option rank=N", rich_help_panel=TRAINED)
    ] = None,
    targets: Annotated[
        str | None,
        typer.Option(
            help="Names or patterns with commas, linear, all, or measured; by default queries and "
            "values",
            rich_help_panel=TRAINED,
        ),
    ] = None,
    compare: Annotated[
        str | None,
        typer.Option(
            metavar="METHODS",
            help="Compare these at the budget, e.g. lora,lsr,svfit; also head and full",
            rich_help_panel=INSTEAD,
        ),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(help="Runs of each, 3 by default", rich_help_panel=INSTEAD)
    ] = None,
    suggest: Annotated[
        bool,
        typer.Option(
            "--suggest",
            help="Ranks and targets from measured gradients; nothing trains",
            rich_help_panel=INSTEAD,
        ),
    ] = False,
    epochs: Epochs = 3,
    lr: Rates = RATES,
    batch_size: BatchSize = None,
    seed: Seed = 0,
    device: Device = None,
    out: Out = Path("lowdim-adapt"),
    resume: Resume = False,
    memory: Memory = None,
    as_json: AsJson = False,
) -> None:
    """Train an adapter, compare methods, or suggest ranks and targets.

    Writes the adapter (adapter.safetensors, adapter.json), report.html and adapt.json.
    """
    from lowdim.report import adapt as runs
    from lowdim.report.adapt_setup import Setup

    setup = Setup(
        model, train, valid, second=second, task=task, max_length=max_length,
        targets=_names(targets), epochs=epochs, lr=_rates(lr), batch_size=batch_size, seed=seed,
        device=device, memory=memory,
    )  # fmt: skip
    options = _options(option) | ({} if rank is None else {"rank": rank})
    most = None if budget is None else _count(budget)
    where: dict[str, Any] = {"out": out}
    with _watched(None if suggest else out) as where["progress"]:
        if suggest:
            _refuse("--suggest", compare=compare, seeds=seeds, size=size, resume=resume)
            among = setup if targets else replace(setup, targets="measured")
            report = runs.suggest(
                among, method=method or "lora-ga", options=options, budget=most, **where
            )
        elif compare is not None:
            _refuse("--compare", method=method, option=option, rank=rank, size=size, memory=memory)
            report = runs.compare_methods(
                setup, _listed(compare), budget=most, seeds=3 if seeds is None else seeds,
                resume=resume, **where,
            )  # fmt: skip
        else:
            measured = targets == "measured"
            _refuse("training one adapter", seeds=seeds, memory=None if measured else memory)
            report = runs.train(
                setup, method=method or "lsr", options=options, budget=most, size=size,
                resume=resume, **where,
            )  # fmt: skip
    _finish(report, out, as_json)


@app.command(no_args_is_help=True)
def dimension(
    model: Model,
    train: Train,
    valid: Valid = None,
    second: Second = None,
    task: Task = None,
    max_length: MaxLength = None,
    dims: Annotated[
        str, typer.Option(help="The ladder of dimensions", rich_help_panel=STEPS)
    ] = "10,20,50,100,200,500,1000,2000,5000",
    threshold: Annotated[
        float, typer.Option(help="Share of the score of full training", rich_help_panel=STEPS)
    ] = 0.9,
    projection: Annotated[
        str, typer.Option(help="fastfood, sparse or dense", rich_help_panel=STEPS)
    ] = "fastfood",
    scales: Annotated[
        bool,
        typer.Option("--scales", help="SAID: a learned scale a tensor", rich_help_panel=STEPS),
    ] = False,
    seeds: Annotated[int, typer.Option(help="Runs of each", rich_help_panel=STEPS)] = 3,
    epochs: Epochs = 3,
    lr: Rates = FULL_RATES,
    batch_size: BatchSize = None,
    seed: Seed = 0,
    device: Device = None,
    out: Out = Path("lowdim-dimension"),
    resume: Resume = False,
    as_json: AsJson = False,
) -> None:
    """How many numbers does this task need? Trains a ladder of random subspaces.

    Writes report.html, adapt.json and every adapter of the ladder.
    """
    from lowdim.report import adapt as runs
    from lowdim.report.adapt_setup import Setup

    setup = Setup(
        model, train, valid, second=second, task=task, max_length=max_length, epochs=epochs,
        lr=_rates(lr), batch_size=batch_size, seed=seed, device=device,
    )  # fmt: skip
    ladder = [_count(word) for word in dims.split(",")]
    with _watched(out) as progress:
        report = runs.dimension(
            setup, dims=ladder, threshold=threshold, projection=projection, scales=scales,
            seeds=seeds, out=out, resume=resume, progress=progress,
        )  # fmt: skip
    _finish(report, out, as_json)


@app.command(no_args_is_help=True)
def export(
    adapter: Annotated[Path, typer.Argument(metavar="ADAPTER", help="Folder of a training")],
    to: Annotated[
        tuple[str, Path],
        typer.Option(metavar="FORMAT FOLDER", help="peft (stock LoRA) or merged, and where to"),
    ],
    model: Annotated[
        Path | None, typer.Option(help="The base, where it is not where it was")
    ] = None,
    rank: Annotated[
        int | None, typer.Option(help="Cut updates of a higher rank to this one")
    ] = None,
) -> None:
    """Write a trained adapter as stock LoRA, or merged into its model.

    peft: what PeftModel.from_pretrained loads, exact where the update has low rank. merged: a model
    folder without any adapter.
    """
    from lowdim.report.adapt_export import export as run

    print(run(adapter, *to, model=model, rank=rank))


@contextmanager
def _watched(out: Path | None) -> Iterator[Progress]:
    """Bars; what the page needs is missed before the work, not after."""
    for module in ("jinja2", "plotly"):
        require(module, "report")
    with stoppable(None if out is None else f"runs are in {out}") as progress:
        yield progress


def _finish(report: AdaptReport, out: Path, as_json: bool) -> None:
    page = report.save(out)
    if as_json:
        print(json.dumps(report.to_dict(), indent=1))
    else:
        show(report)
        print(page)


def _refuse(what: str, **given: object) -> None:
    """No option is silently without effect."""
    if named := [f"--{name}" for name, x in given.items() if x is not None and x is not False]:
        raise InputError(f"{what} does not read {named[0]}: leave it out")


def _names(text: str | None) -> str | list[str] | None:
    """``linear``, ``all`` and ``measured`` mean something; anything else is a list of names."""
    if text is None or text in ("linear", "all", "measured"):
        return text
    return _listed(text)


def _listed(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _rates(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(word) for word in text.split(","))
    except ValueError:
        raise InputError(f"--lr {text}: write a number, or several with commas") from None


def _count(text: str) -> int:
    """``50k`` is 50,000."""
    word = text.strip().lower()
    number, unit = (word[:-1], UNITS[word[-1]]) if word[-1:] in UNITS else (word, 1)
    try:
        return round(float(number) * unit)
    except (ValueError, OverflowError):
        raise InputError(f"{text!r} is no count: write 50000, 50k or 1.5M") from None


def _options(given: list[str] | None) -> dict[str, Any]:
    """Values are JSON where they can be, words otherwise."""
    found: dict[str, Any] = {}
    for text in given or ():
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise InputError(f"--option {text}: write name=value, e.g. terms=8")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found
