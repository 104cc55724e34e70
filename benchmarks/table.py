"""Write the newest figures of ``results/`` into the README and docs/speed.md, between their marks.

python -m benchmarks.table
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results"


def newest() -> list[dict[str, Any]]:
    """The last record of every result file that keeps a list of them."""
    found = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))]
    return [records[-1] for records in found]


def line(row: dict[str, Any]) -> str:
    """One line of a Markdown table."""
    met = {True: "yes", False: "**no**", None: ""}[row["met"]]
    figure = f"{row['figure']:.3g}" if abs(row["figure"]) < 1000 else f"{row['figure']:,.0f}"
    return f"| {row['what'].strip()} | {figure} {row['unit']} | {row['bar']} | {met} |"


HEAD = "| what | figure | bar | met |\n|---|---:|---:|---|\n"


def short() -> str:
    """Every measured time, ratio and size that has a bar, in one table; checks of values not."""
    rows = [row for record in newest() for row in record["rows"] if row["bar"] and row["unit"]]
    return HEAD + "\n".join(map(line, rows))


def full() -> str:
    """A section a benchmark, with its command."""
    sections = []
    for record in newest():
        settings = ", ".join(f"{k} = {v}" for k, v in record["settings"].items())
        sections.append(
            f"## {record['name']}\n\n`{record['command']}`"
            + (f" · {settings}" if settings else "")
            + f" · {record['date'][:10]}\n\n{HEAD}"
            + "\n".join(map(line, record["rows"]))
        )
    return "\n\n".join(sections)


def filled(page: Path, name: str, content: str) -> str:
    """The page with this content between ``<!-- name -->`` and ``<!-- /name -->``."""
    text = page.read_text(encoding="utf-8")
    return re.sub(
        rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)",
        lambda match: f"{match[1]}{content}\n{match[2]}",
        text,
        flags=re.DOTALL,
    )


def pages() -> dict[Path, str]:
    """Each page as it should be."""
    readme, speed = ROOT / "README.md", ROOT / "docs" / "speed.md"
    return {readme: filled(readme, "speed", short()), speed: filled(speed, "tables", full())}


if __name__ == "__main__":
    for page, text in pages().items():
        page.write_text(text, encoding="utf-8")
