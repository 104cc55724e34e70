"""`diff`: what changed between two scans, place by place and measure by measure?"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lowdim.core.estimate import to_json
from lowdim.errors import InputError
from lowdim.report import words
from lowdim.report.document import Report, load_scan

if TYPE_CHECKING:
    from rich.console import RenderableType

SHOWN = 20
POSITIONAL = (
    "position_share", "context_share", "low_frequency", "stable_rank", "incoherence", "anisotropy",
)  # fmt: skip
Key = tuple[str, str]


@dataclass(frozen=True)
class Row:
    """One measure at one place, before and after.

    Attributes
    ----------
    place : str
        ``weights/NAME``, ``layers/NAME``, ``embedding``, ``size-recall/FORMAT DIMS``, or
        ``deep/PART/NAME``.
    measure : str
        Method id; ``recall`` for a size and recall row.
    change, relative : float
        After minus before; the same over the size of before (infinite where before is zero).
    beyond : bool or None
        Whether each value lies outside the other's interval; None where neither has one.
    """

    place: str
    measure: str
    before: float
    after: float
    beyond: bool | None = None

    @property
    def change(self) -> float:
        """After minus before."""
        return self.after - self.before

    @property
    def relative(self) -> float:
        """Change over the size of the value before; infinite where that is zero."""
        if self.change == 0:
            return 0.0
        return (
            self.change / abs(self.before) if self.before else math.copysign(math.inf, self.change)
        )

    @property
    def percent(self) -> str:
        """The relative change as it is shown."""
        return "from 0" if math.isinf(self.relative) else f"{self.relative:+.1%}"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; an infinite relative change is ``null``."""
        return to_json(vars(self) | {"change": self.change, "relative": self.relative})

    def __str__(self) -> str:
        values = f"{words.number(self.before)} -> {words.number(self.after)}"
        return f"{self.place} {self.measure}: {values} ({self.percent})"


@dataclass(frozen=True)
class Diff:
    """All that two scans both measured, largest relative change first.

    Attributes
    ----------
    rows : list of Row
        Every number that both scans hold, unchanged ones too.
    only_before, only_after : list of str
        What one scan alone holds: a whole ``place``, or ``place measure``.
    """

    before: str
    after: str
    rows: list[Row]
    only_before: list[str]
    only_after: list[str]

    @property
    def changed(self) -> list[Row]:
        """The rows whose value is not the same."""
        return [row for row in self.rows if row.change != 0]

    def exceeds(self, limits: Mapping[str, float | str]) -> list[Row]:
        """Which rows moved by more than is allowed?

        Parameters
        ----------
        limits : mapping of str to float or str
            Measure (id, or short name where that is unique) to the largest allowed change: a
            number, or a percentage of the value before such as ``"5%"``. Both directions count.

        Raises
        ------
        InputError
            A measure that the two scans do not both hold, so that a typing error or a section
            that is gone never reads as "nothing moved"; a limit that is no amount.
        """
        past = []
        for name, limit in limits.items():
            measure, (amount, relative) = self._find(name), _amount(name, limit)
            past += [
                row
                for row in self.rows
                if row.measure == measure and abs(row.relative if relative else row.change) > amount
            ]
        return past

    def _find(self, name: str) -> str:
        known = sorted({row.measure for row in self.rows})
        hits = [id for id in known if name in (id, id.split("/")[-1])]
        if name in hits or len(hits) == 1:
            return name if name in hits else hits[0]
        if hits:
            raise InputError(f"{name!r} is measured in several ways: {', '.join(hits)}")
        names = [*known, *(id.split("/")[-1] for id in known)]
        close = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {close[0]}?" if close else f"they hold {', '.join(known) or 'none'}"
        raise InputError(f"no measure {name!r} in both scans: {hint}")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return vars(self) | {"rows": [row.to_dict() for row in self.rows]}

    def __rich__(self) -> RenderableType:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("place", overflow="fold")
        table.add_column("measure", no_wrap=True)
        for title in ("before", "after", "change"):
            table.add_column(title, justify="right", no_wrap=True)
        for row in self.changed[:SHOWN]:
            place, measure = (
                Text(words.short(row.place)),
                Text(row.measure.split("/")[-1], "dim"),
            )
            change = row.percent + ("*" if row.beyond else " ")
            table.add_row(place, measure, words.number(row.before), words.number(row.after), change)
        lines = [Text(line) for line in self._facts()]
        return Group(*lines[:1], *([table] if self.changed else []), *lines[1:])

    def _facts(self) -> Iterator[str]:
        """The header, and what the table leaves out."""
        changed = self.changed
        compared = words.count(len(self.rows), "number")
        yield f"{self.before} -> {self.after}: {len(changed):,} of {compared} changed"
        if len(changed) > SHOWN:
            yield f"and {len(changed) - SHOWN:,} smaller changes"
        if any(row.beyond for row in changed[:SHOWN]):
            yield "* beyond both intervals"
        for name, only in ((self.before, self.only_before), (self.after, self.only_after)):
            if only:
                more = f", and {len(only) - 3:,} more" if len(only) > 3 else ""
                places = ", ".join(words.short(place) for place in only[:3])
                yield f"only in {name}: {places}{more}"

    def __repr__(self) -> str:
        from rich.console import Console

        console = Console(width=80)
        with console.capture() as captured:
            console.print(self)
        return captured.get()

    def _repr_html_(self) -> str:
        facts = [f"<p>{escape(line)}</p>" for line in self._facts()]
        rows = "".join(
            f"<tr><td>{escape(words.short(row.place))}</td><td>{escape(row.measure)}</td>"
            f"<td>{words.number(row.before)}</td><td>{words.number(row.after)}</td>"
            f"<td>{row.percent}</td><td>{'*' if row.beyond else ''}</td></tr>"
            for row in self.changed[:SHOWN]
        )
        titles = ("place", "measure", "before", "after", "change", "")
        head = "".join(f"<th>{title}</th>" for title in titles)
        table = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
        return f"<div>{facts[0]}{table if rows else ''}{''.join(facts[1:])}</div>"


