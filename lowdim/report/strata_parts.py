"""What is on the page of a strata report: each section as a list of tables and plots."""

from __future__ import annotations

import math
from collections.abc import Callable
from html import escape
from typing import Any

from lowdim.core.estimate import to_json
from lowdim.report import strata_plots as plots
from lowdim.report import strata_words as said
from lowdim.report import words
from lowdim.report.blocks import Cell, Column, Grid, Plot, Section, Table, excerpt, number_cell
from lowdim.report.page import again, draw
from lowdim.report.strata_document import StrataReport
from lowdim.report.strata_stability import PATTERN, STABLE

MLE, TWO_NN = "geometry/mle", "geometry/two-nn"


def render_strata(report: StrataReport) -> str:
    """Draw the whole report as one HTML file; see :func:`lowdim.report.page.render`."""
    report = StrataReport(**to_json(report.values()))
    return draw(
        report, sections(report), sentences=said.sentences(report), again=again(report),
        ladder=[], advice=[],
    )  # fmt: skip


def render_fragment(report: StrataReport) -> str:
    """Draw what matters most as a small HTML fragment, for notebooks; needs no extra."""
    report = StrataReport(**to_json(report.values()))
    items = "".join(f"<li>{escape(s)}</li>" for s in said.sentences(report))
    head = f"<h3>{escape(str(report.source.get('name') or 'points'))}</h3><ul>{items}</ul>"
    rows = "".join(
        f"<tr><td>{r['piece']}</td><td>{r['n']:,}</td><td>{escape(_dimension(r))}</td>"
        f"<td>{escape(said.named(r.get('labels')))}</td>"
        f"<td>{escape(said.named(r.get('words')))}</td></tr>"
        for r in (report.pieces or {}).get("rows", [])
    )
    names = ("piece", "points", "dimension", "labels", "words")
    top = "".join(f"<th>{name}</th>" for name in names)
    table = f"<table><thead><tr>{top}</tr></thead><tbody>{rows}</tbody></table>" if rows else ""
    return f"<div>{head}{table}</div>"


def _dimension(row: dict[str, Any]) -> str:
    found = row["estimates"].get(MLE) or {}
    return f"{words.number(found.get('value'))} {words.interval(found)}".rstrip()


def sections(report: StrataReport) -> list[Section]:
    """The parts of the page that this report has anything for, in order."""
    makers: tuple[Callable[[StrataReport], Section | None], ...] = (
        _map, _pieces, _labels, _sharing, _between, _stability, _verdict
    )  # fmt: skip
    return [section for make in makers if (section := make(report)) is not None]


def _map(report: StrataReport) -> Section | None:
    points = report.map
    if points is None:
        return None
    part = f"{points['n']:,} of {points['of']:,} measured points, drawn at random"
    whole = f"all {words.count(points['n'], 'point')}"
    lede = whole if points["n"] == points["of"] else part
    held = points.get("energy")
    share = "" if held is None else f", which hold {held:.0%} of the variance"
    if points["method"] == "t-SNE":
        note = (
            f"t-SNE (perplexity {points['perplexity']:.0f}) of the {points['dims']} leading "
            f"principal coordinates{share}. It keeps neighbours together; distances between "
            "groups, their sizes and the gaps mean nothing, and the pieces were not found on it."
        )
    else:
        note = f"The two leading principal directions{share}."
    section = Section("map", "Map", lede)
    section.blocks.append(
        Plot(
            "points-map",
            "The points",
            plots.piece_map(points),
            note=note,
            choose="Colour by",
            height=560,
            buttons=True,
        )
    )
    return section


