"""The page's section on a deep scan: each plot beside what a paper says and what was found."""

from __future__ import annotations

from typing import Any

from lowdim.report import plots_deep, words
from lowdim.report.blocks import (
    Block,
    Cell,
    Claim,
    Column,
    Finding,
    Plot,
    Section,
    Table,
    number_cell,
)
from lowdim.report.document import Report

POINT = {"mean": "the mean of its tokens", "last": "its last token", "tokens": "each token"}
LINEAR = ("geometry/participation-ratio", "geometry/rank-99")


def deep_section(report: Report) -> Section | None:
    """All parts that a deep scan made."""
    deep = report.deep
    if not deep:
        return None
    claims = deep.get("claims") or []
    lede = (
        f"{verdicts}; the rule of each verdict stands beside its figures"
        if (verdicts := words.verdicts(deep))
        else "Measures that are left out of an ordinary scan"
    )
    section = Section("deep", "Deep", lede)
    for part, draw in (
        ("positional", _positional),
        ("profile", _profile),
        ("tokens", _tokens),
        ("compression", _compression),
        ("local_rank", _local_rank),
    ):
        if found := deep.get(part):
            own = [
                Claim(c["paper"], words.address(c["link"]), c["claim"], c["found"], c["agrees"])
                for c in claims
                if c["part"] == part
            ]
            section.blocks.append(Finding(draw(found), own))
    if (points := deep.get("points")) and points["estimates"]:
        section.blocks.append(_points(points))
    return section if section.blocks else None


def _positional(rows: list[dict[str, Any]]) -> list[Plot]:
    size = f"{rows[0]['contexts']:,} contexts of {rows[0]['length']} tokens"

    def take(key: str) -> list[Any]:
        return [row.get(key) for row in rows]

    return [
        Plot(
            "positions",
            "Position, context and the rest",
            {
                "": plots_deep.curves(
                    rows,
                    {
                        "position": take("position_share"),
                        "context": take("context_share"),
                        "chance for position": take("position_null"),
                    },
                    title="share of variance",
                    percent=True,
                )
            },
            note=f"Of the states of {size}; the rest belongs to the single token.",
            method="geometry/positional",
            height=260,
        ),
        Plot(
            "smooth",
            "How smooth is the curve of positions",
            {
                "": plots_deep.curves(
                    rows,
                    {
                        "as they come": take("low_frequency"),
                        "control: random order": take("low_frequency_shuffled"),
                    },
                    title="low-frequency share",
                    percent=True,
                )
            },
            height=260,
        ),
        Plot(
            "incoherent",
            "Positions against contexts",
            {
                "": plots_deep.curves(
                    rows,
                    {
                        "largest |cosine|": take("incoherence"),
                        "chance: random directions": take("incoherence_null"),
                        "contexts of one label": take("cluster"),
                    },
                    title="cosine",
                )
            },
            note="A line for contexts of one label: their mean cosine less that of two labels.",
            height=260,
        ),
        Plot(
            "token-anisotropy",
            "Anisotropy of tokens",
            {
                "": plots_deep.curves(
                    rows,
                    {
                        "strongest direction": take("anisotropy"),
                        "chance: isotropic": take("anisotropy_null"),
                    },
                    title="share of variance",
                    percent=True,
                )
            },
            method="geometry/anisotropy",
            height=260,
        ),
    ]


