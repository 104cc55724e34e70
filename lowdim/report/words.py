"""Plain English for a report: short names of measures, and the few sentences that matter most.

The page, the terminal and the notebook say the same things because they all say them from here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from statistics import median
from typing import Any

from lowdim.core.estimate import format_number
from lowdim.core.memory import format_bytes
from lowdim.geometry.dimension_profile import phase
from lowdim.report.document import Document, Report

LABELS = {
    "geometry/two-nn": "TwoNN dimension",
    "geometry/mle": "MLE dimension",
    "geometry/gride": "Gride dimension",
    "geometry/participation-ratio": "Participation ratio",
    "geometry/rank-90": "Rank 90%",
    "geometry/rank-99": "Rank 99%",
    "geometry/mean-cosine": "Mean cosine",
    "geometry/anisotropy": "Anisotropy",
    "geometry/isoscore": "IsoScore",
    "geometry/early-enrichment": "Early enrichment",
    "geometry/uniformity": "Uniformity",
    "geometry/outlier-dimensions": "Outlier dimensions",
    "diversity/vendi": "Vendi score",
    "diversity/von-neumann-entropy": "Von Neumann entropy",
    "geometry/hubness": "Hubness",
    "geometry/near-duplicates": "Near-duplicates",
    "geometry/danco": "DANCo dimension",
    "geometry/knn-graph": "kNN-graph dimension",
    "geometry/ollivier-ricci": "Ollivier-Ricci curvature",
    "compare/neighborhood-overlap": "Overlap with the layer before",
    "compare/information-imbalance": "Imbalance to the last layer",
    "spectra/stable-rank": "Stable rank",
    "spectra/entropy-rank": "Entropy rank",
    "spectra/effective-rank": "Effective rank",
    "spectra/rank-90": "Rank 90%",
    "spectra/rank-99": "Rank 99%",
    "spectra/marchenko-pastur": "MP outliers",
    "spectra/tail-exponent": "Tail exponent α",
    "spectra/init-distance": "Distance from init",
}
"""Short names in the order in which they are shown; other measures follow by id."""

FIELDS = {
    ("spectra/marchenko-pastur", "edge"): "MP edge",
    ("spectra/marchenko-pastur", "sigma2"): "MP σ²",
    ("spectra/marchenko-pastur", "outlier_energy"): "MP outlier energy",
    ("spectra/marchenko-pastur", "ks"): "MP KS",
    ("spectra/marchenko-pastur", "detectable"): "MP detectable",
    ("spectra/tail-exponent", "ks"): "Tail KS",
    ("spectra/tail-exponent", "xmin"): "Tail xmin",
    ("spectra/tail-exponent", "n_tail"): "Tail size",
    ("spectra/tail-exponent", "sigma"): "Tail α error",
    ("spectra/tail-exponent", "vuong"): "Tail Vuong ratio",
    ("spectra/init-distance", "fresh"): "Init distance when fresh",
}

DIMENSIONS = (
    "geometry/rank-99",
    "geometry/rank-90",
    "geometry/participation-ratio",
    "geometry/two-nn",
    "geometry/mle",
)
"""Measures in units of dimensions: they can be drawn on one scale."""

INTRINSIC = ("geometry/two-nn", "geometry/mle")
CHANCE = 0.05


def label(id: str, field: str = "value") -> str:
    """Short name of a measure, or of one of its own further fields."""
    name = LABELS.get(id) or id.split("/")[-1].replace("-", " ").capitalize()
    return name if field == "value" else FIELDS.get((id, field), f"{name}: {field}")


def ordered(ids: Iterable[str]) -> list[str]:
    """Each id once: those with a short name in their order, then the others."""
    rank = {id: place for place, id in enumerate(LABELS)}
    return sorted(set(ids), key=lambda id: (rank.get(id, len(rank)), id))


def number(value: Any) -> str:
    """A number as it is shown everywhere; what is missing is a dash."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return "–" if value is None else str(value)
    return f"{value:,}" if isinstance(value, int) else format_number(value)