def _pieces(report: StrataReport) -> Section | None:
    if report.pieces is None or report.fit is None:
        return None
    rows, fit = report.pieces["rows"], report.fit
    how = report.methods.get(fit["method"], {}).get("paper", "")
    number = "their number chosen on unseen points" if fit["choice"] else "as many as asked for"
    lede = f"{words.count(len(rows), 'piece')} found by {fit['method']} ({how}), {number}"
    if fit.get("dims"):
        share = "" if fit["energy"] is None else f", {fit['energy']:.0%} of the variance"
        lede += f", in the {fit['dims']} leading principal directions{share}"
    section = Section("pieces", "Pieces", lede)
    section.blocks.append(_figures(report, rows))
    if any(row["estimates"] or row["pca"] is not None for row in rows):
        section.blocks.append(
            Plot(
                "dimensions",
                "Dimension of each piece",
                {"": plots.dimensions(rows)},
                note=_equal(report.pieces.get("equal")),
                height=max(320, 44 * len(rows) + 110),
            )
        )
    if any(row.get("labels") or row.get("words") for row in rows):
        section.blocks.append(_about(rows, report.pieces.get("words_tried")))
    if any(entry.get("text") for row in rows for entry in row["typical"]):
        section.blocks.append(_texts(report, rows))
    if fit.get("choice"):
        section.blocks.append(_choice(fit))
    return section


def _equal(test: dict[str, Any] | None) -> str:
    start = "MLE at one number of points for all pieces, the other rules on all points of a piece. "
    if test is None:
        return start + "Intervals cover sampling error only."
    differ = "differ" if test["p_value"] <= words.CHANCE else "do not clearly differ"
    return (
        f"{start}By MLE on {test['n_each']:,} points each the pieces {differ} in dimension "
        f"(p = {test['p_value']:.2g}); they were cut from the same points, so the section on the "
        "verdict has the test that counts."
    )


def _figures(report: StrataReport, rows: list[dict[str, Any]]) -> Table:
    gate, jaccard = report.gate or {"kind": "entropy"}, (report.stability or {}).get("jaccard")
    sparse = any(row.get("sparsity") is not None for row in rows)
    columns = [
        Column("Piece"), Column("Points"), Column("Share"), Column("Dimension (MLE)", MLE),
        Column("TwoNN", TWO_NN), Column("PCA 75%"), Column("BIC rank"), Column("Rank in use"),
    ]  # fmt: skip
    columns += [Column("Atoms in use")] if sparse else []
    columns += [Column(f"Mean {said.SHARED[gate['kind']]}")]
    columns += [Column("Comes back (Jaccard)")] if jaccard else []
    cells = []
    for row in rows:
        estimates = [row["estimates"].get(id) or {} for id in (MLE, TWO_NN)]
        line = [
            Cell(str(row["piece"]), row["piece"]), number_cell(row["n"]),
            Cell(f"{row['share']:.1%}", row["share"]),
            *(number_cell(e.get("value"), words.interval(e)) for e in estimates),
            number_cell(row["pca"]), number_cell(row["bic"]), number_cell(row["rank"]),
        ]  # fmt: skip
        line += [number_cell(row.get("sparsity"))] if sparse else []
        line += [number_cell(row["doubt"])]
        if jaccard:
            back = jaccard[row["piece"]]
            line.append(Cell("–" if back is None else f"{back:.2f}", back))
        cells.append(line)
    return Table(
        "pieces-table",
        "The pieces in figures",
        columns,
        cells,
        note="Dimensions are measured in all columns. PCA 75%: fewest principal directions with "
        "three quarters of the variance. BIC rank: directions that stand above isotropic noise. "
        "Rank in use: directions the method gave the piece. "
        + ("Atoms in use: mean of a point, gates counted. " if sparse else "")
        + "Intervals cover sampling error only, "
        "not the choice of the pieces.",
    )


def _about(rows: list[dict[str, Any]], tried: int | None) -> Table:
    has = {key: any(row.get(key) for row in rows) for key in ("labels", "words")}
    columns = [Column("Piece"), Column("Points")]
    columns += [Column(f"Rich in these {key}", numeric=False) for key in has if has[key]]
    cells = []
    for row in rows:
        line = [number_cell(row["piece"]), number_cell(row["n"])]
        for key in (key for key in has if has[key]):
            found = row.get(key) or []
            counts = ", ".join(
                f"{words.short(e['name'], 28)} {e['n']:,}/{e['of']:,}" for e in found
            )
            line.append(Cell(said.named(found, 8) or "–", small=counts))
        cells.append(line)
    all_words = (
        f" among {tried:,} words held by five texts or more, English function words left out"
        if tried
        else ""
    )
    return Table(
        "about-pieces",
        "What is on each piece",
        columns,
        cells,
        note=f"More frequent on the piece than chance{all_words}: hypergeometric test, at most 1% "
        "false discoveries over all pieces (Benjamini and Hochberg), most surely so first. "
        "3/7: three of the seven points or texts that have it are on the piece.",
    )


