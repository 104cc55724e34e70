"""Texts as padded batches of tokens: longest first, sized by token count, put back by their number.

Padding stands on the right, where it shifts no position, and is masked; so what a text gives does
not depend on its batch, up to rounding.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import torch
from torch import Tensor

from lowdim.core.memory import plan
from lowdim.core.progress import Advance
from lowdim.core.random import choice
from lowdim.errors import InputError
from lowdim.io.models import Model

LARGEST_CPU, LARGEST = 2**10, 2**15
"""Tokens beyond which a batch gains nothing, on a CPU and on other devices."""


@dataclass(frozen=True)
class Tokens:
    """Texts as token numbers, one after the other.

    Attributes
    ----------
    ids : Tensor
        (tokens,) int64, special ones included.
    kept : Tensor
        (tokens,) bool, False at the special tokens that the tokenizer added.
    lengths : Tensor
        (n,) tokens of each text.
    n_cut : int
        How many texts reach the limit, beyond which they are cut.
    """

    ids: Tensor
    kept: Tensor
    lengths: Tensor
    n_cut: int

    @property
    def texts(self) -> Tensor:
        """(tokens,) the number of the text that each token is of."""
        return torch.arange(len(self.lengths)).repeat_interleave(self.lengths)

    @cached_property
    def starts(self) -> Tensor:
        """(n,) where the first token of each text lies."""
        return self.lengths.cumsum(0) - self.lengths

    def sample(self, size: int, seed: int) -> Tokens:
        """Keep a uniform sample of the tokens now kept."""
        where = self.kept.nonzero()[:, 0]
        kept = torch.zeros_like(self.kept)
        kept[where[choice(len(where), size, seed=seed)]] = True
        return dataclasses.replace(self, kept=kept)


@dataclass(frozen=True)
class Batch:
    """Some texts, padded on the right to one length.

    Attributes
    ----------
    texts : Tensor
        (b,) their numbers.
    places : Tensor
        (b, t) where each token lies in :class:`Tokens`; no meaning at padding.
    ids : Tensor
        (b, t) the tokens.
    mask : Tensor
        (b, t) bool, False at padding.
    kept : Tensor
        (b, t) bool, the tokens that :class:`Tokens` keeps.
    """

    texts: Tensor
    places: Tensor
    ids: Tensor
    mask: Tensor
    kept: Tensor

    def to(self, device: torch.device) -> Self:
        """What a model reads, on another device; the numbers of texts and tokens stay."""
        moved = {name: getattr(self, name).to(device) for name in ("ids", "mask", "kept")}
        return dataclasses.replace(self, **moved)


def check_texts(texts: Sequence[str]) -> None:
    """Raise an error unless there is at least one text, and all are strings."""
    if isinstance(texts, str) or not len(texts):
        raise InputError("texts: give a list of at least one text")
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise InputError(f"text {i} is a {type(text).__name__}: give strings")


def tokenize(
    model: Model,
    texts: Sequence[str],
    max_length: int | None = None,
    *,
    second: Sequence[str] | None = None,
) -> Tokens:
    """Turn texts into the model's tokens, cut at ``max_length`` or at what the model can take.

    With ``second`` each text is read together with its second one, as the tokenizer joins pairs;
    the longer of the two is cut first.
    """
    check_texts(texts)
    limit = min(max_length or model.max_length, model.max_length)
    found = model.tokenizer(
        list(texts),
        None if second is None else list(second),
        truncation=True,
        max_length=limit,
        padding=False,
        return_attention_mask=False,
        return_special_tokens_mask=True,
    )
    lengths = torch.tensor([len(ids) for ids in found["input_ids"]])
    if not bool(lengths.all()):
        raise InputError(f"text {int((lengths == 0).nonzero()[0])} has no tokens: remove it")
    return Tokens(
        ids=torch.tensor([i for ids in found["input_ids"] for i in ids]),
        kept=torch.tensor([not special for row in found["special_tokens_mask"] for special in row]),
        lengths=lengths,
        n_cut=int((lengths >= limit).sum()),
    )


def batch_size(
    model: Model,
    tokens: Tokens,
    what: str,
    *,
    n_states: int = 1,
    head: bool = False,
    fixed: int = 0,
    memory: int | float | str | None = None,
) -> int:
    """How many tokens fit in a batch of ``what``?

    Parameters
    ----------
    n_states : int
        Hidden states that are held at once.
    head : bool
        Whether the scores of all next tokens are computed.
    fixed : int
        Bytes held throughout.

    Raises
    ------
    MemoryBudgetError
        Not even the longest text fits.
    """
    config, longest = model.config, int(tokens.lengths.max())
    inner = getattr(config, "intermediate_size", None) or 4 * model.dim
    numbers = (n_states + 8) * model.dim + 3 * inner  # for each token
    if getattr(config, "_attn_implementation", None) == "eager":
        numbers += 2 * config.num_attention_heads * longest
    if head:
        numbers += 3 * config.vocab_size
    largest = LARGEST_CPU if model.device.type == "cpu" else LARGEST
    texts = plan(
        what,
        rows=len(tokens.lengths),
        bytes_per_row=4 * numbers * longest,
        fixed=fixed,
        memory=memory,
        largest=-(-largest // longest),
    )
    return texts * longest


def batches(
    model: Model, tokens: Tokens, size: int, progress: Advance | None = None
) -> Iterator[Batch]:
    """All texts, longest first, in batches of at most ``size`` tokens, padding counted.

    ``progress`` is told of each batch when the next one is asked for.
    """
    order = tokens.lengths.argsort(descending=True, stable=True)
    while len(order):
        width = int(tokens.lengths[order[0]])
        texts, order = order.tensor_split([max(1, size // width)])
        yield padded(model, tokens, texts)
        if progress is not None:
            progress(len(tokens.lengths) - len(order), len(tokens.lengths))


def padded(model: Model, tokens: Tokens, texts: Tensor) -> Batch:
    """Make one batch of the texts of these numbers, on the model's device."""
    lengths, device = tokens.lengths[texts], model.device
    column = torch.arange(int(lengths.max()))
    mask = column < lengths[:, None]  # (b, t)
    places = (tokens.starts[texts, None] + column).where(mask, 0)
    return Batch(
        texts=texts,
        places=places,
        ids=tokens.ids[places].where(mask, _pad_token(model)).to(device),
        mask=mask.to(device),
        kept=(tokens.kept[places] & mask).to(device),
    )


def _pad_token(model: Model) -> int:
    """Any token will do behind the mask; some models number positions by their own pad token."""
    for pad in (model.tokenizer.pad_token_id, model.config.pad_token_id):
        if isinstance(pad, int) and pad >= 0:
            return pad
    return 0
