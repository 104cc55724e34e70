"""A realistic report made by hand, so that the page is tested without a model or a scan."""

from __future__ import annotations

import math
import random
from typing import Any

from lowdim.report.document import Report
from tests.report.papers import PAPERS

HOSTILE = (
    "<script>alert(1)</script>",
    "</script><img src=x onerror=alert(2)>",
    "{{ 7 * 7 }} %{x} $a$ `${1}`",
    "[bold]loud[/bold] [/]",
    "مرحبا بالعالم \u202e reversed",
    "🦆 emoji & \"quotes\" 'single'",
    "x" * 10_000,
)
KINDS = ("query", "key", "value", "attention output", "mlp up", "mlp down")
LABELS = (
    "noun.animal",
    "noun.food",
    "noun.plant",
    "noun.person",
    "verb.motion",
    "verb.communication",
    "noun.artifact",
    "noun.cognition",
)
GLOSSES = (
    "a small domesticated carnivorous mammal with soft fur",
    "move quickly on foot, faster than a walk",
    "a sweet baked dish of flour, butter and fruit",
    "a person who designs or builds machines",
    "any of several tall perennial grasses of wet ground",
)


def _spectrum(count: int, decay: float, scale: float, spikes: int = 0) -> dict[str, Any]:
    """Exponentially falling energies at up to 128 log-spaced positions."""
    energies = [scale * math.exp(-decay * i / count) for i in range(count)]
    energies[:spikes] = [scale * (3 - i / spikes) for i in range(spikes)]
    index = sorted({min(count, round(count ** (j / 127))) for j in range(128)})
    return {"values": [energies[i - 1] for i in index], "index": index, "total": sum(energies)}


def _rank(spectrum: dict[str, Any], count: int, decay: float, share: float) -> int:
    return max(1, min(count, round(-count / decay * math.log(1 - share * (1 - math.exp(-decay))))))


def _estimate(value: float, n: int, spread: float = 0.0, **fields: Any) -> dict[str, Any]:
    interval = {"low": value - spread, "high": value + spread, "level": 0.95} if spread else {}
    return {"value": value, "n": n, "exact": True, "seconds": 0.012} | interval | fields


def _points_estimates(dim: int, n: int, depth: float, rng: random.Random) -> dict[str, Any]:
    hunch = 8 + 9 * math.sin(math.pi * (0.15 + 0.7 * depth)) + rng.uniform(-0.4, 0.4)
    ratio = dim * (0.12 + 0.15 * depth)
    values = {
        "geometry/two-nn": (hunch, 0.9),
        "geometry/mle": (hunch * 0.84, 0.5),
        "geometry/participation-ratio": (ratio, 0),
        "geometry/rank-90": (round(dim * (0.25 + 0.1 * depth)), 0),
        "geometry/rank-99": (round(dim * (0.5 + 0.1 * depth)), 0),
        "geometry/anisotropy": (0.21 - 0.15 * depth, 0),
        "geometry/isoscore": ((ratio - 1) / (dim - 1), 0),
        "geometry/early-enrichment": (0.83 - 0.1 * depth, 0),
        "geometry/uniformity": (-2.1 - 1.6 * depth, 0.02),
        "geometry/outlier-dimensions": (round(5 - 4 * depth), 0),
        "geometry/mean-cosine": (0.41 - 0.36 * depth, 0.004),
        "diversity/von-neumann-entropy": (3.2 + 1.7 * depth, 0),
    }
    return {id: _estimate(value, n, spread) for id, (value, spread) in values.items()}


