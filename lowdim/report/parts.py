"""What is on the page: each section of the report as a list of tables and plots."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from lowdim.report import plots, plots_model, words
from lowdim.report.blocks import Cell, Column, Grid, Plot, Section, Table, excerpt, number_cell
from lowdim.report.document import Report
from lowdim.report.parts_deep import deep_section

COMMON = {"value", "n", "low", "high", "level", "exact", "seed", "seconds", "notes"}
"""What every estimate has; the other numbers are a method's own."""


def sections(report: Report) -> list[Section]:
    """The parts of the page that this report has anything for, in order."""
    found = (_embedding(report), _layers(report), deep_section(report), _weights(report))
    return [section for section in found if section is not None]


def _embedding(report: Report) -> Section | None:
    """The points: how many dimensions, how evenly used, what a smaller index costs."""
    points = report.embedding
    if points is None:
        return None
    section = Section(
        "embedding",
        "Embedding",
        f"{points.get('name', 'points')}: {words.count(points['n'], 'row')} "
        f"of {words.count(points['dim'], 'dimension')}"
        + (f", {points['duplicates']:,} of them repeats" if points.get("duplicates") else ""),
    )
    section.blocks.append(_estimates(points, report.methods))
    small = []
    if points.get("spectrum"):
        small.append(
            Plot(
                "energy",
                "How the variance is spread over directions",
                {"": plots.cumulative_energy([points["spectrum"]], [""])},
                note="Cumulative share of variance, largest directions first; dotted lines at 90% "
                "and 99%.",
            )
        )
    if points.get("local_dimension"):
        marks = {"TwoNN": "geometry/two-nn", "MLE": "geometry/mle"}
        small.append(
            Plot(
                "local-dimension",
                "Local dimension",
                {
                    "": plots.histogram(
                        points["local_dimension"],
                        "dimension around a point",
                        marks={name: words.value(points, id) for name, id in marks.items()},
                    )
                },
                note="One value for each point, from its nearest neighbours; dashed lines are the "
                "estimates for all points together.",
                method="geometry/mle",
            )
        )
    if points.get("hubness"):
        axis = "how often a point is among others' neighbours"
        small.append(
            Plot(
                "hubness",
                "Hubness",
                {"": plots.histogram(points["hubness"], axis, marks={})},
                note="A long tail means that a few points are everybody's neighbours.",
                method="geometry/hubness",
            )
        )
    if (labels := points.get("labels")) and labels["rows"]:
        small.append(
            Plot(
                "labels",
                "Dimension of each label",
                {"": plots.label_dimension(labels)},
                note=f"{words.chance(labels)}."
                + (f" Test: {labels['method']}." if labels.get("method") else ""),
                height=max(320, 26 * len(labels["rows"]) + 80),
            )
        )
    if small:
        section.blocks.append(Grid(small))
    if (table := points.get("size_recall")) and table["rows"]:
        section.blocks.extend([_size_recall_plot(table), _size_recall_table(table)])
    if points.get("map"):
        energy = points["map"].get("energy")
        share = "an unknown share" if energy is None else f"{energy:.1%}"
        section.blocks.append(
            Plot(
                "map",
                "Map of the points",
                plots.point_map(points["map"]),
                note=f"{len(points['map']['x']):,} points on their two leading principal "
                f"directions, which show {share} of the variance: "
                "points far apart here are far apart, points close here need not be close.",
                choose="Colour by",
                height=520,
            )
        )
    if points.get("near_duplicates"):
        section.blocks.append(_near_duplicates(points["near_duplicates"]))
    return section


def _estimates(points: dict[str, Any], methods: dict[str, Any]) -> Table:
    rows = []
    for id in words.ordered(points["estimates"]):
        estimate = points["estimates"][id]
        notes = [*estimate.get("notes", ())]
        notes += ["approximate"] if estimate.get("exact") is False else []
        more = (
            f"{f.replace('_', ' ')} {words.number(estimate.get(f))}"
            for f in own_fields([points], id)
        )
        notes += more
        said = [methods.get(id, {}).get("question", ""), f"({'; '.join(notes)})" if notes else ""]
        rows.append(
            [
                Cell(words.label(id), small=" ".join(said), method=id),
                number_cell(estimate.get("value")),
                Cell(words.interval(estimate), estimate.get("low")),
                number_cell(estimate.get("n")),
            ]
        )
    columns = [
        Column("Measure", numeric=False),
        Column("Value"),
        Column("Interval"),
        Column("Rows"),
    ]
    return Table(
        "estimates",
        "All measures of the embedding",
        columns,
        rows,
        note="Point at a measure for its method, its cost and its paper. Intervals cover "
        "sampling error only.",
    )


def _size_recall_plot(table: dict[str, Any]) -> Plot:
    return Plot(
        "size-recall",
        "What a smaller vector costs",
        {"": plots.size_recall(table)},
        note=f"Recall of the true {table['k']} nearest by {table.get('metric', 'distance')} among "
        f"{table['n_reference']:,} rows, for {table['n_queries']:,} held-out queries. Each curve "
        "is PCA to fewer dimensions in one number format.",
        height=400,
    )


def _size_recall_table(table: dict[str, Any]) -> Table:
    columns = [
        Column("Format", numeric=False),
        Column("Dimensions"),
        Column("Bytes per vector"),
        Column("Times smaller"),
        Column(f"Recall@{table['k']}"),
        Column("Interval"),
    ]
    rows = [
        [
            Cell(row["format"]),
            *(number_cell(row[key]) for key in ("dims", "bytes", "ratio", "recall")),
            Cell(words.interval(row), row.get("low")),
        ]
        for row in table["rows"]
    ]
    return Table("size-recall-table", "Size and recall in figures", columns, rows)


