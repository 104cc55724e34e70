"""Write the newest figures of ``results/`` into the README and the docs, between their marks.

python -m benchmarks.table
"""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results"


QUALITY = (
    "strata_planted",
    "strata_domains",
    "stratification",
    "adapt_quality",
    "index_compatible",
    "index_storage",
    "index_methods",
    "index_drift",
    "index_frontier",
)
"""Benchmarks of quality: their tables stand in the docs of their room, not among those of speed."""


def newest() -> list[dict[str, Any]]:
    """The last record of every result file that keeps a list of them."""
    found = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))]
    return [records[-1] for records in found]


def last(name: str) -> dict[str, Any] | None:
    """The last record of one benchmark, if it was ever run."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text())[-1] if path.exists() else None


def line(row: dict[str, Any]) -> str:
    """One line of a Markdown table."""
    met = {True: "yes", False: "**no**", None: ""}[row["met"]]
    figure = f"{row['figure']:.3g}" if abs(row["figure"]) < 1000 else f"{row['figure']:,.0f}"
    what = row["what"].strip().replace(" | ", ", ")
    return f"| {what} | {figure} {row['unit']} | {row['bar']} | {met} |"


HEAD = "| what | figure | bar | met |\n|---|---:|---:|---|\n"


def short() -> str:
    """Of each benchmark the first figure that has a bar, and every one that misses its bar.

    What papers claim is not a bar of ours: it stands with the study that tried it.
    """
    rows = []
    for record in newest():
        barred, heading = [], ""
        for row in record["rows"]:
            if row["what"].startswith(" "):  # belongs to the row above that is not indented
                row = row | {"what": f"{heading}, {row['what'].strip()}"}
            else:
                heading = row["what"]
            barred += [row] if row["bar"] and "claim: " not in row["what"] else []
        rows += [row for i, row in enumerate(barred) if i == 0 or not row["met"]]
    return HEAD + "\n".join(map(line, rows))


def full() -> str:
    """A section a benchmark, with its command."""
    sections = []
    for record in newest():
        if record["name"] in QUALITY:
            continue
        settings = ", ".join(f"{k} = {v}" for k, v in record["settings"].items())
        sections.append(
            f"## {record['name']}\n\n`{record['command']}`"
            + (f" · {settings}" if settings else "")
            + f" · {record['date'][:10]}\n\n{HEAD}"
            + "\n".join(map(line, record["rows"]))
        )
    return "\n\n".join(sections)


CLUSTERS = ((10**9, 64), (10**10, 1024))
"""Points and cores to extrapolate to."""


def scale() -> str:
    """What the largest run of benchmarks.scale took, and by its formula larger ones would."""
    path = RESULTS / "scale.json"
    if not path.exists():
        return "Run `python -m benchmarks.scale`, then `python -m benchmarks.table`."
    record = json.loads(path.read_text())[-1]
    rows, settings = record["rows"], record["settings"]
    n, cores = settings["n"], record["environment"]["cores"]
    spectra, dimension = [  # the row after each heading of the largest n
        after["figure"] for row, after in pairwise(rows) if row["what"].startswith(f"n = {n:,}:")
    ]
    lines = [
        f"`{record['command']}`: n = {n:,} x {settings['columns']}, {settings['reference']:,} "
        f"references, c = {cores}: a = {spectra:.3g} us, b = {dimension:.3g} us.\n",
        "| points | cores | hours | disks together |\n|---:|---:|---:|---:|",
    ]
    for points, many in CLUSTERS:
        hours = points * (spectra + dimension) * cores / (3.6e9 * many)
        rate = 2 * 4 * settings["columns"] * points / (3600 * hours) / 1e9  # read once for each
        lines.append(f"| {points:.0e} | {many:,} | {hours:.3g} | {rate:.3g} GB/s |")
    return "\n".join(lines)


def pivot(record: dict[str, Any], figure: str, digits: int) -> str:
    """Rows named ``a | b | figure`` as a table of a by b."""
    cells: dict[str, dict[str, float]] = {}
    for row in record["rows"]:
        name, column, what = row["what"].split(" | ")
        if what == figure:
            cells.setdefault(name, {})[column] = row["figure"]
    columns = list(dict.fromkeys(c for row in cells.values() for c in row))
    lines = [f"| | {' | '.join(columns)} |", "|---|" + "---:|" * len(columns)]
    for name, row in cells.items():
        shown = (f"{row[c]:.{digits}f}" if c in row else "" for c in columns)
        lines.append(f"| {name} | {' | '.join(shown)} |")
    return "\n".join(lines)


def headed(record: dict[str, Any], *tables: str) -> str:
    """Tables under the command that printed them."""
    return f"`{record['command']}`, {record['date'][:10]}\n\n" + "\n\n".join(tables)


def planted() -> str:
    """Known pieces: accuracy, error of the dimension and seconds of every method."""
    record = last("strata_planted")
    if record is None:
        return "Run `python -m benchmarks.strata_planted`, then `python -m benchmarks.table`."
    parts = [("accuracy", 3), ("dimension error", 2), ("seconds", 1)]
    return headed(record, *(f"**{name}**\n\n{pivot(record, name, k)}" for name, k in parts))


def domains() -> str:
    """Real text: how far pieces follow domains."""
    record = last("strata_domains")
    if record is None:
        return "Run `python -m benchmarks.strata_domains`, then `python -m benchmarks.table`."
    entropy = pivot(record, "entropy and mixed neighbours, Spearman", 2)
    return headed(
        record, f"**NMI with the domains**\n\n{pivot(record, 'NMI', 2)}",
        f"**Rank correlation of gate entropy with mixed neighbours**\n\n{entropy}",
        f"**Gride dimension of the domains**\n\n{extremes(record)}",
    )  # fmt: skip


def extremes(record: dict[str, Any]) -> str:
    """The domains of lowest and highest dimension of each layer, with half their intervals."""
    lines, cells = ["| | lowest | highest |", "|---|---|---|"], {}
    for row in record["rows"]:
        name, domain, what = row["what"].split(" | ")
        if "dimension of a domain" in what:
            cells.setdefault(name, []).append(f"{domain} {row['figure']:.1f}")
        elif what == "its interval, half":
            cells[name][-1] += f" ± {row['figure']:.1f}"
    lines += [f"| {name} | {' | '.join(pair)} |" for name, pair in cells.items()]
    return "\n".join(lines)


def tested() -> str:
    """Size and power of the test of stratification."""
    record = last("stratification")
    if record is None:
        return "Run `python -m benchmarks.stratification`, then `python -m benchmarks.table`."
    figures = {row["what"].strip(): row["figure"] for row in record["rows"]}
    sizes = [row for row in record["rows"] if row["what"].startswith("size: ")]
    cells: dict[str, dict[str, str]] = {}
    for what, figure in figures.items():
        if what.startswith("power: "):
            cell = what.removeprefix("power: ")
            place, n = cell.rsplit(", n ", 1)
            ways = "/".join(f"{figures[f'by {way}: {cell}']:.2g}" for way in ("dimension", "a gap"))
            cells.setdefault(place, {})[n] = f"{figure:.2g} ({ways})"
    columns = list(next(iter(cells.values())))
    power = [f"| power (by dimension/by a gap) | {' | '.join(f'n = {n}' for n in columns)} |"]
    power += ["|---|" + "---:|" * len(columns)]
    power += [
        f"| {place} | {' | '.join(row[n] for n in columns)} |" for place, row in cells.items()
    ]
    return headed(record, HEAD + "\n".join(map(line, sizes)), "\n".join(power))


def adapted() -> str:
    """Ways of adapting: a table a task, the best score first."""
    record = last("adapt_quality")
    if record is None:
        return "Run `python -m benchmarks.adapt_quality`, then `python -m benchmarks.table`."
    tasks: dict[str, dict[str, dict[str, float]]] = {}
    for row in record["rows"]:
        method, task, what = row["what"].split(" | ")
        tasks.setdefault(task, {}).setdefault(method, {})[what] = row["figure"]
    parts = []
    for task, methods in tasks.items():
        (score,) = methods.pop("untrained").keys() & {"accuracy", "perplexity"}
        lines = [f"| {task} | trained | {score} | minus lora | step size |", "|---|" + "---:|" * 4]
        sign = 1 if score == "perplexity" else -1
        for name, row in sorted(methods.items(), key=lambda item: sign * item[1][score]):
            gap = "its interval, half, minus lora"
            less = f"{row['minus lora']:+.3f} ± {row[gap]:.3f}" if gap in row else ""
            lines.append(
                f"| {name} | {row['trained']:,.0f} | {row[score]:.3f} ± "
                f"{row['its interval, half']:.3f} | {less} | {row['step size']:g} |"
            )
        parts.append("\n".join(lines))
    return headed(record, *parts)


def upgraded() -> str:
    """Pairs of encoders: recall of the new one's results from old rows, by old and new queries."""
    record = last("index_compatible")
    if record is None:
        return "Run `python -m benchmarks.index_compatible`, then `python -m benchmarks.table`."
    pairs: dict[str, dict[str, tuple[str, float]]] = {}
    for row in record["rows"]:
        pair, what = row["what"].split(": ")
        name, _, way = what.partition(", ")
        pairs.setdefault(pair, {}).setdefault(name, (way, row["figure"]))
    lines = [
        "| old -> new | old queries | new queries, mapped | the map | rows mapped instead |",
        "|---|---:|---:|---|---:|",
    ]
    for pair, found in pairs.items():
        way, recall = found["new/old"]
        lines.append(
            f"| {pair} | {found['old/old'][1]:.3f} | {recall:.3f} | {way} | "
            f"{found['new/moved'][1]:.3f} |"
        )
    return headed(record, "\n".join(lines))


