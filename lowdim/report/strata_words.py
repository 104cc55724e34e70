"""Plain English for a strata report: the sentences that the page, terminal and notebook share."""

from __future__ import annotations

from typing import Any

from lowdim.report.strata_document import StrataReport
from lowdim.report.strata_stability import PATTERN, STABLE
from lowdim.report.words import count, number, short

SHARED = {
    "entropy": "gate entropy",
    "margin": "margin",
    "distance": "distance to the piece",
}
ROUTE = {
    "entropy": "Gate entropy: 0 where a point is on one piece, log {k} = {most} nats where it is "
    "shared evenly among all {k}.",
    "margin": "This method has no gate: each point is on one piece. Margin: (b - a) / max(a, b), "
    "a the distance to its own piece and b to the nearest other; 0 is halfway, below 0 the other "
    "is nearer.",
    "distance": "There is one piece only: what is shown is how far each point is from it.",
}


def sentences(report: StrataReport) -> list[str]:
    """The things to know, most important first."""
    found = [
        _verdict(report.verdict), _pieces(report), labels(report.labels), _stable(report.stability)
    ]  # fmt: skip
    reasons = (report.labels or {}).get("trivial") or []
    if reasons:
        found.append(f"Take the labels with care: {'; '.join(reasons)}.")
    return [sentence for sentence in found if sentence]


def _verdict(verdict: dict[str, Any] | None) -> str:
    """Its first clause; the section on the test has the whole."""
    said = (verdict or {}).get("verdict") or ""
    return said.split("; ")[0].rstrip(".") + "." if said else ""


def _pieces(report: StrataReport) -> str:
    rows = (report.pieces or {}).get("rows") or []
    if not rows:
        return ""
    picked = (report.fit or {}).get("choice") is not None
    chosen = "their number chosen on unseen points" if picked else "as many as asked for"
    dims = [e["value"] for r in rows if (e := r["estimates"].get("geometry/mle"))]
    if len(rows) == 1:
        said = f" of local dimension {number(dims[0])}" if dims else ""
        more = " Give a number of pieces to look at as many all the same." if picked else ""
        return f"One piece ({chosen}){said}, rank {rows[0]['rank']}.{more}"
    span = (
        f" of local dimension {number(min(dims))} to {number(max(dims))}" if len(dims) > 1 else ""
    )
    sizes = sorted(r["n"] for r in rows)
    n = sum(sizes)
    return (
        f"{len(rows)} pieces ({chosen}){span}; the largest holds {sizes[-1] / n:.0%} of the points "
        f"and the smallest {sizes[0] / n:.1%}."
    )


def p_value(p: float, permutations: int) -> str:
    """The p-value of a permutation test; the smallest it can be is said as a bound."""
    least = 1 / (1 + permutations)
    return f"p at most {least:.2g}" if p <= least * 1.001 else f"p = {p:.2g}"


def labels(section: dict[str, Any] | None) -> str:
    """Whether pieces follow labels, with what chance would give."""
    if section is None or section.get("nmi") is None:
        return ""
    p = section["p_nmi"]
    start = "The pieces follow the labels" if p <= 0.05 else "The pieces do not follow the labels"
    return (
        f"{start}: NMI {section['nmi']:.2f} where chance gives {section['chance_nmi']:.2f} "
        f"({p_value(p, section['permutations'])}), ARI {section['ari']:.2f}; plain k-means with as "
        f"many clusters gives NMI {section['kmeans']['nmi']:.2f}."
    )


def _stable(section: dict[str, Any] | None) -> str:
    if section is None:
        return ""
    known = [v for v in section["jaccard"] if v is not None]
    if not known:
        return ""
    good, weak = sum(v >= STABLE for v in known), sum(v < PATTERN for v in known)
    start = f"{good} of {count(len(known), 'piece')} {'comes' if good == 1 else 'come'} back"
    one = weak == 1
    rest = f"; {weak} {'does' if one else 'do'} not (below {PATTERN}): "
    rest += f"do not build on {'it' if one else 'them'}"
    seeds = [v for v in section["seeds"][0][1:] if v is not None]  # this fit against the others
    same = f" Other seeds agree with this fit to an adjusted Rand index of {min(seeds):.2f}"
    same += f" to {max(seeds):.2f}." if max(seeds) - min(seeds) >= 0.01 else "."
    return (
        f"{start} from half of the points (Jaccard at least {STABLE}){rest if weak else ''}.{same}"
    )


def named(entries: list[dict[str, Any]] | None, most: int = 6) -> str:
    """Labels or words that a piece is rich in, as one line."""
    return ", ".join(short(entry["name"], 28) for entry in (entries or [])[:most])
