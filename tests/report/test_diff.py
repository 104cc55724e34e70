"""A diff is antisymmetric, complete, sorted, and a limit never passes by accident."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from lowdim.errors import InputError
from lowdim.report.diff import Row, diff
from lowdim.report.document import Report
from tests.report.sample import sample_report


def two(
    before: float | None, after: float | None, **intervals: tuple[float, float]
) -> list[Report]:
    """Two reports of one layer with one measure."""
    reports = []
    for value, side in ((before, "a"), (after, "b")):
        estimate = {"value": value, "n": 9}
        if side in intervals:
            estimate |= dict(zip(("low", "high"), intervals[side], strict=True))
        layer = {"name": "l", "index": 0, "estimates": {"geometry/two-nn": estimate}}
        reports.append(Report(source={"kind": "model", "name": side}, layers=[layer]))
    return reports


def test_a_report_does_not_differ_from_itself() -> None:
    found = diff(sample_report(), copy.deepcopy(sample_report()))
    assert found.rows
    assert found.changed == []
    assert found.only_before == found.only_after == []
    assert found.exceeds({"two-nn": 0, "spectra/stable-rank": "0%"}) == []


def test_every_number_is_compared_once() -> None:
    report = sample_report(n_weights=4, n_layers=3)
    assert report.embedding is not None
    places = [*report.weights, *report.layers, report.embedding]
    count = sum(len(place["estimates"]) for place in places)
    rows = diff(report, sample_report(n_weights=4, n_layers=3, seed=1)).rows
    assert len(rows) == count + len(report.embedding["size_recall"]["rows"])
    assert len({(row.place, row.measure) for row in rows}) == len(rows)


@given(before=st.floats(-1e6, 1e6), after=st.floats(-1e6, 1e6))
def test_change_is_antisymmetric_and_adds_up(before: float, after: float) -> None:
    (there,), (back,) = (diff(*pair).rows for pair in (two(before, after), two(after, before)))
    assert there.change == -back.change
    assert there.change == after - before
    if abs(before) > 1e-200:  # else the quotient overflows
        assert there.relative * abs(before) == pytest.approx(there.change, rel=1e-9, abs=1e-300)


def test_largest_relative_change_comes_first() -> None:
    rows = diff(sample_report(), sample_report(seed=1)).rows
    sizes = [abs(row.relative) for row in rows]
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize(
    ("a", "b", "beyond"),
    [
        ({}, {}, None),
        ({"a": (9, 11)}, {"b": (19, 21)}, True),  # apart
        ({"a": (9, 11)}, {"b": (9, 31)}, False),  # the second's interval holds the first
        ({"a": (9, 21)}, {"b": (19, 21)}, False),  # the first's holds the second
        (
            {"a": (9, 16)},
            {"b": (14, 21)},
            True,
        ),  # they overlap, but neither holds the other's value
        ({"a": (9, 11)}, {}, True),
        ({"a": (9, 20)}, {}, False),  # the end belongs to the interval
    ],
)
def test_beyond_means_outside_each_others_interval(a: dict, b: dict, beyond: bool | None) -> None:
    (row,) = diff(*two(10.0, 20.0, **a, **b)).rows
    assert row.beyond is beyond


def test_limits_are_amounts_or_percentages_in_both_directions() -> None:
    for pair in (two(10.0, 12.0), two(10.0, 8.0)):
        found = diff(*pair)
        assert found.exceeds({"two-nn": 2}) == []  # the limit itself is allowed
        assert found.exceeds({"two-nn": 1.9}) == found.rows
        assert found.exceeds({"geometry/two-nn": "20%"}) == []
        assert found.exceeds({"geometry/two-nn": "19.9%"}) == found.rows
        assert found.exceeds({"two-nn": "0.5"}) == found.rows
    assert diff(*two(0.0, 1e-9)).exceeds({"two-nn": "500%"})  # from zero is past any percentage
    assert not diff(*two(0.0, 0.0)).exceeds({"two-nn": "0%"})


@pytest.mark.parametrize("limit", ["5 percent", "-1", -1, math.nan, "%", math.inf])
def test_a_limit_that_is_no_amount_is_an_error(limit: float | str) -> None:
    with pytest.raises(InputError, match="two-nn"):
        diff(*two(1.0, 2.0)).exceeds({"two-nn": limit})


def test_an_unknown_measure_names_the_nearest() -> None:
    found = diff(sample_report(), sample_report())
    with pytest.raises(InputError, match="two-nn"):
        found.exceeds({"tow-nn": 0.5})
    with pytest.raises(InputError, match=r"geometry/rank-99.*spectra/rank-99"):
        found.exceeds({"rank-99": 1})


def test_a_measure_that_is_gone_is_an_error_not_a_pass() -> None:
    before, after = two(1.0, None)
    found = diff(before, after)
    assert found.rows == []
    assert found.only_before == ["layers/l"]
    with pytest.raises(InputError, match="in both scans"):
        found.exceeds({"two-nn": 0.5})


def test_what_one_scan_alone_holds_is_listed() -> None:
    before, after = sample_report(n_layers=7), sample_report(n_layers=6)
    del after.layers[0]["estimates"]["geometry/mle"]
    found = diff(before, after)
    assert found.only_before == ["layers/embeddings geometry/mle", "layers/encoder.layer.5"]
    assert found.only_after == []
    assert diff(after, before).only_after == found.only_before


def test_the_parts_of_a_deep_scan_are_compared() -> None:
    before, after = (sample_report(n_layers=3, deep=True, seed=seed) for seed in (0, 1))
    found = diff(before, after)
    places = {row.place.split("/")[1] for row in found.rows if row.place.startswith("deep/")}
    assert places == {
        "points", "profile", "profile of shuffled words", "positional", "tokens", "local rank",
        "compression",
    }  # fmt: skip
    assert len({(row.place, row.measure) for row in found.rows}) == len(found.rows)
    assert found.only_before == found.only_after == []
    assert diff(before, before).exceeds({"two-nn": 0, "low_frequency": "0%"}) == []


def test_files_and_folders_are_read(tmp_path: Path) -> None:
    for seed in (0, 1):
        (tmp_path / str(seed)).mkdir()
        text = json.dumps(sample_report(seed=seed).to_dict())
        (tmp_path / str(seed) / "scan.json").write_text(text)
    from_files = diff(tmp_path / "0", str(tmp_path / "1" / "scan.json"))
    assert from_files.rows == diff(sample_report(), sample_report(seed=1)).rows
    with pytest.raises(InputError, match="nowhere"):
        diff(tmp_path / "nowhere", tmp_path / "0")


def test_it_is_strict_json() -> None:
    found = diff(*two(0.0, 1.0)).to_dict()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["rows"][0]["relative"] is None
    assert found["rows"][0]["change"] == 1.0


def test_a_row_says_itself_in_one_line() -> None:
    row = Row("layers/l", "geometry/two-nn", 10.0, 12.5)
    assert str(row) == "layers/l geometry/two-nn: 10 -> 12.5 (+25.0%)"


@pytest.mark.parametrize("hostile", [False, True])
def test_the_terminal_shows_twenty_rows_in_eighty_columns(hostile: bool) -> None:
    found = diff(sample_report(hostile=hostile), sample_report(hostile=hostile, seed=1))
    console = Console(width=80, color_system=None)
    with console.capture() as captured:
        console.print(found)
    text = captured.get()
    assert max(len(line) for line in text.splitlines()) <= 80
    assert f"and {len(found.changed) - 20:,} smaller changes" in text
    assert sum("%" in line for line in text.splitlines()) == 20
    if hostile:
        assert "[bold]loud[/bold]" in text


def test_its_html_escapes_names() -> None:
    html = diff(sample_report(hostile=True), sample_report(hostile=True, seed=1))._repr_html_()
    assert "<script" not in html
    assert "<img" not in html
    assert html.count("<tr>") == 21
