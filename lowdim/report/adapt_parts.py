"""What is on the page of an adapt report: each section as a list of tables and plots."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from statistics import median
from typing import Any

from lowdim.core.estimate import to_json
from lowdim.core.memory import format_bytes
from lowdim.report import adapt_plots as plots
from lowdim.report import adapt_words as said
from lowdim.report.adapt_document import AdaptReport
from lowdim.report.blocks import Cell, Column, Grid, Plot, Section, Table, number_cell
from lowdim.report.page import draw
from lowdim.report.words import count, number

RANK = "spectra/effective-rank"
WORTH = {
    "gradients": "Share of what a tensor can gain in one step, on batches that its directions were "
    "not made from",
    "inputs": "Share of a layer's mean squared output",
}
"""What ranks are given for, by what was measured."""


def render_adapt(report: AdaptReport) -> str:
    """Draw the whole report as one HTML file; see :func:`lowdim.report.page.render`."""
    report = AdaptReport(**to_json(vars(report)))
    return draw(
        report, sections(report), sentences=said.sentences(report), again=said.again(report),
        ladder=[], advice=[],
    )  # fmt: skip


def render_fragment(report: AdaptReport) -> str:
    """Draw what matters most as a small HTML fragment, for notebooks; needs no extra."""
    report = AdaptReport(**to_json(vars(report)))
    items = "".join(f"<li>{escape(s)}</li>" for s in said.sentences(report))
    return f"<div><h3>{escape(str(report.source['name']))}</h3><ul>{items}</ul></div>"


def sections(report: AdaptReport) -> list[Section]:
    """The parts of the page that this report has anything for, in order."""
    makers: tuple[Callable[[AdaptReport], list[Section]], ...] = (
        _training, _comparison, _suggestion, _dimension
    )  # fmt: skip
    return [section for make in makers for section in make(report)]


def _training(report: AdaptReport) -> list[Section]:
    found = report.training
    if found is None:
        return []
    return [_score(found), _learning(found), _size(found), _targets(found)]


def _score(found: dict[str, Any]) -> Section:
    after, before = found["after"], found["before"]
    rows = [after | {"label": "adapter"}, before | {"label": before["short"]}]
    way = "higher" if after["higher_is_better"] else "lower"
    section = Section("score", "Score", said.gain(found))
    section.blocks.append(
        Plot(
            "scores",
            f"{after['name'].capitalize()} on held-out data",
            {"": plots.scores(rows, f"{after['name']} ({way} is better)")},
            note=f"{count(after['n'], found['item'])} that were not trained on; bars are 95% "
            "intervals over them, so they cover the draw of the data and not that of the seed.",
            height=180,
        )
    )
    return section


def _learning(found: dict[str, Any]) -> Section:
    name = found["after"]["name"]
    lede = f"{count(found['steps'], 'step')} in {number(found['seconds'])} s, {said.steps(found)}"
    section = Section("learning", "Learning", lede)
    cells = [Plot("losses", "Loss while training", {"": plots.losses(found["losses"])})]
    if len(found["scores"]) > 1:
        cells.append(
            Plot(
                "epochs",
                f"{name.capitalize()} after each epoch",
                {"": plots.epochs(found["scores"], found["before"], name)},
                note=f"Dotted: {found['before']['what']}.",
            )
        )
    section.blocks.append(Grid(cells))
    return section


def _size(found: dict[str, Any]) -> Section:
    """What trains, what is stored, and where the head comes in."""
    section = Section("size", "How much trained", said.size(found))
    rows = [
        _counted("adapter", f"{count(len(found['rows']), 'tensor')}", found["trainable"], found),
        _counted(found["also"] or "head", "trained whole", found["head"], found),
        _counted("model", "frozen", found["base"], found),
    ]
    columns = [Column("Part", numeric=False), Column("Numbers"), Column("Share of the model")]
    section.blocks.append(
        Table(
            "counts",
            "Numbers that train and numbers that stay",
            columns,
            [row for row in rows if row[1].sort],
            note=f"adapter.safetensors takes {format_bytes(found['bytes'])}: what trained and what "
            "the start took from data; random parts that do not train are drawn again from the "
            "seed.",
        )
    )
    return section


def _counted(name: str, small: str, n: int, found: dict[str, Any]) -> list[Cell]:
    share = n / found["base"]
    return [Cell(name, small=small), Cell(f"{n:,}", n), Cell(f"{share:.3%}", share)]


def _targets(found: dict[str, Any]) -> Section:
    """What each update is, and how its tensor came to be adapted."""
    rows = found["rows"]
    section = Section("targets", "Updates", found["chosen"])
    known = [row for row in rows if row["relative"] is not None]
    if known:
        section.blocks.append(
            Grid(
                [
                    Plot(
                        "moved",
                        "How far each tensor moved",
                        {"": plots.by_layer(known, "relative", "norm of update / of weight")},
                        note="Frobenius norms.",
                    ),
                    Plot(
                        "ranks",
                        "In how many directions",
                        {"": plots.by_layer(known, "effective_rank", "effective rank of update")},
                        note="The exponential of the entropy of the shares of singular values: "
                        "below what was allowed, the task needed fewer.",
                        method=RANK,
                    ),
                ]
            )
        )
    columns = [
        Column("Tensor", numeric=False),
        Column("Method", numeric=False),
        Column("Shape", numeric=False),
        Column("Trained"),
        Column("Norm of update"),
        Column("Relative"),
        Column("Effective rank", RANK),
    ]
    cells = [
        [
            Cell(row["name"]),
            Cell(row["method"], small=said.options(row), method=f"adapt/{row['method']}"),
            Cell(" × ".join(map(str, row["shape"]))),
            number_cell(row["trainable"]),
            number_cell(row["norm"]),
            Cell("–" if row["relative"] is None else f"{row['relative']:.2%}", row["relative"]),
            number_cell(row["effective_rank"]),
        ]
        for row in rows
    ]
    section.blocks.append(Table("updates", "Every adapted tensor", columns, cells, find="Find"))
    return section


def _comparison(report: AdaptReport) -> list[Section]:
    found = report.comparison
    if found is None:
        return []
    rows, name = found["rows"], found["score"]
    way = "higher" if found["higher_is_better"] else "lower"
    axis = f"{name} ({way} is better)"
    known = [row for row in rows if row["value"] is not None]
    dots = [_around(row, "value", "half") for row in known]
    section = Section("comparison", "Comparison", said.how(found))
    section.blocks.append(
        Grid(
            [
                Plot(
                    "methods",
                    f"Mean {name}",
                    {"": plots.scores(dots, axis)},
                    note="Bars are 95% intervals over seeds: the noise of training.",
                    height=44 * len(dots) + 110,
                ),
                Plot(
                    "by-count",
                    f"{name.capitalize()} against numbers that train",
                    {"": plots.by_count([row for row in known if row["trained"]], axis)},
                    note="The head is not counted.",
                    height=max(320, 44 * len(dots) + 110),
                ),
            ]
        )
    )
    apart = [_around(row, "difference", "reach") for row in rows if row["difference"] is not None]
    if apart:
        unit = " in the logarithm" if name == "perplexity" else ""
        section.blocks.append(
            Plot(
                "differences",
                f"Difference from {found['baseline']}",
                {"": plots.differences(apart, f"{name} minus that of {found['baseline']}{unit}")},
                note="Paired over seeds and held-out texts; bars are 95% intervals over both. One "
                "in twenty methods that are equal will seem different.",
                height=44 * len(apart) + 110,
            )
        )
    section.blocks.append(_methods_table(found))
    return [section]


def _around(row: dict[str, Any], key: str, half: str) -> dict[str, Any]:
    """The value of a row with the ends of its interval."""
    ends = {"low": None, "high": None}
    if row[half] is not None:
        ends = {"low": row[key] - row[half], "high": row[key] + row[half]}
    return {"label": row["method"], "value": row[key]} | ends


def _methods_table(found: dict[str, Any]) -> Table:
    columns = [
        Column("Method", numeric=False),
        Column("Trained"),
        Column(found["score"].capitalize()),
        Column(f"Minus {found['baseline']}"),
        Column("Verdict", numeric=False),
        Column("Step size"),
        Column("Seconds a run"),
    ]
    rows = [
        [
            Cell(row["method"], small=said.options(row), method=f"adapt/{row['method']}"),
            number_cell(row["trained"]),
            Cell(said.spread(row["value"], row["half"]), row["value"]),
            Cell(said.spread(row["difference"], row["reach"], "+.3g"), row["difference"]),
            Cell(row["verdict"]),
            Cell(f"{row['lr']:g}", row["lr"]),
            number_cell(row["seconds"]),
        ]
        for row in found["rows"]
    ]
    return Table("table", "Every method", columns, rows)


def _suggestion(report: AdaptReport) -> list[Section]:
    found = report.suggestion
    if found is None:
        return []
    rows = found["rows"]
    whole = found["gain"] / found["captured"]
    section = Section("suggestion", "Suggested ranks", said.sentences(report)[0])
    section.blocks.append(
        Plot(
            "rank-map",
            "Rank of each tensor",
            {"": plots.ranks(rows)},
            note="0: left out.",
            height=max(220, 30 * len({plots.place(row["name"])[1] for row in rows}) + 110),
        )
    )
    most = sorted((row for row in rows if row["rank"]), key=lambda row: -row["gain"])[:8]
    section.blocks.append(
        Plot(
            "worth",
            "What further ranks are worth",
            {"": plots.worth(most)},
            note=f"{WORTH[found['by']]}, by rank; a dot where its rank is. The eight tensors that "
            "get most.",
            height=420,
        )
    )
    columns = [
        Column("Tensor", numeric=False),
        Column("Shape", numeric=False),
        Column("Rank"),
        Column("Trained"),
        Column("Gets"),
        Column("Holds"),
        Column("Noise"),
    ]
    cells = [
        [
            Cell(row["name"]),
            Cell(" × ".join(map(str, row["shape"]))),
            number_cell(row["rank"]),
            number_cell(row["n_trainable"]),
            _share(row["gain"] / whole),
            _share(max(row["total"], 0.0) / whole),
            _share(row["noise"]),
        ]
        for row in rows
    ]
    section.blocks.append(
        Table(
            "ranks-table",
            "Every tensor",
            columns,
            cells,
            note="Gets and holds: shares of all that can be gained. Noise: share of a gradient's "
            "squared norm that the other half of the batches does not repeat.",
            find="Find a tensor",
        )
    )
    return [section]


def _share(value: float | None) -> Cell:
    return Cell("–" if value is None else f"{value:.1%}", value)


def _dimension(report: AdaptReport) -> list[Section]:
    found = report.dimension
    if found is None:
        return []
    section = Section("dimension", "Dimension of the task", said.sentences(report)[0])
    section.blocks.append(
        Plot(
            "ladder",
            f"{found['score'].capitalize()} by numbers that train",
            {"": plots.ladder(found)},
            note="Dotted: all parameters. Dashed across: the target; dashed down: d90.",
            height=420,
        )
    )
    columns = [Column("d"), Column("Median"), Column("Seeds", numeric=False), Column("Step size")]
    rungs = [*found["curve"], found["full"]]
    cells = [
        [
            number_cell(rung["dim"]),
            number_cell(median(rung["scores"])),
            Cell(", ".join(map(number, rung["scores"]))),
            Cell(f"{rung['lr']:g}", rung["lr"]) if rung["lr"] else Cell("–"),
        ]
        for rung in rungs
    ]
    section.blocks.append(
        Table(
            "rungs",
            "Every rung",
            columns,
            cells,
            note="Step sizes in units of full training: d numbers take steps larger by sqrt(D / "
            "d). The last row trains all D parameters.",
        )
    )
    return [section]
