"""Text to adapt a model to: labels to tell apart, or text to continue.

Batches are made of texts of similar length, so that little is padding: the shuffled texts are cut
into stretches of 32 batches, each stretch is sorted by length, and its batches are shuffled again.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lowdim.adapt.method import Draws
from lowdim.adapt.targets import Targets
from lowdim.adapt.task import Score, accuracy, fingerprint, held_out
from lowdim.adapt.text_data import Data, Examples, labelled_examples, read_examples
from lowdim.core.random import permutation
from lowdim.errors import InputError
from lowdim.io.activations import perplexity, pool
from lowdim.io.batches import Batch, Tokens, batch_size, batches, padded, tokenize
from lowdim.io.models import Model, load_model

HEAD = "classifier"
HEAD_STD = 0.02  # as the transformers library draws new heads
STRETCH = 32  # batches that are sorted by length together
SPLIT, ORDER = 2**31, 2**30  # streams of the seed that no epoch uses: of the split, of batches

ATTENTION = (
    ("query", "value"),  # BERT, RoBERTa, ELECTRA, XLM-R
    ("q_proj", "v_proj"),  # Llama, Mistral, Qwen2, Gemma, OPT, GPT-J
    ("attn.q", "attn.v"),  # MPNet
    ("c_attn",),  # GPT-2: queries, keys and values in one
    ("q_lin", "v_lin"),  # DistilBERT
    ("query_proj", "value_proj"),  # DeBERTa
    ("query_key_value",),  # GPT-NeoX, BLOOM, Falcon
    ("qkv_proj",),  # Phi-3
    ("SelfAttention.q", "SelfAttention.v"),  # T5
    ("Wqkv",),  # ModernBERT
)
"""What queries and values go by: the targets of the LoRA paper."""


@dataclass(frozen=True)
class LabelledBatch(Batch):
    """Some texts and (b,) the number of the label of each."""

    labels: Tensor


@dataclass(frozen=True)
class TextTask:
    """What both tasks have: a base, data, and batches of texts of similar length."""

    base: Model
    train: Examples = field(repr=False)
    valid: Examples = field(repr=False)
    batch_size: int
    max_length: int
    targets: Targets

    @cached_property
    def train_tokens(self) -> Tokens:
        """Tokens of the training texts."""
        return tokenize(self.base, self.train.texts, self.max_length, second=self.train.second)

    @cached_property
    def valid_tokens(self) -> Tokens:
        """Tokens of the held-out texts."""
        return tokenize(self.base, self.valid.texts, self.max_length, second=self.valid.second)

    @cached_property
    def key(self) -> str:
        """Digest of the base, the tokens, the labels and the batch size."""
        tokens = (self.train_tokens, self.valid_tokens)
        state = self.base.module.state_dict().values()
        held = fingerprint([*state, *(x for t in tokens for x in (t.ids, t.lengths))])
        rest = f"{held} {self.train.labels} {self.valid.labels} {self.batch_size}"
        return hashlib.sha256(rest.encode()).hexdigest()

    def n_batches(self) -> int:
        """Batches in an epoch."""
        return -(-len(self.train) // self.batch_size)

    def tuning(self) -> Self:
        """A fifth of the training texts are held out in place of the held-out ones."""
        n = len(self.train)
        out, kept = permutation(n, 0, SPLIT).tensor_split([held_out(n)])
        return replace(self, train=self.train.of(kept), valid=self.train.of(out))

    def _rows(self, seed: int, epoch: int) -> Iterator[Tensor]:
        """Numbers of the texts of each batch of an epoch."""
        lengths = self.train_tokens.lengths
        parts: list[Tensor] = []
        for stretch in permutation(len(self.train), seed, epoch).split(STRETCH * self.batch_size):
            parts += stretch[lengths[stretch].argsort(stable=True)].split(self.batch_size)
        for i in permutation(len(parts), seed, ORDER + epoch).tolist():
            yield parts[i]


@dataclass(frozen=True)
class TextClassification(TextTask):
    """Which label has a text? The body of a model, and a new linear head ``classifier``.

    The model keeps its class and the names of its parameters, with the head beside them, so that
    adapters load into the same model without the head.
    """

    labels: tuple[str, ...]
    also: tuple[str, ...] = (HEAD,)

    def fresh(self, seed: int = 0) -> nn.Module:
        """A copy of the body, and a head drawn from the seed."""
        model = copy.deepcopy(self.base.body).requires_grad_(True)
        if getattr(model, "pooler", None) is not None:
            model.register_module("pooler", None)  # its output is never read
        head = nn.Linear(self.base.dim, len(self.labels))
        shape = (len(self.labels), self.base.dim)
        with torch.no_grad():
            head.weight.copy_(Draws(seed, HEAD).normal("weight", shape, HEAD_STD))
            head.bias.zero_()
        model.add_module(HEAD, head.to(self.base.device))
        return model

    def batches(self, seed: int, epoch: int) -> Iterator[LabelledBatch]:
        """Batches of similar length, shuffled anew each epoch."""
        labels = self._numbers(self.train)
        for rows in self._rows(seed, epoch):
            batch = padded(self.base, self.train_tokens, rows)
            yield LabelledBatch(**vars(batch), labels=labels[rows])

    def scores(self, model: nn.Module, batch: Batch) -> Tensor:
        """(b, labels) logits of a batch: pooled as the model pools, then the head."""
        batch = batch.to(_device(model))
        states = _states(model, batch)  # (b, t, d)
        rule = "last" if self.base.kind == "causal" else self.base.pooling
        return model.get_submodule(HEAD)(pool(self.base, states, batch, rule))

    def loss(self, model: nn.Module, batch: LabelledBatch) -> Tensor:
        """Mean cross entropy of a batch."""
        scores = self.scores(model, batch)
        return cross_entropy(scores, batch.labels.to(scores.device))

    def evaluate(self, model: nn.Module) -> Score:
        """Accuracy on the held-out texts, with Wilson's interval."""
        found = self._classify(model, self.valid_tokens)
        return accuracy(found == self._numbers(self.valid))

    def predict(self, model: nn.Module, texts: Sequence[str]) -> list[str]:
        """The likeliest label of each text."""
        found = self._classify(model, tokenize(self.base, texts, self.max_length))
        return [self.labels[i] for i in found.tolist()]

    @torch.no_grad()
    def _classify(self, model: nn.Module, tokens: Tokens) -> Tensor:
        """(n,) numbers of the likeliest labels."""
        found = torch.empty(len(tokens.lengths), dtype=torch.int64)
        training = model.training
        model.eval()
        try:
            size = batch_size(self.base, tokens, "the score")
            for batch in batches(self.base, tokens, size):
                found[batch.texts] = self.scores(model, batch).argmax(1).cpu()
        finally:
            model.train(training)
        return found

    def _numbers(self, examples: Examples) -> Tensor:
        """(n,) the number of each label."""
        index = {label: i for i, label in enumerate(self.labels)}
        return torch.tensor([index[label] for label in examples.labels or ()])


