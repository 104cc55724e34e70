"""Do the pieces follow the labels, and which labels and words is each piece rich in?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import false_discovery_control, hypergeom
from sklearn.cluster import KMeans
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.metrics.cluster import contingency_matrix
from torch import Tensor

PERMUTATIONS = 999
KMEANS_ROWS = 5_000
DISCOVERY = 0.01
"""Share of the labels and words named as enriched that may be so by chance."""
MOST_NAMED = 8
MOST_WORDS = 20_000
FEWEST_TEXTS = 5
LENGTH_SHARE = 0.14  # of the variance of the length that the pieces explain: Cohen's "large"


def agreement(
    x: Tensor, pieces: Sequence[int], labels: Sequence[str], n_pieces: int, seed: int
) -> dict[str, Any]:
    """Contingency of pieces and labels, with what chance and plain k-means would give.

    The p-value is that of random re-orderings of the labels (Fisher 1935; Phipson and Smyth 2010
    for the one added to both counts): with both margins fixed, mutual information grows with the
    sum of c log c over the table and the adjusted Rand index with the sum of c^2.
    """
    found = np.asarray(pieces)
    names, code = np.unique(np.asarray(labels), return_inverse=True)
    table = contingency_matrix(code, found)  # (labels, pieces)
    section: dict[str, Any] = {
        "labels": names.tolist(),
        "pieces": np.unique(found).tolist(),
        "table": table.tolist(),
        "n": len(found),
    }
    section["guess"] = float(table.max(0).sum() / table.sum())
    section["base"] = float(table.sum(1).max() / table.sum())
    if min(table.shape) < 2:
        return section
    nmi = float(normalized_mutual_info_score(code, found))
    random = _permuted(code, found, seed)
    section |= {"nmi": nmi, "ari": float(adjusted_rand_score(code, found))}
    section |= {"permutations": PERMUTATIONS, "chance_nmi": float(random[:, 0].mean())}
    for place, name in enumerate(("nmi", "ari")):
        reached = int((random[:, place] >= section[name] - 1e-12).sum())
        section[f"p_{name}"] = (1 + reached) / (1 + PERMUTATIONS)
    rows = np.random.default_rng(seed).permutation(len(found))[:KMEANS_ROWS]
    means = KMeans(n_pieces, n_init=3, random_state=seed % 2**32)
    plain = means.fit_predict(x[np.sort(rows)].numpy(force=True))
    section["kmeans"] = {
        "n": len(rows),
        "nmi": float(normalized_mutual_info_score(code[np.sort(rows)], plain)),
        "ari": float(adjusted_rand_score(code[np.sort(rows)], plain)),
    }
    return section


def _permuted(code: np.ndarray, found: np.ndarray, seed: int) -> np.ndarray:
    """(B, 2) mutual information, normalised, and adjusted Rand index of shuffled labels."""
    pieces = np.unique(found, return_inverse=True)[1]
    a, b = int(code.max()) + 1, int(pieces.max()) + 1
    n, rng = len(code), np.random.default_rng(seed)
    rows, columns = np.bincount(code, minlength=a), np.bincount(pieces, minlength=b)
    entropies = [_xlogx(n) / n - _xlogx(c).sum() / n for c in (rows, columns)]
    pairs = [(c * (c - 1) / 2).sum() for c in (rows, columns)]
    expected, most = pairs[0] * pairs[1] / (n * (n - 1) / 2), sum(pairs) / 2
    drawn = np.empty((PERMUTATIONS, 2))
    for i in range(PERMUTATIONS):
        table = np.bincount(rng.permutation(code) * b + pieces, minlength=a * b)
        joint = _xlogx(n) / n - _xlogx(table).sum() / n
        together = (table * (table - 1) / 2).sum()
        drawn[i] = (
            2 * (sum(entropies) - joint) / sum(entropies),
            (together - expected) / (most - expected) if most > expected else 1.0,
        )
    return drawn


def _xlogx(c: Any) -> np.ndarray:
    c = np.asarray(c, dtype=float)
    return c * np.log(np.where(c > 0, c, 1))


def enriched_labels(
    pieces: Sequence[int], labels: Sequence[str], n_pieces: int
) -> list[list[dict[str, Any]]]:
    """For every piece the labels that are more frequent in it than chance would make them."""
    names, code = np.unique(np.asarray(labels), return_inverse=True)
    held = np.zeros((n_pieces, len(names)), dtype=np.int64)
    np.add.at(held, (np.asarray(pieces), code), 1)
    return _enriched(held, np.bincount(code), np.bincount(pieces, minlength=n_pieces), names)


def enriched_words(
    pieces: Sequence[int], texts: Sequence[str], n_pieces: int
) -> tuple[list[list[dict[str, Any]]], int]:
    """For every piece the words that more of its texts hold than chance would make; and how many
    words were tried. A word counts once a text, and only if five texts or more hold it; the
    function words of English are left out.
    """
    counter = CountVectorizer(binary=True, stop_words="english", max_features=MOST_WORDS)
    try:
        seen = counter.fit_transform(texts).tocsc()  # (n, words)
    except ValueError:  # not one word in all the texts
        return [[] for _ in range(n_pieces)], 0
    totals = np.asarray(seen.sum(0))[0]
    kept = np.flatnonzero(totals >= FEWEST_TEXTS)
    seen, words = seen[:, kept], counter.get_feature_names_out()[kept]
    member = np.eye(n_pieces, dtype=np.int64)[np.asarray(pieces)]  # (n, K)
    held = np.asarray((seen.T @ member).T)  # (K, words)
    sizes = np.bincount(pieces, minlength=n_pieces)
    return _enriched(held, totals[kept], sizes, words), len(words)


def _enriched(
    held: np.ndarray, totals: np.ndarray, sizes: np.ndarray, names: np.ndarray
) -> list[list[dict[str, Any]]]:
    """The entries of (K, m) counts that are too large for chance, most surely so first.

    Hypergeometric upper tail, Benjamini and Hochberg's (1995) correction over the whole table; the
    log-odds against all other pieces have a half added to every count (Haldane 1956).
    """
    n = int(sizes.sum())
    if held.size == 0 or len(sizes) < 2:
        return [[] for _ in sizes]
    p = hypergeom.sf(held - 1, n, totals[None, :], sizes[:, None])  # (K, m)
    q = false_discovery_control(p.clip(0, 1).ravel()).reshape(p.shape)
    inside, outside = held + 0.5, totals[None, :] - held + 0.5
    without = sizes[:, None] - held + 0.5
    rest = n - sizes[:, None] - (totals[None, :] - held) + 0.5
    odds = np.log(inside) - np.log(without) - np.log(outside) + np.log(rest)
    found = []
    for k in range(len(sizes)):
        order = np.lexsort((-odds[k], p[k]))[:MOST_NAMED]
        found.append(
            [
                {
                    "name": str(names[j]), "n": int(held[k, j]), "of": int(totals[j]),
                    "log_odds": float(odds[k, j]), "q": float(q[k, j]),
                }
                for j in order
                if q[k, j] <= DISCOVERY and odds[k, j] > 0
            ]
        )  # fmt: skip
    return found


def length_share(pieces: Sequence[int], texts: Sequence[str]) -> float | None:
    """Share of the variance of the texts' log length that the pieces explain (eta squared)."""
    lengths = np.log([1 + len(text) for text in texts])
    total = float(((lengths - lengths.mean()) ** 2).sum())
    if total <= 1e-12:
        return None
    found = np.unique(np.asarray(pieces), return_inverse=True)[1]
    sizes = np.bincount(found)
    means = np.bincount(found, lengths) / sizes
    return float((sizes * (means - lengths.mean()) ** 2).sum() / total)