def _texts(report: StrataReport, rows: list[dict[str, Any]]) -> Table:
    kind = (report.gate or {"kind": "entropy"})["kind"]
    labelled = any(e["label"] for row in rows for e in row["typical"])
    columns = [Column("Piece"), Column("Place", numeric=False), Column("Text", numeric=False)]
    columns += [Column("Label", numeric=False)] if labelled else []
    columns += [Column(said.SHARED[kind].capitalize()), Column("Next piece"), Column("Row")]
    cells = [
        [
            number_cell(row["piece"]),
            Cell(place),
            Cell(excerpt(e["text"] or "")),
            *([Cell(e["label"] or "")] if labelled else []),
            *(number_cell(v) for v in (round(e["value"], 4), e["other"], e["row"])),
        ]
        for row in rows
        for place in ("typical", "borderline")
        for e in row[place]
    ]
    return Table(
        "texts",
        "Most typical and most borderline texts",
        columns,
        cells,
        note=f"By {said.SHARED[kind]}, of the points measured.",
        find="Find a place or a word",
    )


def _choice(fit: dict[str, Any]) -> Table:
    columns = [
        Column("Pieces"), Column("Nats per unseen point"), Column("Behind the best"),
        Column("Standard error"), Column("Parameters"), Column("Dimensions", numeric=False),
    ]  # fmt: skip
    cells = [
        [
            Cell(f"{r['n_pieces']}{' (chosen)' if r['n_pieces'] == fit['n_pieces'] else ''}",
                 r["n_pieces"]),
            *(number_cell(r[key]) for key in ("nats", "behind", "standard_error", "parameters")),
            Cell(", ".join(map(str, r["dims"]))),
        ]
        for r in fit["choice"]
    ]  # fmt: skip
    return Table(
        "choice",
        "How the number of pieces was chosen",
        columns,
        cells,
        note="Fitted on one half of the points, scored on the other: the smallest number within "
        "one standard error of the shortest code.",
    )


def _labels(report: StrataReport) -> Section | None:
    found = report.labels
    if found is None:
        return None
    lede = (
        f"With the piece known, the best guess of the label is right {found['guess']:.0%} of the "
        f"time, and {found['base']:.0%} without"
    )
    section = Section("labels", "Pieces and labels", lede)
    hidden = len(found["labels"]) - plots.MOST_LABELS
    left = f" The {hidden:,} smallest labels are left out." if hidden > 0 else ""
    height = max(320, 30 * min(len(found["labels"]), plots.MOST_LABELS) + 90)
    section.blocks.append(
        Plot(
            "contingency",
            "Which labels are on which pieces",
            plots.contingency(found),
            note=(f"{said.labels(found)}{left}").strip(),
            choose="Show",
            height=height,
            buttons=True,
        )
    )
    if found.get("nmi") is not None:
        section.blocks.append(_agreement(found))
    return section


def _agreement(found: dict[str, Any]) -> Table:
    columns = [
        Column("Agreement", numeric=False), Column("Pieces"), Column("By chance"),
        Column("p-value"), Column("Plain k-means"),
    ]  # fmt: skip
    least = 1 / (1 + found["permutations"])
    rows = []
    for name, key, chance in (
        ("Normalised mutual information", "nmi", found["chance_nmi"]),
        ("Adjusted Rand index", "ari", 0.0),
    ):
        p = found[f"p_{key}"]
        rows.append(
            [
                Cell(name), number_cell(found[key]), number_cell(chance),
                Cell(f"{'≤ ' if p <= least * 1.001 else ''}{p:.2g}", p),
                number_cell(found["kmeans"][key]),
            ]
        )  # fmt: skip
    return Table(
        "agreement",
        "Agreement in figures",
        columns,
        rows,
        note=f"From {found['permutations']:,} random re-orderings of the labels; the p-value can "
        f"be no smaller than {least:.2g}. K-means with as many clusters, on "
        f"{found['kmeans']['n']:,} points.",
    )


