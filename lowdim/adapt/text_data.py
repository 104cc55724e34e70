"""Examples of a text task: from a file, or from lists of texts and labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from lowdim.errors import InputError
from lowdim.io.batches import check_texts
from lowdim.io.text import Texts, read_column, read_texts


@dataclass(frozen=True)
class Examples:
    """Texts of one kind: to train on, or held out."""

    texts: list[str] = field(repr=False)
    second: list[str] | None = field(default=None, repr=False)
    labels: list[str] | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.texts)

    def of(self, rows: Tensor) -> Examples:
        """Those of these numbers."""
        index = rows.tolist()
        second = None if self.second is None else [self.second[i] for i in index]
        labels = None if self.labels is None else [self.labels[i] for i in index]
        return Examples([self.texts[i] for i in index], second, labels)


Data = str | Path | Texts | Examples | Sequence[str] | Sequence[tuple[str, ...]]
"""A file, what was read of one, or a list: of texts, of (text, label), or of (text, second text,
label)."""


def labelled_examples(data: Data, second: str | None, what: str) -> Examples:
    """Read examples that have labels; ``what`` is what an error calls them."""
    examples = read_examples(data, second)
    if examples.labels is None:
        raise InputError(f"{what} has no labels: give each text a field 'label'")
    return examples


def read_examples(data: Data, second: str | None = None) -> Examples:
    """Read a file, or sort a list of texts or tuples into columns.

    ``second`` names the field of a file that holds the second text of each pair.
    """
    if isinstance(data, (str, Path)):
        found = read_texts(data)
        other = None if second is None else read_column(Path(data), second, default="text2")
        return Examples(found.texts, other, found.labels)
    if isinstance(data, Texts):
        return Examples(data.texts, None, data.labels)
    if isinstance(data, Examples):
        return data
    texts = [item for item in data if isinstance(item, str)]
    rows = [item for item in data if not isinstance(item, str)]
    if not rows:
        check_texts(texts)
        return Examples(texts)
    whole = all(isinstance(row, (tuple, list)) for row in rows)
    if texts or not whole or {len(row) for row in rows} not in ({2}, {3}):
        raise InputError("a list of examples: give (text, label) or (text, second text, label)")
    first, *between, labels = (list(column) for column in zip(*rows, strict=True))
    for column in (first, *between):
        check_texts(column)
    return Examples(first, between[0] if between else None, [str(label) for label in labels])
