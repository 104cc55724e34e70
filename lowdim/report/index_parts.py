"""What is on the page of an index report: each section as a list of tables and plots."""

from __future__ import annotations

from html import escape
from typing import Any

from lowdim.core.estimate import to_json
from lowdim.core.memory import format_bytes
from lowdim.report import index_plots as plots
from lowdim.report import index_words as said
from lowdim.report.blocks import Cell, Column, Plot, Section, Table, number_cell
from lowdim.report.index_document import IndexReport
from lowdim.report.page import draw
from lowdim.report.plots import cumulative_energy
from lowdim.report.words import count, interval, number

AGAINST = {"bytes per vector": "bytes", "query time": "query_ms", "build time": "build_s"}
CARD = 36  # characters of a command that a card shows in a line
JUDGED = {"ndcg": "nDCG", "mrr": "MRR"}


def render_index(report: IndexReport) -> str:
    """Draw the whole report as one HTML file; see :func:`lowdim.report.page.render`."""
    report = IndexReport(**to_json(vars(report)))
    return draw(
        report, sections(report), sentences=said.sentences(report), again=said.again(report),
        ladder=[], advice=cards(report),
    )  # fmt: skip


def render_fragment(report: IndexReport) -> str:
    """Draw what matters most as a small HTML fragment, for notebooks; needs no extra."""
    report = IndexReport(**to_json(vars(report)))
    items = "".join(f"<li>{escape(s)}</li>" for s in said.sentences(report))
    return f"<div><h3>{escape(str(report.source['name']))}</h3><ul>{items}</ul></div>"


def sections(report: IndexReport) -> list[Section]:
    """The parts of the page that this report has anything for, in order."""
    if (plan := report.plan) is None:
        return []
    held_out = report.options.get("queries") is None
    found = (_frontier(plan), _growth(plan), _structure(plan), _measured(plan, held_out))
    return [section for section in found if section is not None]


def cards(report: IndexReport) -> list[dict[str, Any]]:
    """The choice, and its neighbours on the frontier, each with the commands that build it."""
    plan = report.plan
    if plan is None or plan["best"] is None:
        return []
    best = plan["best"]
    frontier = sorted((r for r in plan["rows"] if r["frontier"]), key=lambda row: row["bytes"])
    less = [row for row in frontier if row["bytes"] < best["bytes"]][-1:]
    more = [row for row in frontier if row["bytes"] > best["bytes"]][:1]
    made = [("chosen", best, said.next_commands(report))]
    made += [("smaller still", row, [said.build_command(report, row)]) for row in less]
    made += [("finds more", row, [said.build_command(report, row)]) for row in more]
    return [_card(plan, kind, row, commands) for kind, row, commands in made]


def _card(
    plan: dict[str, Any], kind: str, row: dict[str, Any], commands: list[list[str]]
) -> dict[str, Any]:
    exact = plan["exact"]
    figures = [
        ("bytes", number(exact["bytes"]), number(row["bytes"])),
        ("in all", format_bytes(plan["n_index"] * exact["bytes"]), format_bytes(row["stored"])),
        (f"recall@{plan['k']}", "100%", said.share(row["recall"])),
        ("surely", "100%", said.share(row["bound"])),
        ("rescored", "100%", said.share(row["rescored"])),
        ("ms, batch", said.brief(exact["query_ms"]), said.brief(row["batch_ms"])),
    ]
    return {
        "kind": kind,
        "title": f"{count(row['bytes'], 'byte')} a vector",
        "text": f"{said.named(row)}: {said.smaller(row)} smaller. Before: exact search of float32 "
        "vectors.",
        "rows": figures,
        "compared": True,
        "how": "\n".join(said.typed(words, CARD) for words in commands),
    }


def _frontier(plan: dict[str, Any]) -> Section:
    section = Section("frontier", "Frontier", f"{said.asked(plan)}.")
    tried = " Small: tried on a sample of rows and left there." if plan["screened"] else ""
    section.blocks.append(
        Plot(
            "recall",
            f"Recall@{plan['k']}, and what it costs",
            {name: plots.against(plan, key) for name, key in AGAINST.items()},
            note="A dot a configuration, in the colour of its code; bars are 95% intervals over "
            f"the queries. {'Ringed: the choice. ' if plan['best'] else ''}Joined: what nothing as "
            f"cheap beats.{tried}",
            choose="Against",
            height=460,
            buttons=True,
        )
    )
    section.blocks.append(_costs(plan))
    return section