def trivial(section: dict[str, Any], share: float | None) -> list[str]:
    """Why an agreement of pieces and labels may say little: one phrase a reason."""
    n, table = section["n"], np.asarray(section["table"])
    reasons = []
    largest = float(table.sum(0).max() / n)
    if min(table.shape) < 2:
        only = "piece" if table.shape[1] < 2 else "label"
        reasons.append(f"there is only one {only}, so there is nothing to follow")
    elif largest > 0.9:
        reasons.append(f"one piece holds {largest:.0%} of the points")
    if len(table) > n / 5:
        reasons.append(f"{len(table):,} labels for {n:,} points: mutual information is high anyway")
    if "nmi" in section and section["p_nmi"] <= 0.05:
        gained = section["guess"] - section["base"]
        if gained < 0.02:
            reasons.append(
                "the link is beyond chance and yet slight: with the piece known, the best guess of "
                f"the label is right {section['guess']:.1%} of the time, and "
                f"{section['base']:.1%} without"
            )
        if section["nmi"] <= section["kmeans"]["nmi"]:
            reasons.append(
                f"plain k-means with as many clusters follows the labels as closely or more "
                f"(NMI {section['kmeans']['nmi']:.2f} against {section['nmi']:.2f}), so the "
                "agreement by itself is no sign of pieces of different shape"
            )
    if share is not None and share >= LENGTH_SHARE and not math.isnan(share):
        reasons.append(f"the pieces follow the length of the texts ({share:.0%} of its variance)")
    return reasons
