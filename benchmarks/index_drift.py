"""Are another model's vectors told from another kind of text of the same model?

A codec is fitted to each of ten domains and to definitions, all of MiniLM, and shown every other
one: what their vectors retain of its fingerprint has to stay above the line that warns. Below it
have to be what MiniLM's fine-tune and a turned or shuffled MiniLM say of the same definitions, and
the first 384 columns of MPNet.

python -m benchmarks.index_drift
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from torch import Tensor

from benchmarks.harness import Row, report
from benchmarks.index_compatible import fine_tune
from benchmarks.inputs import minilm_embeddings
from benchmarks.inputs_text import domain_embeddings
from lowdim.core.points import unit_rows
from lowdim.core.random import normal, permutation
from lowdim.retrieval.drift import RETAINED, Fingerprint


def texts(model: str) -> dict[str, Tensor]:
    """(1000, d) vectors of each of ten domains."""
    found, labels = domain_embeddings(model, 1_000)
    names = np.array(labels)
    return {str(name): found["embedding"][names == name] for name in np.unique(names)}


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    kinds = texts("minilm") | {"definitions": minilm_embeddings(10_000)[:5_000]}
    turn = torch.linalg.qr(normal((384, 384), seed=0)).Q
    others = {
        "its fine-tune": fine_tune(5_000)[1],
        "turned": kinds["definitions"] @ turn,
        "shuffled columns": kinds["definitions"][:, permutation(384, 0)],
        "MPNet, first 384 columns": unit_rows(
            torch.cat([*texts("mpnet").values()])[:, :384].contiguous()
        ),
    }
    same: list[float] = []
    most = dict.fromkeys(others, -1.0)
    for name, x in kinds.items():
        fingerprint = Fingerprint.of(x)
        if fingerprint is None:
            raise SystemExit(f"{name}: the vectors spread too evenly to tell")
        same += [fingerprint.retained(y) or 0.0 for other, y in kinds.items() if other != name]
        for other, y in others.items():
            most[other] = max(most[other], fingerprint.retained(y) or 0.0)
    line = f">= {RETAINED}"
    rows = [Row(f"other kinds of text, least of {len(same)} pairs", min(same), "", line)]
    rows += [
        Row(f"{name}, most", value, "", "" if "fine-tune" in name else line.replace(">", "<"))
        for name, value in most.items()
    ]
    report("index_drift", rows)


if __name__ == "__main__":
    main()