def _profile(found: dict[str, Any]) -> list[Plot]:
    rows, phase = found["rows"], found["phase"]
    control = (found.get("shuffled") or {}).get("rows")

    def both(id: str) -> dict[str, Any]:
        series = {"as written": [row["estimates"].get(id) for row in rows]}
        if control:
            series["words shuffled"] = [row["estimates"].get(id) for row in control]
        return series

    by = found["by"]
    others = [id for id in words.ordered(rows[0]["estimates"]) if id not in (by, *LINEAR)]
    plots = [
        Plot(
            "profile",
            "Dimension through the layers",
            {
                words.label(id): plots_deep.curves(
                    rows,
                    both(id),
                    title=words.label(id),
                    span=(phase["onset"], phase["end"]) if id == by else None,
                )
                for id in (by, *LINEAR, *others)
            },
            note=f"{found['n']:,} rows, of a text {POINT[found['pooling']]}; shaded where "
            "the first measure is above halfway to its peak.",
            method="geometry/dimension-profile",
            choose="Measure",
            height=300,
        ),
        Plot(
            "imbalance",
            "Who predicts whose neighbours",
            {
                "": plots_deep.curves(
                    rows,
                    {
                        "layer to last": [row["to_last"] for row in rows],
                        "last to layer": [row["from_last"] for row in rows],
                        "layer to first": [row["to_first"] for row in rows],
                        "first to layer": [row["from_first"] for row in rows],
                    },
                    title="information imbalance",
                )
            },
            note="Zero: every neighbour is foretold; one: none. Of two directions the lower one "
            "starts from the side that holds more.",
            method="compare/information-imbalance",
            height=300,
        ),
        Plot(
            "kept",
            "Neighbours kept from the layer before",
            {
                "": plots_deep.curves(
                    rows,
                    {"as written": [row["overlap"] for row in rows]}
                    | ({"words shuffled": [row["overlap"] for row in control]} if control else {}),
                    title="overlap of 10 nearest",
                )
            },
            method="compare/neighborhood-overlap",
            height=260,
        ),
    ]
    return plots


def _tokens(found: dict[str, Any]) -> list[Plot]:
    rows = found["rows"]

    def both(real: str, control: str) -> dict[str, Any]:
        return {
            "as written": [row[real] for row in rows],
            "words shuffled": [row[control] for row in rows],
        }

    plots = [
        Plot(
            "token-dimension",
            "Dimension of a prompt's tokens",
            {"": plots_deep.curves(rows, both("dimension", "shuffled"), title="TwoNN dimension")},
            note=f"Mean over {found['prompts']} prompts of {found['length']} tokens, with its "
            "interval.",
            method="geometry/token-geometry",
            height=280,
        ),
        Plot(
            "token-cosine",
            "Cosine and kept neighbours of tokens",
            {
                "mean cosine": plots_deep.curves(
                    rows, both("cosine", "cosine_shuffled"), title="mean cosine"
                ),
                "neighbours kept": plots_deep.curves(
                    rows, both("overlap", "overlap_shuffled"), title="overlap of 10 nearest"
                ),
            },
            choose="Show",
            height=280,
        ),
    ]
    if found.get("loss"):
        loss = found["loss"]
        plots.append(
            Plot(
                "token-loss",
                "Does the dimension go with the loss",
                {
                    "": plots_deep.curves(
                        rows,
                        {"correlation": [row["correlation"] for row in rows]},
                        title="correlation over prompts",
                        zero=True,
                    )
                },
                note=f"Mean loss of a prompt {words.number(loss['value'])} "
                f"{words.interval(loss)} nats a token.",
                height=280,
            )
        )
    return plots


def _compression(found: dict[str, Any]) -> list[Plot]:
    ids = list(found["dimensions"])
    return [
        Plot(
            "compression",
            "Dimension of a corpus against its bits",
            {words.label(id): plots_deep.corpora(found, id) for id in ids},
            note=f"Corpora are the labels, {found['n_each']:,} texts each.",
            choose="Measure",
            height=340,
        )
    ]


def _local_rank(found: dict[str, Any]) -> list[Plot]:
    rows = found["rows"]
    sketch = " random" if found["tried"] < found["dim"] else ""
    return [
        Plot(
            "local-rank",
            "Directions of a token's embedding that still arrive",
            {"": plots_deep.curves(rows, {"rank": [row["rank"] for row in rows]}, title="rank")},
            note=f"Of {found['tried']}{sketch} directions, with more than {found['eps']} of the "
            f"strongest; mean over {found['contexts']} contexts.",
            method="geometry/local-rank",
            height=280,
        )
    ]


def _points(points: dict[str, Any]) -> Block:
    rows = [
        [
            Cell(words.label(id), small="; ".join(e.get("notes", ())), method=id),
            number_cell(e.get("value")),
            Cell(words.interval(e), e.get("low")),
            number_cell(e.get("n")),
        ]
        for id in words.ordered(points["estimates"])
        for e in (points["estimates"][id],)
    ]
    columns = [
        Column("Measure", numeric=False),
        Column("Value"),
        Column("Interval"),
        Column("Rows"),
    ]
    return Table(
        "deep-points",
        "Deep measures of the embedding",
        columns,
        rows,
        note=f"On a uniform sample of {points['n']:,} rows.",
    )