def _sharing(report: StrataReport) -> Section | None:
    gate = report.gate
    if gate is None:
        return None
    k = len((report.pieces or {}).get("rows") or [0])
    note = said.ROUTE[gate["kind"]].format(k=k, most=f"{math.log(k):.2f}")
    titles = {
        "entropy": ("Gate entropy", "How far points are shared among pieces"),
        "margin": ("Margins", "How clearly each point is on its piece"),
        "distance": ("Distances", "How far points are from the piece"),
    }
    title, lede = titles[gate["kind"]]
    section = Section("sharing", title, lede)
    cells = [
        Plot("doubt", f"{title}: points", plots.sharing(gate), note=note, choose="Of", height=340)
    ]
    if gate["labels"]:
        drawn, all = len(gate["labels"]), gate.get("n_labels", 0)
        most = f"The {drawn} largest of {all:,} labels. " if all > drawn else ""
        cells.append(
            Plot(
                "doubt-by-label",
                f"{title}: labels",
                {"": plots.sharing_by_label(gate)},
                note=f"{most}Mean with its 95% interval; the dashed line is the mean of all.",
                height=max(340, 26 * drawn + 80),
            )
        )
    section.blocks.append(Grid(cells))
    return section


def _between(report: StrataReport) -> Section | None:
    if report.between is None:
        return None
    section = Section(
        "between", "Between pieces", "How far apart they lie, and how they are turned"
    )
    section.blocks.append(
        Grid(
            [
                Plot(
                    "angles",
                    "Between their directions",
                    plots.angles(report.between),
                    note="Smallest principal angle: 0° where two pieces share a direction, 90° "
                    "where none do. Chordal distance: of the sines of all angles, a direction that "
                    "only one piece has counting as 90°."
                    + (
                        " Dictionaries: Frobenius distance of the unit atoms, in the order and "
                        "with the signs that match best."
                        if report.between.get("dictionaries")
                        else ""
                    ),
                    choose="Show",
                    height=400,
                    buttons=True,
                ),
                Plot(
                    "centers",
                    "Between their middles",
                    {"": plots.centers(report.between)},
                    note="Euclidean distance of the centres, in the units of the points.",
                    height=400,
                ),
            ]
        )
    )
    return section


def _stability(report: StrataReport) -> Section | None:
    found = report.stability
    if found is None:
        return None
    lede = f"Fitted again on {found['n']:,} points with other seeds, and on halves of them"
    section = Section("stability", "Stability", lede)
    section.blocks.append(
        Grid(
            [
                Plot(
                    "returns",
                    "How well each piece comes back",
                    {"": plots.returns(found, STABLE, PATTERN)},
                    note="Jaccard index with the most similar piece found on half of the points, "
                    f"mean of {len(found['halves']) - 1} halves (Hennig 2007). From {STABLE} up "
                    f"(dashed) a piece is stable; below {PATTERN} (dotted) do not trust it.",
                    height=380,
                ),
                Plot(
                    "refits",
                    "Agreement of every two fits",
                    plots.refits(found),
                    note="Adjusted Rand index on the points that both fits saw: 1 the same pieces, "
                    "0 as by chance.",
                    choose="Fits with",
                    height=380,
                    buttons=True,
                ),
            ]
        )
    )
    return section


def _verdict(report: StrataReport) -> Section | None:
    found = report.verdict
    if found is None:
        return None
    section = Section("verdict", "Verdict of the test", found["verdict"] or "")
    columns = [
        Column("Single model", numeric=False), Column("Nats saved by pieces"),
        Column("Standard error"), Column("Its parameters"),
    ]  # fmt: skip
    rows = [
        [Cell(name), number_cell(gain), number_cell(error), number_cell(found["parameters"][name])]
        for name, (gain, error) in found["gains"].items()
    ]
    counts = found["parameters"].get("pieces")
    section.blocks.append(
        Table(
            "gains",
            "Unseen points described by pieces, and by one model",
            columns,
            rows,
            note=f"{words.count(found['n_pieces'], 'piece')} found on one half of "
            f"{found['n']:,} points and scored on the other"
            + (f", with {counts:,} parameters" if counts else "")
            + ". Nats a point; below zero the single model is the better description.",
        )
    )
    return section
