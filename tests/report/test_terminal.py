"""The summary fits a screen, says the figures whole, and reads nothing as markup."""

from __future__ import annotations

import dataclasses
import re

import pytest
from rich.console import Console

from lowdim.report.document import Report
from lowdim.report.terminal import sparkline
from tests.report.sample import ADVICE, sample_report


def shown(report: Report, width: int = 80) -> str:
    console = Console(width=width, color_system=None)
    with console.capture() as captured:
        console.print(report)
    return captured.get()


def worst() -> Report:
    """As much of everything as there can be."""
    report = sample_report(n_weights=210, n_layers=31)
    long = "384 -> 96 dims in int8: 16x smaller, recall@10 0.981 on 500 held-out queries, "
    report.advice = [ADVICE[0] | {"title": long + "and a few words more to fill it"}] * 7
    report.notes = ["a long note " * 40] * 9
    report.source["texts"] = "a/very/long/path/" * 9
    return dataclasses.replace(report, complete=False)


@pytest.mark.parametrize(
    "report",
    [
        sample_report(),
        sample_report(hostile=True, n_layers=7),
        sample_report(hostile=True, n_layers=31, n_weights=210),
        worst(),
        Report(source={"kind": "points"}),
    ],
    ids=["plain", "hostile", "hostile-large", "worst", "empty"],
)
def test_it_fits_a_screen(report: Report) -> None:
    lines = shown(report).splitlines()
    assert len(lines) <= 45
    assert max(len(line) for line in lines) <= 80


def test_a_plain_report_takes_forty_lines() -> None:
    assert len(shown(sample_report()).splitlines()) <= 40


def test_markup_in_names_is_shown_as_text() -> None:
    report = sample_report()
    report.source["name"] = "[bold]loud[/bold] [/]"
    report.layers[3]["name"] = "[red]layer[/red]"
    report.advice[0]["title"] = "[link=https://example.org]here[/link] :smile:"
    text = shown(report)
    assert "[bold]loud[/bold] [/]" in text
    assert "[link=https://example.org]here[/link] :smile:" in text


def test_numbers_are_whole_at_eighty_columns() -> None:
    wide = set(re.findall(r"-?\d[\d.,]*\d|\d", shown(sample_report(), width=400)))
    narrow = set(re.findall(r"-?\d[\d.,]*\d|\d", shown(sample_report())))
    assert wide == narrow


def test_it_says_when_it_is_incomplete() -> None:
    report = sample_report()
    assert "Incomplete" not in shown(report)
    assert "Incomplete" in shown(dataclasses.replace(report, complete=False))


@pytest.mark.parametrize("kind", ["weights", "points"])
def test_a_part_alone_is_summed_up(kind: str) -> None:
    full = sample_report()
    source = {"kind": kind, "name": "a file"}
    alone = Report(source=source, complete=True, **{
        "weights": {"weights": full.weights}, "points": {"embedding": full.embedding},
    }[kind])  # fmt: skip
    text = shown(alone)
    assert "a file" in text
    assert ("Weights (36 matrices)" in text) == (kind == "weights")
    assert ("TwoNN dimension" in text) == (kind == "points")


def test_a_sparkline_keeps_order_ends_and_gaps() -> None:
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7]) == "▁▂▃▄▅▆▇█"
    assert sparkline([2.0, None, 1.0]) == "█ ▁"
    assert sparkline([3.0, 3.0]) == "▁▁"
    assert sparkline([None]) == ""
    long = sparkline([float(i) for i in range(500)], width=24)
    assert len(long) == 24
    assert (long[0], long[-1]) == ("▁", "█")
    assert list(long) == sorted(long)