def interval(estimate: dict[str, Any]) -> str:
    """``[low, high]``, or nothing where the measure has no interval."""
    low, high = estimate.get("low"), estimate.get("high")
    return "" if low is None or high is None else f"[{number(low)}, {number(high)}]"


def short(text: Any, longest: int = 60) -> str:
    """A name from the scan, shortened in the middle where it is long."""
    text = str(text)
    if len(text) <= longest:
        return text
    return f"{text[: longest // 2]}…{text[-(longest // 2) + 1 :]}"


def value(entry: dict[str, Any], id: str, field: str = "value") -> float | None:
    """One number of an entry's estimates, or None."""
    return entry.get("estimates", {}).get(id, {}).get(field)


def shown(entry: dict[str, Any], id: str) -> str | None:
    """The value with its interval, or None where it is missing."""
    if (found := value(entry, id)) is None:
        return None
    return f"{number(found)} {interval(entry['estimates'][id])}".rstrip()


def address(link: Any) -> str | None:
    """The link where it is a web address, and nothing else."""
    return link if isinstance(link, str) and re.match(r"https?://", link) else None


def count(n: int, one: str, many: str | None = None) -> str:
    """``1 row``, ``2,000 rows``, ``2 matrices``."""
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def scanned(report: Document) -> list[str]:
    """What was scanned, on what, and what the run took: short phrases."""
    source, phrases = report.source, []
    if source.get("kind") == "model":
        role = {"encoder": "encoder", "causal": "causal language model"}.get(source.get("role", ""))
        phrases += [short(source["architecture"])] if source.get("architecture") else []
        phrases += [role] if role else []
        phrases += [count(source["n_layers"], "layer")] if source.get("n_layers") else []
        phrases += [f"{source['dim']:,} wide"] if source.get("dim") else []
        if parameters := source.get("parameters"):
            phrases.append(f"{parameters / 1e6:,.4g} M parameters")
    elif isinstance(report, Report) and source.get("kind") == "weights":
        phrases.append(count(len(report.weights), "weight matrix", "weight matrices"))
    if n := source.get("n"):
        on = f"{short(source['texts'], 40)}: " if source.get("texts") else ""
        phrases.append(on + count(n, "text" if source.get("texts") else "row"))
    if n_labels := source.get("n_labels"):
        phrases.append(count(n_labels, "label"))
    return phrases


def ran(report: Document) -> list[str]:
    """When, how long, how much memory, which version."""
    when = report.created.replace("T", " ")[:16]
    phrases = [f"{when} UTC"] if when else []
    phrases += [f"{report.seconds:.3g} s"] if report.seconds else []
    phrases += [f"{format_bytes(report.peak_bytes)} peak memory"] if report.peak_bytes else []
    return phrases + ([f"lowdim {report.lowdim}"] if report.lowdim else [])


def sentences(report: Report) -> list[str]:
    """The three to five things to know, most important first."""
    found = []
    if points := report.embedding:
        found += [_dimension(points), _spread(points)]
    found += [_depth(report.layers), _weights(report.weights)]
    if points:
        found += [_labels(points.get("labels")), _duplicates(points)]
    return [sentence for sentence in found if sentence][:5]


def _dimension(points: dict[str, Any]) -> str:
    dim = points["dim"]
    estimates = [
        (shown(points, id), name) for id, name in zip(INTRINSIC, ("TwoNN", "MLE"), strict=True)
    ]
    local = " / ".join(f"{text} ({name})" for text, name in estimates if text)
    parts = [f"{count(dim, 'dimension')}"]
    if local:
        parts.append(f"the points lie near sheets of dimension {local}")
    if (rank := value(points, "geometry/rank-99")) is not None:
        parts.append(f"99% of the variance needs {count(int(rank), 'direction')}")
    return "; ".join(parts) + "." if len(parts) > 1 else ""


