"""Sentences of ten domains as files for ``lowdim strata``: python -m benchmarks.domain_files X."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from benchmarks.inputs_text import domain_embeddings, domains


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="minilm", choices=["minilm", "mpnet"])
    parser.add_argument("--each", type=int, default=1_000, help="sentences of a domain")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    texts, labels = domains(args.each)
    layers, _ = domain_embeddings(args.model, args.each)
    np.save(args.folder / f"{args.model}.npy", layers["embedding"].numpy())
    (args.folder / "labels.csv").write_text("\n".join(["domain", *labels]) + "\n")
    lines = (json.dumps({"text": text}) + "\n" for text in texts)
    (args.folder / "texts.jsonl").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