def diff(before: Report | str | Path, after: Report | str | Path) -> Diff:
    """What changed between two scans?

    Parameters
    ----------
    before, after : Report or path
        Reports, ``scan.json`` files or the folders that hold one.

    Returns
    -------
    Diff
        Rows for each number that both hold, largest relative change first; ``exceeds`` says which
        moved past given limits.

    Raises
    ------
    InputError
        A file that is missing or not a scan.
    """
    first, second = (r if isinstance(r, Report) else load_scan(r) for r in (before, after))
    old, new = dict(_numbers(first)), dict(_numbers(second))
    rows = [
        Row(*key, old[key]["value"], new[key]["value"], _beyond(old[key], new[key]))
        for key in old
        if key in new
    ]
    rows.sort(key=lambda row: (-abs(row.relative), -abs(row.change), row.place, row.measure))
    names = [words.short(r.source.get("name") or "points", 40) for r in (first, second)]
    names = ["before", "after"] if names[0] == names[1] else names
    return Diff(names[0], names[1], rows, _only(old, new), _only(new, old))


def _numbers(report: Report) -> Iterator[tuple[Key, dict[str, Any]]]:
    """``(place, measure)`` and the estimate, for every number that is there."""
    places = [(f"weights/{entry['name']}", entry) for entry in report.weights]
    places += [(f"layers/{entry['name']}", entry) for entry in report.layers]
    places += [("embedding", report.embedding)] if report.embedding else []
    places += list(_deep(report.deep or {}))
    for place, entry in places:
        for id, estimate in entry["estimates"].items():
            if _is_number(estimate.get("value")):
                yield (place, id), estimate
    for row in ((report.embedding or {}).get("size_recall") or {}).get("rows", ()):
        if _is_number(row["recall"]):
            yield (
                (f"size-recall/{row['format']} {row['dims']}", "recall"),
                row | {"value": row["recall"]},
            )


def _deep(deep: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The numbers of a deep scan, place by place, as estimates by measure."""
    if points := deep.get("points"):
        yield "deep/points", points
    profile = deep.get("profile") or {}
    for kind, rows in (
        ("profile", profile.get("rows")),
        ("profile of shuffled words", (profile.get("shuffled") or {}).get("rows")),
    ):
        for row in rows or ():
            yield f"deep/{kind}/{row['name']}", row
    for row in deep.get("positional") or ():
        values = {key: {"value": row.get(key)} for key in POSITIONAL}
        yield f"deep/positional/{row['name']}", {"estimates": values}
    for row in (deep.get("tokens") or {}).get("rows", ()):
        found = {"token dimension": row["dimension"], "token cosine": row["cosine"]}
        found |= {"loss correlation": row["correlation"]} if row["correlation"] else {}
        yield f"deep/tokens/{row['name']}", {"estimates": found}
    for row in (deep.get("local_rank") or {}).get("rows", ()):
        found = {"geometry/local-rank": {"value": row["rank"]}}
        yield f"deep/local rank/{row['name']}", {"estimates": found}
    if compression := deep.get("compression"):
        known = {
            f"bits and {words.label(id)}": c for id, c in compression["correlation"].items() if c
        }
        yield "deep/compression", {"estimates": known}


def _only(here: Mapping[Key, Any], there: Mapping[Key, Any]) -> list[str]:
    """What is here alone, a place that is wholly absent there by its name alone."""
    places = {place for place, _ in there}
    alone = (key if key[0] in places else key[:1] for key in here if key not in there)
    return list(dict.fromkeys(" ".join(key) for key in alone))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _beyond(a: dict[str, Any], b: dict[str, Any]) -> bool | None:
    """Does each value lie outside the other's interval? None where neither has one."""
    tests = [
        not low <= other["value"] <= high
        for one, other in ((a, b), (b, a))
        if (low := one.get("low")) is not None and (high := one.get("high")) is not None
    ]
    return all(tests) if tests else None


def _amount(name: str, limit: float | str) -> tuple[float, bool]:
    """The allowed amount, and whether it is a share of the value before."""
    text = str(limit).strip()
    relative = text.endswith("%")
    try:
        amount = float(text.removesuffix("%"))
    except ValueError:
        amount = math.nan
    if not 0 <= amount < math.inf:
        raise InputError(f"limit {limit!r} of {name}: give an amount such as 0.5, or '5%'")
    return (amount / 100 if relative else amount), relative
