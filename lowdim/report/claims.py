"""What papers say of a language model's layers, held against what a deep scan measured.

Every verdict is computed here from the figures of the scan by the rule that stands beside it, and
says the figures. `None` means that this scan cannot tell.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

from lowdim.report.words import interval, label, number

Claim = dict[str, Any]
Found = tuple[str, bool | None]

SMOOTH = 0.5
FEW = 0.1


def claims(deep: dict[str, Any], kind: str) -> list[Claim]:
    """What each part of a deep scan says to the papers that it comes from.

    Parameters
    ----------
    deep : dict
        The parts of a deep scan; a missing part makes no claim.
    kind : str
        ``encoder`` or ``causal``.

    Returns
    -------
    list of dict
        ``part``, ``paper``, ``link``, ``claim``, ``found`` (a sentence with the figures) and
        ``agrees`` (true, false, or null where the scan cannot tell).
    """
    checks: list[tuple[str, str, str, str, Callable[[], Found]]] = []
    if rows := deep.get("positional"):
        song = ("Song and Zhong 2024", "2310.04861")
        checks += [
            ("positional", *song, "Positions form a smooth curve in each layer",
             lambda: _smooth(rows)),
            ("positional", *song, "Positions take few directions", lambda: _few(rows)),
            ("positional", *song, "Positions and contexts are nearly orthogonal",
             lambda: _orthogonal(rows)),
            ("positional", *song, "Contexts cluster by topic", lambda: _clusters(rows)),
            ("positional", "Razzhigaev et al. 2024", "2311.05928",
             "In decoders the anisotropy of tokens rises to a peak in the middle layers; in "
             "encoders it is more even", lambda: _bell(rows, kind)),
        ]  # fmt: skip
    if profile := deep.get("profile"):
        checks.append(
            ("profile", "Cheng et al. 2025", "2405.15471",
             "The intrinsic dimension has a clear peak inside the network", lambda: _peak(profile))
        )  # fmt: skip
        if profile.get("shuffled"):
            checks.append(
                ("profile", "Lee et al. 2025", "2410.01444",
                 "Nonlinear dimension follows the meaning and linear dimension the form: shuffled "
                 "words lower the one and raise the other", lambda: _shuffled(profile))
            )  # fmt: skip
    if tokens := deep.get("tokens"):
        tokens_paper = ("Viswanathan et al. 2025", "2501.10573")
        checks.append(
            ("tokens", *tokens_paper, "Shuffled tokens lie on more dimensions at the peak",
             lambda: _token_peak(tokens["rows"]))
        )  # fmt: skip
        if tokens.get("loss"):
            checks.append(
                ("tokens", *tokens_paper,
                 "Prompts of higher loss have tokens on more dimensions",
                 lambda: _loss(tokens["rows"]))
            )  # fmt: skip
    if compression := deep.get("compression"):
        checks.append(
            ("compression", "Cheng et al. 2023", "2310.13620",
             "The dimension of a corpus predicts its coding length, for some estimators",
             lambda: _compression(compression))
        )  # fmt: skip
    if (local := deep.get("local_rank")) and profile:
        checks.append(
            ("local_rank", "Patel and Shwartz-Ziv 2024", "2410.07687",
             "The local rank bounds the dimension of a layer's image",
             lambda: _bounds(local, profile))
        )  # fmt: skip
    found = []
    for part, paper, arxiv, claim, check in checks:
        said, agrees = check()
        link = f"https://arxiv.org/abs/{arxiv}"
        found.append(
            {"part": part, "paper": paper, "link": link, "claim": claim, "found": said}
            | {"agrees": agrees}
        )
    return found


def _above(low: float | None, high: float | None) -> bool | None:
    """Whether an interval lies above zero or below it; None where it holds zero or is none."""
    if low is None or high is None or low <= 0 <= high:
        return None
    return low > 0


def _middle(rows: Sequence[dict[str, Any]], key: str) -> float:
    """Median over layers; the embedding output is none."""
    return median(row[key] for row in rows[1:])


def _smooth(rows: Sequence[dict[str, Any]]) -> Found:
    low, shuffled = _middle(rows, "low_frequency"), _middle(rows, "low_frequency_shuffled")
    said = (
        f"{low:.0%} of the energy of the positions lies in the {rows[0]['frequencies']} lowest "
        f"frequencies in the median layer, {shuffled:.0%} with the positions in random order "
        f"(rule: at least {SMOOTH:.0%}, and twice that of random order)"
    )
    return said, low >= SMOOTH and low >= 2 * shuffled


def _few(rows: Sequence[dict[str, Any]]) -> Found:
    stable, rank = _middle(rows, "stable_rank"), _middle(rows, "rank_95")
    said = (
        f"the positions have stable rank {number(stable)} in the median layer, of at most "
        f"{rows[0]['directions']}; 95% of their energy takes {number(rank)} directions, what is "
        f"left of single tokens after averaging over {rows[0]['contexts']} contexts counted "
        f"(rule: a stable rank of at most {FEW:.0%})"
    )
    return said, stable <= FEW * rows[0]["directions"]


def _orthogonal(rows: Sequence[dict[str, Any]]) -> Found:
    largest, null = _middle(rows, "incoherence"), _middle(rows, "incoherence_null")
    said = (
        f"the largest |cosine| of a position with a context is {number(largest)} in the median "
        f"layer; as many random directions reach {number(null)} (rule: no more than these)"
    )
    return said, largest <= null


def _clusters(rows: Sequence[dict[str, Any]]) -> Found:
    known = [row for row in rows[1:] if row.get("cluster") is not None]
    if not known:
        return "the texts have no labels to compare with", None
    above = sum(row["cluster"] > row["cluster_null"] for row in known)
    best = max(known, key=lambda row: row["cluster"])
    said = (
        f"contexts of one label are closer than under 20 random labelings in {above} of "
        f"{len(known)} layers, most in {best['name']}: cosine {best['cluster']:+.2f} within labels "
        f"over between (rule: most layers)"
    )
    return said, above > len(known) / 2


def _bell(rows: Sequence[dict[str, Any]], kind: str) -> Found:
    inner = rows[1:]  # the embedding output is no layer
    shares = [row["anisotropy"] for row in inner]
    top = max(range(len(shares)), key=shares.__getitem__)
    said = (
        f"the strongest direction of the tokens holds {shares[0]:.1%} in {inner[0]['name']}, at "
        f"most {shares[top]:.1%} in {inner[top]['name']} and {shares[-1]:.1%} in the last"
    )
    if kind != "causal":
        return f"{said}; how even an encoder is would need a decoder beside it", None
    said += " (rule: the peak lies inside and is 1.5 times either end)"
    return said, 0 < top < len(shares) - 1 and shares[top] >= 1.5 * max(shares[0], shares[-1])


def _peak(profile: dict[str, Any]) -> Found:
    phase, by = profile["phase"], profile["by"]
    rows = {row["index"]: row for row in profile["rows"]}
    at = [rows[i]["estimates"][by] for i in (min(rows), phase["peak"], max(rows))]
    first, top, last = (f"{number(e['value'])} {interval(e)}".rstrip() for e in at)
    said = (
        f"{label(by)} is highest in {rows[phase['peak']]['name']}, {top}, against {first} at the "
        f"first and {last} at the last; above halfway from {rows[phase['onset']]['name']} to "
        f"{rows[phase['end']]['name']} (rule: inside, its interval above those of both ends)"
    )
    return said, bool(phase["clear"])


def _shuffled(profile: dict[str, Any]) -> Found:
    real, control = (
        [row for row in part["rows"] if row["index"] > 0] for part in (profile, profile["shuffled"])
    )
    ratios = {
        id: median(
            b["estimates"][id]["value"] / a["estimates"][id]["value"]
            for a, b in zip(real, control, strict=True)
        )
        for id in (profile["by"], "geometry/participation-ratio", "geometry/rank-99")
    }
    nonlinear, *linear = ratios.values()
    said = (
        "with shuffled words the median layer's "
        + ", ".join(f"{label(id)} is {r:.2f} times" for id, r in ratios.items())
        + " that of the text (rule: the first below one, both others above)"
    )
    return said, nonlinear < 1 < min(linear)


def _token_peak(rows: Sequence[dict[str, Any]]) -> Found:
    inner = rows[1:]
    real = max((row["dimension"] for row in inner), key=lambda e: e["value"])
    control = max((row["shuffled"] for row in inner), key=lambda e: e["value"])
    said = (
        f"at the peak {number(control['value'])} {interval(control)} with shuffled words, "
        f"{number(real['value'])} {interval(real)} as written, mean over {real['n']} prompts "
        "(rule: intervals apart; open where they meet)"
    )
    return said, _above(control["low"] - real["high"], control["high"] - real["low"])


def _loss(rows: Sequence[dict[str, Any]]) -> Found:
    known = [row for row in rows[1:] if row["correlation"] is not None]
    if not known:
        return "neither loss nor dimension varies over these prompts", None
    peak = max(known, key=lambda row: row["dimension"]["value"])
    above = sum((row["correlation"].get("low") or 0) > 0 for row in known)
    found = peak["correlation"]
    said = (
        f"correlation {found['value']:+.2f} {interval(found)} over {found['n']} prompts where the "
        f"dimension peaks, {peak['name']}; its interval lies above zero in {above} of {len(known)} "
        "layers (rule: at the peak; open where it holds zero)"
    )
    return said, _above(found.get("low"), found.get("high"))


def _compression(found: dict[str, Any]) -> Found:
    said, verdicts = [], []
    for id, c in found["correlation"].items():
        control = found["control"][id]
        if c is None:
            continue
        by_chance = number(control["value"]) if control else "none"
        said.append(f"{label(id)} {c['value']:+.2f} {interval(c)} (control {by_chance})")
        beyond = control is None or abs(c["value"]) > abs(control["value"])
        verdicts.append(_above(c.get("low"), c.get("high")) if beyond else None)
    if not said:
        return "no estimator varies over these corpora", None
    over = f"rank correlation with bits per token over {found['n']} corpora: {'; '.join(said)}"
    rule = "rule: some interval above zero and the control nearer to it; open where all hold zero"
    return f"{over} ({rule})", True if True in verdicts else False if False in verdicts else None


def _bounds(local: dict[str, Any], profile: dict[str, Any]) -> Found:
    by = profile["by"]
    dimension = {row["index"]: row["estimates"][by]["value"] for row in profile["rows"]}
    pairs = [(row["rank"], dimension[row["index"]]) for row in local["rows"]]
    holds = sum(rank >= dimension for rank, dimension in pairs)
    low = min(rank for rank, _ in pairs)
    sketched = local["tried"] < local["dim"]
    said = (
        f"of {local['tried']} directions of a token's embedding at least {number(low)} reach every "
        f"layer with {local['eps']} of the strongest; that is no less than {label(by)} in {holds} "
        f"of {len(pairs)} layers (rule: all{'; a sketch may count too few' * sketched})"
    )
    if holds < len(pairs) and sketched:
        return said, None
    return said, holds == len(pairs)