def _costs(plan: dict[str, Any]) -> Table:
    judged = [key for key in JUDGED if any(row[key] is not None for row in plan["rows"])]
    columns = [
        Column("Configuration", numeric=False), Column("Bytes"), Column("Smaller"),
        Column(f"Recall@{plan['k']}"), Column("Surely"), Column("Rescored"),
        *(Column(JUDGED[key]) for key in judged),
        Column("Query, ms"), Column("In a batch, ms"), Column("Build, s"), Column("In all"),
    ]  # fmt: skip
    cells = [
        [
            Cell(said.named(row), small=_role(plan, row)),
            Cell(number(row["bytes"]), row["bytes"], _coded(row)),
            Cell(f"{row['ratio']:.3g}×", row["ratio"]),
            Cell(said.share(row["recall"]), row["recall"], said.ends(row)),
            *(Cell(said.share(row[key]), row[key]) for key in ("bound", "rescored")),
            *(number_cell(row[key]) for key in judged),
            *(Cell(said.brief(row[key]), row[key]) for key in ("query_ms", "batch_ms", "build_s")),
            Cell(format_bytes(row["stored"]), row["stored"], _once(row)),
        ]
        for row in plan["rows"]
    ]
    return Table(
        "costs",
        "What each costs",
        columns,
        cells,
        note="Surely: what recall exceeds with 95% confidence. Rescored: where the best "
        f"{4 * plan['k']} are ranked anew by the vectors themselves, which are then kept beside "
        "the codes. In all: codes, and what is stored once, the map and the codebooks, of which "
        "bytes have each vector's part. Beaten: by another as small.",
        find="Find a code or a reduction",
    )


def _role(plan: dict[str, Any], row: dict[str, Any]) -> str:
    if row == plan["best"]:
        return "chosen"
    return "" if row["frontier"] else "beaten"


def _coded(row: dict[str, Any]) -> str:
    return f"code {number(row['code_bytes'])}" if row["overhead"] else ""


def _once(row: dict[str, Any]) -> str:
    return f"{format_bytes(row['overhead'])} once" if row["overhead"] else ""


def _growth(plan: dict[str, Any]) -> Section | None:
    if not (found := plan["growth"]):
        return None
    section = Section("growth", "As the index grows", said.grows(plan))
    section.blocks.append(
        Plot(
            "growth-curve",
            f"Recall@{found['k']} by the size of the index",
            {"": plots.growth(found)},
            note=f"Measured on random parts of the {plan['n']:,} vectors, with "
            f"{count(found['queries'], 'query', 'queries')}. Rings: what the smaller sizes alone "
            "foretold. Dashed: the same line drawn on, through the log odds of recall over the "
            "logarithm of the size. It holds for more vectors of the same kind.",
            height=380,
        )
    )
    return section


def _structure(plan: dict[str, Any]) -> Section | None:
    if not (found := plan["structure"]):
        return None
    section = Section("structure", "The vectors", said.shape(plan))
    energy = found["energy"]
    spectrum = {"index": list(range(1, len(energy) + 1)), "values": energy, "total": 1.0}
    section.blocks.append(
        Plot(
            "energy",
            "How the variance is spread over directions",
            {"": cumulative_energy([spectrum], [""])},
            note=f"Of {count(found['rows'], 'vector')}; cumulative, largest directions first; "
            "dotted lines at 90% and 99%.",
        )
    )
    section.blocks.append(_dimensions(plan["dim"], found))
    return section


def _dimensions(dim: int, found: dict[str, Any]) -> Table:
    measures = (
        ("effective_rank", "spectra/effective-rank", "Effective rank"),
        ("participation_ratio", "geometry/participation-ratio", "Participation ratio"),
        ("rank_90", "geometry/rank-90", "Directions with 90% of the variance"),
        ("rank_99", "geometry/rank-99", "Directions with 99% of the variance"),
    )
    cells = [
        [Cell("Columns"), number_cell(dim)],
        *([Cell(name, method=id), number_cell(found[key])] for key, id, name in measures),
    ]
    for key, id, name in (("two_nn", "geometry/two-nn", "TwoNN"), ("mle", "geometry/mle", "MLE")):
        if estimate := found.get(key):
            label = f"Intrinsic dimension ({name})"
            cells.append(
                [Cell(label, method=id), number_cell(estimate["value"], interval(estimate))]
            )
    if local := found.get("local"):
        middle = f"{number(local['10%'])} to {number(local['90%'])}"
        cells.append(
            [Cell("Local dimension, median", small="and of four fifths of the points"),
             number_cell(local["50%"], middle)]
        )  # fmt: skip
    if pieces := found.get("strata"):
        control = f"{number(pieces['rank_90_random'])} in random sets as large"
        low, high = pieces["dimension"]
        cells += [
            [Cell(f"The same in the median of {pieces['pieces']} pieces (k-means)"),
             number_cell(pieces["rank_90"], control)],
            [Cell("Local dimension of a piece, least and most"),
             Cell(f"{number(low)} to {number(high)}", low)],
        ]  # fmt: skip
    return Table(
        "dimensions",
        "How many dimensions are in use",
        [Column("Measure", numeric=False), Column("Value")],
        cells,
    )


def _measured(plan: dict[str, Any], held_out: bool) -> Section:
    section = Section("measured", "How it was measured", "What the figures above rest on.")
    first = plan["n_queries"] // 2
    rows = [
        ("Vectors that are searched", plan["n"]),
        ("Queries that select", first),
        ("Queries that confirm", plan["n_queries"] - first),
        ("Configurations tried on a sample", len(plan["screened"])),
        ("Configurations measured on all rows", len(plan["rows"])),
    ]
    cells = [[Cell(name), number_cell(n)] for name, n in rows if n]
    columns = [Column("What", numeric=False), Column("How many")]
    note = said.how(plan, held_out=held_out)
    section.blocks.append(Table("procedure", "Procedure", columns, cells, note=note))
    return section