def methods() -> str:
    """Recall of every reduction by dims, of every code by bytes, and what codes store once."""
    record = last("index_methods")
    if record is None:
        return "Run `python -m benchmarks.index_methods`, then `python -m benchmarks.table`."
    parts = [
        ("recall, definitions", 3, "Recall@10 by dims kept in float32, asked with definitions"),
        ("recall, words", 3, "The same, asked with single words"),
        ("recall", 3, "Recall@10 by bytes a vector, asked with definitions"),
        ("stored once", 2, "MB stored once for that: map and codebooks"),
    ]
    return headed(record, *(f"**{said}**\n\n{pivot(record, what, k)}" for what, k, said in parts))


def stored() -> str:
    """The storage study: recall by reduction and number format, a table a set, and its claims."""
    record = last("index_storage")
    if record is None:
        return "Run `python -m benchmarks.index_storage`, then `python -m benchmarks.table`."
    sets: dict[str, list[dict[str, Any]]] = {}
    claims = []
    for row in record["rows"]:
        name, what = row["what"].split(" | ", 1)
        if what.startswith("claim: "):
            claims.append(row)
        else:
            sets.setdefault(name, []).append(row | {"what": what})
    tables = [f"**{n}**\n\n{pivot({'rows': r}, 'recall', 3)}" for n, r in sets.items()]
    return headed(record, HEAD + "\n".join(map(line, claims)), *tables)