def _spread(points: dict[str, Any]) -> str:
    parts = []
    if (ratio := value(points, "geometry/participation-ratio")) is not None:
        parts.append(f"The variance is spread as over {number(ratio)} equal directions")
    if (cosine := value(points, "geometry/mean-cosine")) is not None:
        start = "two random rows" if parts else "Two random rows"
        parts.append(f"{start} have a cosine of {number(cosine)} on average")
    return "; ".join(parts) + "." if parts else ""


def _depth(layers: list[dict[str, Any]]) -> str:
    """How the dimension moves with depth, by the first estimator that every layer has."""
    for id in INTRINSIC:
        curve = [v for layer in layers if (v := value(layer, id)) is not None]
        if len(curve) == len(layers) > 1:
            break
    else:
        return ""
    found = [layer["estimates"][id] for layer in layers]
    where = phase(curve, *([e.get(end) for e in found] for end in ("low", "high")))
    said = ""
    if curve[where.peak] > max(curve[0], curve[-1]):
        sure = "clear of both ends" if where.clear else "not clear of both ends by its interval"
        peak = short(layers[where.peak]["name"])
        said = f", with its peak of {number(curve[where.peak])} at {peak}, {sure}"
    ends = f"{number(curve[0])} to {number(curve[-1])}"
    return f"Through the layers the {label(id)} goes from {ends}{said}."


def _weights(weights: list[dict[str, Any]]) -> str:
    """How much of the full rank the matrices use, and which uses least."""
    shares = [
        (rank / min(w["rows"], w["cols"]), int(rank), w)
        for w in weights
        if (rank := value(w, "spectra/rank-99")) is not None
    ]
    if not shares:
        return ""
    share, rank, lean = min(shares, key=lambda item: item[0])
    full = min(lean["rows"], lean["cols"])
    middle = median(item[0] for item in shares)
    return (
        f"The median of {count(len(shares), 'weight matrix', 'weight matrices')} holds 99% of its "
        f"energy in {middle:.0%} of its directions; the leanest, {short(lean['name'])}, in "
        f"{share:.0%} ({rank} of {full})."
    )


def _labels(labels: dict[str, Any] | None) -> str:
    rows = [row for row in (labels or {}).get("rows", []) if row.get("value") is not None]
    if len(rows) < 2:
        return ""
    low, high = (pick(rows, key=lambda row: row["value"]) for pick in (min, max))
    span = (
        f"from {number(low['value'])} ({short(low['label'])}) "
        f"to {number(high['value'])} ({short(high['label'])})"
    )
    return f"{chance(labels)}: {span}."


def verdicts(deep: dict[str, Any] | None) -> str:
    """How many claims of papers agree with what a deep scan found; nothing without one."""
    claims = (deep or {}).get("claims") or []
    if not claims:
        return ""
    yes, no = (sum(c.get("agrees") is verdict for c in claims) for verdict in (True, False))
    rest = len(claims) - yes - no
    return (
        f"Of {count(len(claims), 'claim')} of papers {yes} agree with what was found here and {no} "
        f"do not" + (f"; {rest} cannot be told" if rest else "")
    )


def chance(labels: dict[str, Any] | None) -> str:
    """Do the labels differ in dimension beyond chance? The p-value in words."""
    p = (labels or {}).get("p_value")
    if p is None:
        return "The dimension of each label was measured"
    verdict = (
        "differ in dimension beyond chance" if p < CHANCE else "do not clearly differ in dimension"
    )
    return f"The labels {verdict} (p = {p:.2g})"


def _duplicates(points: dict[str, Any]) -> str:
    exact, near = points.get("duplicates") or 0, value(points, "geometry/near-duplicates") or 0
    parts = (
        [f"{count(exact, 'row repeats', 'rows repeat')} an earlier row exactly"] if exact else []
    )
    parts += [f"{count(int(near), 'pair is', 'pairs are')} near-duplicates"] if near else []
    return " and ".join(parts) + "." if parts else ""