def _near_duplicates(pairs: list[dict[str, Any]]) -> Table:
    columns = [Column("Distance"), Column("Row"), Column("Text", numeric=False)]
    columns += [Column("Row"), Column("Text", numeric=False)]
    rows = [
        [
            number_cell(pair["distance"]),
            *(
                cell
                for side in "ab"
                for cell in (number_cell(pair[side]), Cell(excerpt(pair.get(f"text_{side}") or "")))
            ),
        ]
        for pair in pairs
    ]
    return Table("near-duplicates", "Nearly the same point", columns, rows, note="Closest first.")


def _layers(report: Report) -> Section | None:
    """Every layer: curves through the depth, and which layers hold the same."""
    layers = report.layers
    if not layers:
        return None
    lede = f"{words.count(len(layers), 'layer')}, the embedding output first; plots run with depth"
    section = Section("layers", "Layers", lede)
    measures = words.ordered(id for layer in layers for id in layer["estimates"])
    curves = [
        Plot(
            f"layer-{place}",
            words.label(id),
            {"": plots_model.layer_curve(layers, id)},
            method=id,
            height=180,
        )
        for place, id in enumerate(measures)
    ]
    section.blocks.append(Grid(curves, size=270))
    wide = []
    if report.cka:
        wide.append(
            Plot(
                "cka",
                "Which layers hold the same",
                {"": plots_model.cka(report.cka, layers)},
                note="Debiased linear CKA: 1 is the same up to rotation and scale, 0 unrelated.",
                method="compare/cka",
                height=400,
            )
        )
    spectra = [layer for layer in layers if layer.get("spectrum")]
    if spectra:
        figure = plots.cumulative_energy(
            [layer["spectrum"] for layer in spectra], [layer["name"] for layer in spectra]
        )
        wide.append(
            Plot(
                "layer-energy",
                "Variance over directions, layer by layer",
                {"": figure},
                note="A curve for each layer, from the first (pale) to the last (strong).",
                height=400,
            )
        )
    if wide:
        section.blocks.append(Grid(wide))
    rows = [
        [
            Cell(layer["name"], layer["index"]),
            *(
                number_cell(words.value(layer, id), words.interval(layer["estimates"].get(id, {})))
                for id in measures
            ),
        ]
        for layer in layers
    ]
    columns = [Column("Layer", numeric=False), *(Column(words.label(id), id) for id in measures)]
    section.blocks.append(Table("layers-table", "Layers in figures", columns, rows))
    return section


def _weights(report: Report) -> Section | None:
    """Every weight matrix: a measure across the model, one spectrum, all figures."""
    weights = report.weights
    if not weights:
        return None
    lede = words.count(len(weights), "matrix", "matrices")
    section = Section("weights", "Weights", lede)
    measures = words.ordered(id for w in weights for id in w["estimates"])
    first = sorted(measures, key=lambda id: id != "spectra/rank-99")  # what speaks for itself
    if measures:
        section.blocks.append(
            Plot(
                "weight-measures",
                "One measure across the model",
                {words.label(id): plots_model.weight_scatter(weights, id) for id in first},
                choose="Measure",
                height=400,
            )
        )
    spectra = {w["name"]: plots_model.weight_spectrum(w) for w in weights if w.get("spectrum")}
    spectrum = Plot(
        "spectrum",
        "Spectrum of one matrix",
        spectra,
        note="Choose a matrix here, or by its name in the table below.",
        choose="Matrix",
        height=380,
    )
    if spectra:
        section.blocks.append(spectrum)
    fields = [(id, name) for id in measures for name in ("value", *own_fields(weights, id))]
    columns = [Column("Matrix", numeric=False), Column("Kind", numeric=False)]
    columns += [Column("Rows"), Column("Columns")]
    columns += [Column(words.label(id, name), id) for id, name in fields]
    rows = [
        [
            Cell(w["name"], opens=spectrum.keys.get(w["name"])),
            Cell(w.get("kind") or ""),
            *(number_cell(w[side]) for side in ("rows", "cols")),
            *(
                number_cell(
                    words.value(w, id, name),
                    words.interval(w["estimates"].get(id, {})) if name == "value" else "",
                )
                for id, name in fields
            ),
        ]
        for w in weights
    ]
    section.blocks.append(
        Table("weights-table", "Matrices in figures", columns, rows, find="Find a matrix or a kind")
    )
    return section


def own_fields(entries: Iterable[dict[str, Any]], id: str) -> list[str]:
    """A method's own fields that are single numbers."""
    own = {
        name: None
        for entry in entries
        for name, v in entry["estimates"].get(id, {}).items()
        if name not in COMMON and isinstance(v, (int, float)) and not isinstance(v, bool)
    }
    return list(own)


def ladder(points: dict[str, Any] | None) -> list[dict[str, Any]]:
    """All measures that are counts of dimensions, as bars on one scale up to the full width."""
    if points is None:
        return []
    dim = points["dim"]
    rungs: list[dict[str, Any]] = [
        {"label": "Given", "text": f"{dim:,}", "share": 1.0, "method": None}
    ]
    for id in words.DIMENSIONS:
        if (found := words.value(points, id)) is not None:
            estimate = points["estimates"][id]
            rung = {"label": words.label(id), "method": id, "text": words.number(found)}
            rung |= {"share": min(found / dim, 1.0), "interval": words.interval(estimate)}
            rungs.append(rung)
    return rungs if len(rungs) > 1 else []