@dataclass(frozen=True)
class CausalLM(TextTask):
    """Which token comes next? A causal model with its own output head, nothing new to train."""

    also: tuple[str, ...] = ()

    def fresh(self, seed: int = 0) -> nn.Module:
        """A copy of the model; the seed has no part in it."""
        return copy.deepcopy(self.base.module).requires_grad_(True)

    def batches(self, seed: int, epoch: int) -> Iterator[Batch]:
        """Batches of similar length, shuffled anew each epoch."""
        for rows in self._rows(seed, epoch):
            yield padded(self.base, self.train_tokens, rows)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Mean over the batch's tokens, but each text's first, of minus the log-likelihood."""
        batch = batch.to(_device(model))
        output = model(input_ids=batch.ids, attention_mask=batch.mask.long(), return_dict=True)
        is_token = batch.mask[:, 1:]
        return cross_entropy(output.logits[:, :-1][is_token], batch.ids[:, 1:][is_token])

    def evaluate(self, model: nn.Module) -> Score:
        """Perplexity of the held-out texts; the interval takes texts as independent."""
        training = model.training
        model.eval()
        try:
            found = perplexity(replace(self.base, module=model), self.valid.texts,
                               max_length=self.max_length)  # fmt: skip
        finally:
            model.train(training)
        counts = self.valid_tokens.lengths - 1
        assert found.per_point is not None
        nats = found.per_point.log() * counts  # of each text
        items = nats.where(counts > 0, 0) * len(counts) / counts.sum()
        low = 1.0 if found.low is None else found.low  # of one text nothing is known
        high = float("inf") if found.high is None else found.high
        return Score(found.value, "perplexity", False, low, high, found.n, items)


def text_classification(
    model_folder: str | Path,
    train: Data,
    valid: Data,
    *,
    second: str | None = None,
    batch_size: int = 16,
    max_length: int = 128,
    targets: Targets | None = None,
    device: torch.device | str | None = None,
) -> TextClassification:
    """How well can this model be adapted to tell these labels apart?

    Parameters
    ----------
    model_folder : path
        An encoder, read with its own pooling, or a causal model, read at its last token; see
        :func:`lowdim.io.models.load_model`. What a sentence model does after pooling (scaling to
        length one) is left out: the head reads the pooled vector as it is.
    train, valid : path, Texts, Examples or list
        Texts with labels: a ``.jsonl``, ``.json``, ``.csv`` or ``.parquet`` with ``text`` and
        ``label``; or a list of (text, label), or of (text, second text, label).
    second : str, optional
        Name of the field with the second text of each pair, in files. The two are joined as the
        tokenizer joins pairs; segment numbers are not given.
    batch_size : int
        Texts in a training batch.
    max_length : int
        Tokens beyond which a text is cut; at most what the model can take.
    targets : str, type or sequence of them, optional
        What is adapted: by default queries and values of the attention where the names are known
        (:data:`ATTENTION`), every linear layer otherwise.
    device : torch.device or str, optional
        Where it runs; the CPU by default.

    Raises
    ------
    InputError
        Unreadable files, no labels, a single label, or a held-out label that no training text has.
    """
    base = load_model(model_folder, device=device)
    _check_sizes(batch_size, max_length)
    known, held = (
        labelled_examples(train, second, "train"),
        labelled_examples(valid, second, "valid"),
    )
    labels = tuple(sorted(set(known.labels or ())))
    if len(labels) < 2:
        raise InputError(f"every training text has the label {labels[0]!r}: give at least two")
    if strange := set(held.labels or ()) - set(labels):
        raise InputError(f"valid has the label {min(strange)!r}, which no training text has")
    found = usual_targets(base.body) if targets is None else targets
    return TextClassification(base, known, held, batch_size, max_length, found, labels)


def causal_lm(
    model_folder: str | Path,
    train: Data,
    valid: Data,
    *,
    batch_size: int = 8,
    max_length: int = 256,
    targets: Targets | None = None,
    device: torch.device | str | None = None,
) -> CausalLM:
    """How well can this causal model be adapted to such text?

    Parameters
    ----------
    train, valid : path, Texts or list of str
        Texts, each read from its start: what lies beyond ``max_length`` tokens is left out. Cut
        long documents into several texts first.
    model_folder, batch_size, max_length, targets, device
        As for :func:`text_classification`.

    Raises
    ------
    InputError
        Not a causal model, unreadable files, or a training text of a single token.
    """
    base = load_model(model_folder, device=device)
    if base.kind != "causal":
        raise InputError(f"{base.architecture} predicts no next token: give a causal model")
    _check_sizes(batch_size, max_length)
    found = usual_targets(base.body) if targets is None else targets
    task = CausalLM(base, read_examples(train), read_examples(valid), batch_size, max_length, found)
    short = (task.train_tokens.lengths < 2).nonzero()
    if len(short):
        raise InputError(f"training text {int(short[0])} has a single token: remove it")
    return task


def usual_targets(model: nn.Module) -> Targets:
    """The names of its queries and values where they are known, ``linear`` otherwise."""
    names = [name for name, _ in model.named_modules()]
    for wanted in ATTENTION:
        if all(any(f".{name}".endswith(f".{want}") for name in names) for want in wanted):
            return wanted
    return "linear"


def _check_sizes(batch_size: int, max_length: int) -> None:
    if batch_size < 1 or max_length < 2:
        raise InputError(f"batch_size={batch_size}, max_length={max_length}: give at least 1 and 2")


def _states(model: nn.Module, batch: Batch) -> Tensor:
    """(b, t, d) of the last layer."""
    output = model(input_ids=batch.ids, attention_mask=batch.mask.long(), return_dict=True)
    return output.last_hidden_state


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device
