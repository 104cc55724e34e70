"""How does a sentence-transformers folder make one vector of a text? Read as plain JSON."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lowdim.errors import InputError
from lowdim.io.config import read_json, read_object

POOLINGS = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "last",
}
"""The rules that are followed, by the names of the older form."""


@dataclass(frozen=True)
class SentenceRule:
    """How hidden states become a text's vector.

    Attributes
    ----------
    pooling : str
        ``mean``, ``cls`` or ``last``.
    normalize : bool
        Whether the vector is scaled to length one.
    max_length : int or None
        Most tokens of a text.
    notes : tuple of str
        What of the folder is not followed.
    """

    pooling: str = "mean"
    normalize: bool = False
    max_length: int | None = None
    notes: tuple[str, ...] = ()


def is_sentence_model(folder: Path) -> bool:
    """Whether the folder was saved by sentence-transformers."""
    return (folder / "modules.json").is_file()


def read_sentence_rule(folder: Path) -> SentenceRule:
    """The rule of a folder; the masked mean where it has none.

    Raises
    ------
    InputError
        A pooling other than the mean, the first or the last token, or a damaged file.
    """
    if not is_sentence_model(folder):
        return SentenceRule()
    modules = read_json(folder / "modules.json")
    if not isinstance(modules, list) or not all(isinstance(m, dict) for m in modules):
        raise InputError(f"{folder / 'modules.json'} is no list of modules: fetch the folder again")
    pooling, normalize, notes = "mean", False, []
    for module in modules:
        kind = str(module.get("type", "")).rsplit(".", 1)[-1]
        if kind == "Pooling":
            pooling = _pooling(folder / str(module.get("path")) / "config.json")
        elif kind == "Normalize":
            normalize = True
        elif kind != "Transformer":
            notes.append(f"the folder's {kind} module after the pooling is left out")
    limits, max_length = folder / "sentence_bert_config.json", None
    if limits.is_file():
        max_length = read_object(limits).get("max_seq_length")
    return SentenceRule(pooling, normalize, max_length, tuple(notes))


def _pooling(path: Path) -> str:
    values = read_object(path)
    chosen = [name for name, on in values.items() if name.startswith("pooling_mode") and on is True]
    if "pooling_mode" in values:  # the newer form: one word
        chosen = [f"pooling_mode_{values['pooling_mode']}"]
    known = POOLINGS | {f"pooling_mode_{rule}": rule for rule in POOLINGS.values()}
    if len(chosen) != 1 or chosen[0] not in known:
        raise InputError(
            f"{path} asks for {' and '.join(chosen) or 'no pooling'}: "
            "mean, cls and lasttoken are followed, one at a time"
        )
    return known[chosen[0]]