def family(contender: str) -> str:
    """Which of the lines of the frontier a contender belongs to."""
    if contender.startswith(("lowdim", "sentence-transformers")):
        return contender.split(":")[0].split(" ")[0]
    if "OPQ" in contender:
        return "faiss OPQ"
    return "faiss PQ" if "PQ" in contender else "faiss SQ, PCA"


def frontier() -> dict[str, dict[str, dict[str, float]]]:
    """Set -> line of the frontier -> share of float32 -> the best recall there."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    record = last("index_frontier") or {"rows": []}
    for row in record["rows"]:
        name, share, contender, what = row["what"].split(" | ")
        if what == "recall":
            line_ = found.setdefault(name, {}).setdefault(family(contender), {})
            line_[share] = max(line_.get(share, 0.0), row["figure"])
    return found


def dominated() -> str:
    """The frontier against peers: recall at each size, and where a peer found more."""
    record = last("index_frontier")
    if record is None:
        return "Run `python -m benchmarks.index_frontier`, then `python -m benchmarks.table`."
    tables = []
    for name, lines_ in frontier().items():
        shares = list(lines_["lowdim"])
        rows = [f"| {name} | {' | '.join(shares)} |", "|---|" + "---:|" * len(shares)]
        for contender, recalls in lines_.items():
            best = {s: max(other.get(s, 0.0) for other in lines_.values()) for s in shares}
            cells = []
            for s in shares:
                shown = f"{recalls[s]:.3f}" if s in recalls else ""
                cells.append(f"**{shown}**" if shown and recalls[s] == best[s] else shown)
            rows.append(f"| {contender} | {' | '.join(cells)} |")
        tables.append("\n".join(rows))
    bars = [row for row in record["rows"] if row["bar"]]
    missed = [row for row in bars if not row["met"]]
    said = f"{len(bars) - len(missed)} of {len(bars)} comparisons hold within their interval."
    if missed:
        said += "\n\n" + HEAD + "\n".join(map(line, missed))
    return headed(record, *tables, said)


def filled(text: str, name: str, content: str) -> str:
    """The page with this content between ``<!-- name -->`` and ``<!-- /name -->``."""
    return re.sub(
        rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)",
        lambda match: f"{match[1]}{content}\n{match[2]}",
        text,
        flags=re.DOTALL,
    )


def pages() -> dict[Path, str]:
    """Each page as it should be."""
    readme, docs = ROOT / "README.md", ROOT / "docs"
    contents = [
        (readme, "speed", short()),
        (docs / "speed.md", "tables", full()),
        (docs / "scale.md", "scale", scale()),
        (docs / "strata.md", "planted", planted()),
        (docs / "strata.md", "domains", domains()),
        (docs / "strata.md", "tested", tested()),
        (docs / "adapt.md", "quality", adapted()),
        (docs / "vector-index.md", "compatible", upgraded()),
        (docs / "vector-index.md", "dominated", dominated()),
        (docs / "storage.md", "stored", stored()),
        (docs / "codecs.md", "methods", methods()),
    ]
    texts: dict[Path, str] = {}
    for page, name, content in contents:
        texts[page] = filled(texts.get(page) or page.read_text(encoding="utf-8"), name, content)
    return texts


if __name__ == "__main__":
    for page, text in pages().items():
        page.write_text(text, encoding="utf-8")