def _weight(name: str, kind: str, rows: int, cols: int, rng: random.Random) -> dict[str, Any]:
    full, spikes = min(rows, cols), rng.randint(1, 9)
    decay = rng.uniform(3, 6)
    scale = rng.uniform(2, 9)
    spectrum = _spectrum(full, decay, scale, spikes)
    estimates = {
        "spectra/stable-rank": _estimate(spectrum["total"] / spectrum["values"][0], full),
        "spectra/entropy-rank": _estimate(full * rng.uniform(0.5, 0.8), full),
        "spectra/effective-rank": _estimate(full * rng.uniform(0.3, 0.5), full),
        "spectra/rank-90": _estimate(_rank(spectrum, full, decay, 0.9), full),
        "spectra/rank-99": _estimate(_rank(spectrum, full, decay, 0.99), full),
        "spectra/marchenko-pastur": _estimate(
            spikes,
            full,
            edge=scale * 1.01,
            sigma2=scale / 4,
            outlier_energy=0.1,
            ks=0.2,
            detectable=scale,
        ),
        "spectra/tail-exponent": _estimate(
            rng.uniform(1.9, 6.4),
            full,
            0.3,
            ks=rng.uniform(0.02, 0.12),
            xmin=scale * rng.uniform(0.3, 0.6),
            n_tail=rng.randint(30, full // 2),
        ),
        "spectra/init-distance": _estimate(rng.uniform(0.1, 0.9), full),
    }
    return {
        "name": name,
        "kind": kind,
        "rows": rows,
        "cols": cols,
        "estimates": estimates,
        "spectrum": spectrum,
    }


def _embedding(
    dim: int, n: int, labels: tuple[str, ...], texts: tuple[str, ...], rng: random.Random
) -> dict[str, Any]:
    estimates = _points_estimates(dim, n, 1.0, rng) | {
        "geometry/hubness": _estimate(2.31, n, notes=["measured on the 10 nearest"]),
        "geometry/near-duplicates": _estimate(12, n),
        "diversity/vendi": _estimate(88.4, n),
        "geometry/two-nn": _estimate(13.94, n, 0.83, notes=["3 exact duplicates merged"]),
    }
    local = [max(0.0, rng.gauss(12.4, 3.1)) for _ in range(n)]
    counts = [min(int(rng.expovariate(0.1)), 119) for _ in range(n)]
    rows = []
    for dims in [m for m in (16, 32, 64, 96, 128, 256) if m < dim] + [dim]:
        for name, bits, loss in (
            ("float32", 32, 0),
            ("float16", 16, 0),
            ("int8", 8, 0.006),
            ("binary", 1, 0.33),
        ):
            recall = (1 - 0.55 * math.exp(-dims / 45)) * (1 - loss)
            recall = min(recall, 1.0) if dims < dim else 1 - loss
            rows.append(
                {
                    "dims": dims,
                    "format": name,
                    "bytes": dims * bits // 8,
                    "ratio": 32 * dim / (dims * bits),
                    "recall": recall,
                    "low": max(recall - 0.011, 0),
                    "high": min(recall + 0.009, 1),
                }
            )
    shown = min(n, 2000)
    which = [rng.randrange(len(labels)) for _ in range(shown)]
    return {
        "name": "final embedding",
        "n": n,
        "dim": dim,
        "duplicates": 3,
        "estimates": estimates,
        "spectrum": _spectrum(dim, 5.2, 0.02),
        "local_dimension": _histogram(local, 0, 26, 26),
        "hubness": _histogram(counts, 0, 120, 30),
        "near_duplicates": [
            {
                "a": 17 * i + 3,
                "b": 31 * i + 40,
                "distance": 0.011 * (i + 1),
                "text_a": texts[i % len(texts)],
                "text_b": texts[(i + 1) % len(texts)],
            }
            for i in range(8)
        ],
        "labels": {
            "rows": [
                {
                    "label": label,
                    "n": n // len(labels),
                    "value": 7.5 + 0.8 * i,
                    "low": 6.7 + 0.8 * i,
                    "high": 8.4 + 0.8 * i,
                    "note": "",
                }
                for i, label in enumerate(labels)
            ],
            "statistic": 41.3,
            "p_value": 0.001998,
            "method": "permutation test, 500 shuffles",
        },
        "size_recall": {
            "k": 10,
            "n_queries": 500,
            "n_reference": n - 500,
            "metric": "cosine",
            "rows": rows,
        },
        "map": {
            "x": [rng.gauss(math.cos(w), 0.5) for w in which],
            "y": [rng.gauss(math.sin(w), 0.4) for w in which],
            "row": list(range(shown)),
            "label": [labels[w] for w in which],
            "local_dimension": local[:shown],
            "energy": 0.137,
        },
    }


def _histogram(values: list[float], low: float, high: float, bins: int) -> dict[str, list[float]]:
    width = (high - low) / bins
    counts = [0] * bins
    for value in values:
        counts[min(int((value - low) / width), bins - 1)] += 1
    return {"edges": [low + width * i for i in range(bins + 1)], "counts": counts}


ADVICE: list[dict[str, Any]] = [
    {
        "kind": "index",
        "title": "96 dimensions in int8: 16x smaller, recall@10 0.935",
        "text": "PCA to 96 dimensions, then one byte a coordinate. "
        "Tried on 500 held-out queries against exact search.",
        "measured": {"bytes per vector": 96, "recall@10": 0.9345},
        "baseline": {"bytes per vector": 1536, "recall@10": 1.0},
        "how": "subspace = lowdim.Subspace.of_points(x, rank=96)\n"
        "codes = lowdim.retrieval.int8(subspace.project(x))",
    },
    {
        "kind": "compress",
        "title": "Layer 4 output dense: rank 188 of 384, cosine 0.997",
        "text": "99% of the activation-weighted energy lies in 188 directions; "
        "the truncated weight was put in place and the texts embedded again.",
        "measured": {"parameters": 360960, "cosine to original": 0.9971},
        "baseline": {"parameters": 589824, "cosine to original": 1.0},
        "how": "lowdim.compress.truncate(model, 'encoder.layer.4.output.dense', rank=188)",
    },
    {
        "kind": "data",
        "title": "Remove 15 rows: 3 exact and 12 near-duplicates",
        "text": "They repeat another row within 1% of the typical nearest distance.",
        "measured": {"rows": 1985},
        "baseline": {"rows": 2000},
        "how": "x = x[keep]",
    },
]


def _deep(layers: list[dict[str, Any]], hostile: bool, rng: random.Random) -> dict[str, Any]:
    """Every part of a deep scan over the same layers."""

    def mean(value: float) -> dict[str, Any]:
        return {"value": value, "low": value - 0.1, "high": value + 0.1, "n": 40}

    def profile(shift: float) -> list[dict[str, Any]]:
        keys = ("to_first", "from_first", "to_last", "from_last")
        return [
            {"name": x["name"], "index": x["index"], "estimates": x["estimates"]}
            | {"overlap": None if x["index"] == 0 else 0.6 + shift}
            | {key: rng.uniform(0.01, 0.5) for key in keys}
            for x in layers
        ]

    names = [{"name": x["name"], "index": x["index"]} for x in layers]
    shares = ("position_share", "context_share", "position_null", "low_frequency", "incoherence")
    more = ("low_frequency_shuffled", "incoherence_null", "cluster", "anisotropy", "stable_rank")
    tokens = ("dimension", "shuffled", "cosine", "cosine_shuffled", "overlap", "overlap_shuffled")
    corpora = HOSTILE if hostile else LABELS
    verdicts = (True, False, None)
    return {
        "positional": [
            row
            | {key: rng.random() for key in (*shares, *more, "anisotropy_null")}
            | {"contexts": 300, "length": 63}
            for row in names
        ],
        "profile": {
            "pooling": "mean",
            "n": 2000,
            "by": "geometry/two-nn",
            "phase": {"peak": 3, "onset": 2, "end": 4, "level": 11.0, "clear": True},
            "rows": profile(0),
            "shuffled": {"rows": profile(0.1)},
        },
        "tokens": {
            "prompts": 40,
            "length": 255,
            "loss": mean(3.2),
            "rows": [
                row | {key: mean(rng.random()) for key in tokens} | {"correlation": mean(0.4)}
                for row in names
            ],
        },
        "compression": {
            "corpora": list(corpora),
            "bits": [rng.uniform(3, 6) for _ in corpora],
            "n_each": 250,
            "n": len(corpora),
            "dimensions": {
                "geometry/two-nn": [[rng.uniform(8, 16) for _ in corpora] for _ in layers]
            },
            "correlation": {"geometry/two-nn": mean(0.7)},
        },
        "local_rank": {
            "contexts": 3,
            "tried": 384,
            "dim": 384,
            "eps": 0.1,
            "rows": [row | {"rank": rng.uniform(40, 300)} for row in names[1:]],
        },
        "claims": [
            {
                "part": part,
                "paper": HOSTILE[0] if hostile else "Someone 2030",
                "link": "javascript:alert(4)" if hostile else "https://arxiv.org/abs/2310.04861",
                "claim": HOSTILE[1] if hostile else "It rises in the middle",
                "found": HOSTILE[6] if hostile else "12.3 against 4.5",
                "agrees": verdicts[place % 3],
            }
            for place, part in enumerate(
                ("positional", "positional", "profile", "tokens", "compression", "local_rank")
            )
        ],
        "points": {"n": 1000, "estimates": {"geometry/mle": _estimate(9.1, 1000, 0.4)}},
    }


def sample_report(
    *,
    n_weights: int = 36,
    n_layers: int = 7,
    hostile: bool = False,
    deep: bool = False,
    seed: int = 0,
) -> Report:
    """Build a report with every section; ``hostile`` puts markup and worse into every string."""
    rng = random.Random(seed)
    dim, n = 384, 2000
    names = [
        f"encoder.layer.{i // 6}.{KINDS[i % 6].replace(' ', '.')}.weight" for i in range(n_weights)
    ]
    layer_names = ["embeddings", *(f"encoder.layer.{i}" for i in range(n_layers - 1))]
    labels, texts = LABELS, GLOSSES
    if hostile:
        labels, texts = HOSTILE, HOSTILE
        names = [HOSTILE[i % len(HOSTILE)] + str(i) for i in range(n_weights)]
        layer_names = [HOSTILE[i % len(HOSTILE)] for i in range(n_layers)]
    shapes = {"mlp up": (1536, 384), "mlp down": (384, 1536)}
    weights = [
        _weight(name, KINDS[i % 6], *shapes.get(KINDS[i % 6], (384, 384)), rng)
        for i, name in enumerate(names)
    ]
    layers = [
        {
            "name": name,
            "index": i,
            "n": n,
            "dim": dim,
            "spectrum": _spectrum(dim, 6 - 2 * i / n_layers, 0.03),
            "estimates": _points_estimates(dim, n, i / max(n_layers - 1, 1), rng),
        }
        for i, name in enumerate(layer_names)
    ]
    advice = [
        entry | {"title": HOSTILE[0] + entry["title"], "text": HOSTILE[1], "how": HOSTILE[2]}
        if hostile
        else entry
        for entry in ADVICE
    ]
    return Report(
        source={
            "kind": "model",
            "name": HOSTILE[0] if hostile else "all-MiniLM-L6-v2",
            "path": "/models/all-MiniLM-L6-v2",
            "architecture": "BertModel",
            "role": "encoder",
            "n_layers": n_layers - 1,
            "dim": dim,
            "parameters": 22_713_216,
            "texts": HOSTILE[1] if hostile else "WordNet glosses",
            "n": n,
            "n_labels": len(labels),
        },
        options={"pooling": "mean", "max_points": 20_000, "seed": 0, "memory": None},
        environment={
            "python": "3.11.4",
            "torch": "2.13.0",
            "platform": "Linux x86_64",
            "threads": 2,
        },
        methods={
            id: {
                "id": id,
                "question": question,
                "paper": paper,
                "link": f"https://arxiv.org/abs/{arxiv}" if arxiv else None,
                "cost": "O(n)",
                "needs": ["neighbors(k=2)"],
                "oracle": None,
                "invariant": ["permutation"],
            }
            for id, (question, paper, arxiv) in PAPERS.items()
        },
        weights=weights,
        layers=layers,
        cka=[[math.exp(-0.13 * abs(i - j)) for j in range(n_layers)] for i in range(n_layers)],
        embedding=_embedding(dim, n, labels, texts, rng),
        advice=advice,
        deep=_deep(layers, hostile, rng) if deep else None,
        notes=[
            "12 texts were longer than 256 tokens and were cut.",
            HOSTILE[0] if hostile else "1 tensor of integers was skipped.",
        ],
        created="2026-03-01T12:00:00+00:00",
        seconds=41.3,
        peak_bytes=2_040_109_465,
        complete=True,
        lowdim="0.1.0",
    )
