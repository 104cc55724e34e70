"""A trained adapter as something that others load: stock LoRA, or a model without adapters."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import save as dump

from lowdim.adapt.attach import merge
from lowdim.adapt.export import to_lora
from lowdim.adapt.files import FACTS, load
from lowdim.adapt.record import attached
from lowdim.adapt.text_tasks import HEAD
from lowdim.errors import InputError, require
from lowdim.io.config import read_json
from lowdim.io.models import load_model, quiet
from lowdim.io.write import atomic_write, check_writable
from lowdim.report.adapt_setup import rebuilt

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FORMATS = ("peft", "merged")
SENTENCE = ("modules.json", "sentence_bert_config.json", "config_sentence_transformers.json")
"""Files that say how a sentence model pools."""


@dataclass(frozen=True)
class Shipped:
    """What was written.

    Attributes
    ----------
    folder : Path
        Where.
    words : str
        What it holds and how exact it is.
    """

    folder: Path
    words: str

    def __str__(self) -> str:
        return f"{self.folder}: {self.words}"


def export(
    adapter: str | Path,
    to: str,
    folder: str | Path,
    *,
    model: str | Path | None = None,
    rank: int | None = None,
) -> Shipped:
    """How does a trained adapter get to where it is served?

    Parameters
    ----------
    adapter : path
        Folder that ``lowdim adapt`` wrote.
    to : {"peft", "merged"}
        Stock LoRA, see :func:`lowdim.adapt.to_lora`; or a model folder with the updates in its
        weights, and beside it ``classifier.safetensors`` where a classifier was trained.
    folder : path
        Where to.
    model : path, optional
        Folder of the base; by default where it was when the adapter was trained.
    rank : int, optional
        Of peft: cut updates of a higher rank to this one.

    Raises
    ------
    InputError
        An adapter that says not what it was trained for, a base that is gone or has changed, an
        update that the format cannot hold.
    """
    if to not in FORMATS:
        raise InputError(f"--to {to}: choose {' or '.join(FORMATS)}")
    if to == "merged" and rank is not None:
        raise InputError("--rank cuts updates for peft: a merged model holds them whole")
    about = _about(Path(adapter))
    base = Path(model or about["model"])
    if not base.is_dir():
        raise InputError(f"the base {base} is not there: say where it is with --model")
    made = rebuilt(about, base)
    load(made, adapter)
    if to == "merged":
        return _merged(made, base, check_writable(folder), about)
    found = to_lora(made, folder, rank=rank)
    ranks = sorted(set(found.ranks.values()))
    span = f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks from {ranks[0]} to {ranks[-1]}"
    words = (
        f"stock LoRA of {span} on {len(found.ranks)} modules; the largest relative error of an "
        f"update is {found.error:.1g}"
    )
    return Shipped(found.folder, words)


def _about(folder: Path) -> dict[str, Any]:
    """What the training wrote down."""
    path = folder / FACTS
    if not path.is_file():
        raise InputError(f"{path} does not exist: give a folder that lowdim adapt wrote")
    facts = read_json(path)
    about = facts.get("about") if isinstance(facts, dict) else None
    if not isinstance(about, dict) or not {"task", "model"} <= about.keys():
        raise InputError(
            f"{path} says not which model and task it is for: lowdim adapt did not write it; in "
            "Python, load it and call lowdim.adapt.to_lora"
        )
    return about


def _merged(made: PreTrainedModel, base: Path, folder: Path, about: dict[str, Any]) -> Shipped:
    """A model folder of transformers, its tokenizer, and the head where there is one."""
    n = len(attached(made).distinct())
    merge(made)
    words = f"a model folder, {n} updates merged into its weights"
    if about["labels"]:
        head = made.get_submodule(HEAD)
        tensors = {name: x.contiguous() for name, x in head.state_dict().items()}
        labels = {"labels": json.dumps(about["labels"])}
        atomic_write(folder / f"{HEAD}.safetensors", dump(tensors, metadata=labels))
        delattr(made, HEAD)
        words += f"; {HEAD}.safetensors holds the head and its labels"
    with quiet(require("transformers", "models")):
        made.save_pretrained(folder)
    load_model(base).tokenizer.save_pretrained(folder)
    for name in SENTENCE:
        if (base / name).is_file():
            shutil.copy(base / name, folder)
    for pooling in base.glob("*_Pooling"):
        shutil.copytree(pooling, folder / pooling.name, dirs_exist_ok=True)
    return Shipped(folder, words)
