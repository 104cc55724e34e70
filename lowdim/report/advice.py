"""What you can do: each recommendation was tried in the same run and carries its figure.

A trial that does not help returns nothing. Whatever has a choice in it (a layer, a number of
components, an energy) is chosen on one half of the data and measured on the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lowdim.core.estimate import format_number
from lowdim.core.neighbors import Neighbors
from lowdim.core.points import unit_rows
from lowdim.core.random import permutation
from lowdim.core.subspace import Subspace
from lowdim.retrieval.size_recall import SizeRecallRow, smallest

MOST = 7
RECALL_TARGETS = (0.98, 0.95, 0.9)
VOTERS = 10
TOP_COMPONENTS = (0, 1, 2, 3)

Advice = dict[str, Any]


def index_advice(section: dict[str, Any]) -> list[Advice]:
    """The smallest vector format at each recall that its measured lower bound still reaches."""
    table = section.get("size_recall")
    if not table:
        return []
    rows = [SizeRecallRow(**row) for row in table["rows"]]
    advice: list[Advice] = []
    full = section["dim"] * 4
    taken = full
    for target in RECALL_TARGETS:
        row = smallest([r for r in rows if r.bytes < taken / 1.3], target)
        if row is None:
            continue
        taken = row.bytes
        before, after = section["dim"], row.dims
        pca = after != before
        dims = f"{before} -> {after} dims in" if pca else f"Keep all {before} dims, in"
        k = table["k"]
        advice.append(
            {
                "kind": "index",
                "title": f"{dims} {row.format}: {format_number(row.ratio)}x smaller, "
                f"recall@{k} {row.recall:.3f} on {table['n_queries']} held-out queries",
                "text": (f"PCA to {after} dimensions, fitted without the queries, " if pca else "")
                + f"{row.format} codes: the smallest of {len(table['rows'])} sizes tried whose "
                f"recall@{k} against exact float32 search stays above {target} (lower end "
                f"{row.low:.3f}).",
                "measured": {
                    "bytes per vector": row.bytes,
                    f"recall@{k}": row.recall,
                    "lower end": row.low,
                },
                "baseline": {"bytes per vector": full, f"recall@{k}": 1.0},
                "how": "from lowdim.retrieval import size_recall\n"
                f"size_recall(x, dims=[{after}], formats=['{row.format}'])",
            }
        )
    return advice[:2]


def duplicate_advice(section: dict[str, Any]) -> list[Advice]:
    """Rows that say again what another row says, where they are worth a clean-up (0.5% of rows)."""
    near = section["estimates"].get("geometry/near-duplicates")
    count = section["duplicates"] + (int(near["value"]) // 2 if near else 0)  # a pair is two rows
    if count < max(2, 0.005 * section["n"]):
        return []
    share = count / section["n"]
    return [
        {
            "kind": "data",
            "title": f"{count} of {section['n']} rows are exact or near duplicates: "
            f"{share:.1%} of the rows could go",
            "text": f"{section['duplicates']} rows equal an earlier row exactly; the rest lie "
            "closer to another row than a quarter of the median nearest-neighbour distance. The "
            "list with their texts is in the section on the embedding.",
            "measured": {"rows that could go": count, "share": share},
            "baseline": {},
            "how": "import lowdim\nlowdim.measure(x, 'near-duplicates')['near-duplicates'].pairs",
        }
    ]


def knn_correct(x: Tensor, labels: Sequence[str]) -> Tensor:
    """(n,) whether a vote of the 10 nearest other rows (by cosine) finds the row's own label."""
    names = sorted(set(labels))
    code = torch.tensor([names.index(label) for label in labels])
    near = Neighbors.of_points(unit_rows(x), min(VOTERS, len(x) - 1)).indices  # (n, k)
    votes = torch.nn.functional.one_hot(code[near.cpu()], len(names)).sum(1)  # (n, labels)
    return votes.argmax(1) == code


def without_top(x: Tensor, components: int) -> Tensor:
    """Centre the rows and remove their leading principal directions."""
    centred = x - x.mean(0)
    if components == 0:
        return centred
    top = Subspace.of_points(x, rank=components).basis.to(x.dtype)  # (d, c)
    return centred - centred @ top @ top.T


def centering_advice(x: Tensor, labels: Sequence[str], seed: int) -> list[Advice]:
    """Does removing the common direction of all rows help neighbours agree on labels?"""
    plain = knn_correct(x, labels)
    tried = {c: knn_correct(without_top(x, c), labels) for c in TOP_COMPONENTS if c < x.shape[1]}
    choose, test = _halves(len(x), seed)
    best = max(tried, key=lambda c: float(tried[c][choose].double().mean()))
    gain, margin = _paired_gain(plain[test], tried[best][test])
    if gain <= margin:
        return []
    before, after = (float(c[test].double().mean()) for c in (plain, tried[best]))
    what = "Subtract the mean" + (f" and the top {best} principal directions" if best else "")
    return [
        {
            "kind": "index",
            "title": f"{what}: {VOTERS}-NN label accuracy {before:.3f} -> {after:.3f} on "
            f"{len(test):,} held-out rows",
            "text": "All rows share a direction that says nothing of their label. The number of "
            "directions was chosen on one half of the rows and is measured on the other.",
            "measured": {"accuracy": after, "margin of the gain (95%)": margin},
            "baseline": {"accuracy": before},
            "how": "from lowdim import Subspace\n"
            + (
                f"top = Subspace.of_points(x, rank={best})\nx = x - top.reconstruct(top.project(x))"
                if best
                else "x = x - x.mean(0)"
            ),
        }
    ]


def layer_advice(
    layers: Sequence[Tensor], names: Sequence[str], labels: Sequence[str], seed: int
) -> list[Advice]:
    """Is an earlier layer as good as the last one for neighbours that share a label?"""
    tried = [knn_correct(x, labels) for x in layers]
    choose, test = _halves(len(labels), seed)
    last = len(layers) - 1
    chosen = [float(correct[choose].double().mean()) for correct in tried]
    index = next((i for i in range(1, last) if chosen[i] >= chosen[last]), last)
    before, after = (float(tried[i][test].double().mean()) for i in (last, index))
    if index >= last or after < before:
        return []
    return [
        {
            "kind": "layers",
            "title": f"Stop at {names[index]} of {last}: {VOTERS}-NN label accuracy "
            f"{after:.3f} against {before:.3f} at the end",
            "text": f"The pooled output of {names[index]} separates the labels no worse than the "
            "last layer: the earliest such on one half of the rows, measured on the other. The "
            "layers after it need not be run for such a use.",
            "measured": {"accuracy": after, "layers run": index},
            "baseline": {"accuracy": before, "layers run": last},
            "how": f"hidden_states(model, texts).layers[{index}]  # lowdim.io.activations",
        }
    ]


def _halves(n: int, seed: int) -> tuple[Tensor, Tensor]:
    order = permutation(n, seed=seed)
    return order[: n // 2], order[n // 2 :]


def _paired_gain(before: Tensor, after: Tensor) -> tuple[float, float]:
    """Mean gain of ``after`` over ``before`` on the same rows, and its 95% margin."""
    change = after.double() - before.double()
    margin = 1.96 * float(change.std()) / len(change) ** 0.5 if len(change) > 1 else float("inf")
    return float(change.mean()), margin
