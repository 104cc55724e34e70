"""What a text model computes on text: hidden states, embeddings, inputs of its weights, perplexity.

Padding is never counted, and no result depends on the batch size or the order of the texts beyond
rounding. Peak memory is the result and one batch: a batch is pooled before the next one runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lowdim.core.estimate import Estimate
from lowdim.core.moments import Moments
from lowdim.core.points import unit_rows
from lowdim.core.progress import Advance
from lowdim.core.random import choice
from lowdim.errors import InputError
from lowdim.io.batches import Batch, Tokens, batch_size, batches, check_texts, tokenize
from lowdim.io.models import Model

POOLINGS = ("mean", "last", "tokens")


@dataclass(frozen=True)
class Activations:
    """Hidden states of every layer, one row a text or one row a token.

    Attributes
    ----------
    layers : list of Tensor
        L + 1 of (n, d) float32 on the CPU: the embedding output, then each layer. The last one is
        taken behind the final norm, as transformers defines it.
    names : list of str
        ``embedding``, ``layer 1``, ...
    rows : Tensor
        (n,) int64, the number of the text that each row is of.
    embedding : Tensor
        (n, d) what the model is used for: an encoder's own vector of each text (its pooling, and
        scaled to length one where it says so); the last layer for a causal model, and for tokens.
    token_count : int
        Tokens that went through the model, padding not counted.
    notes : tuple of str
        What a careful reader must know.
    """

    layers: list[Tensor] = field(repr=False)
    names: list[str]
    rows: Tensor = field(repr=False)
    embedding: Tensor = field(repr=False)
    token_count: int
    notes: tuple[str, ...] = ()


def hidden_states(
    model: Model,
    texts: Sequence[str],
    *,
    pooling: str = "mean",
    max_length: int | None = None,
    max_points: int | None = None,
    seed: int = 0,
    batch_tokens: int | None = None,
    memory: int | float | str | None = None,
    progress: Advance | None = None,
) -> Activations:
    """Where does a model put these texts, layer by layer?

    Parameters
    ----------
    model : Model
        See :func:`lowdim.io.models.load_model`.
    texts : sequence of str
        n texts.
    pooling : {"mean", "last", "tokens"}
        The masked mean of a text's tokens, its last token, or each token a row. Special tokens
        that the tokenizer adds count as tokens in the mean of an encoder, which is trained with
        them, and as a last token; they are left out of the mean of a causal model, where the state
        of a first special token is the same for every text, and of ``tokens``.
    max_length : int, optional
        Texts are cut at this many tokens; by default at what the model can take.
    max_points : int, optional
        More rows than this are replaced by a uniform sample, of the same rows in all layers.
    seed : int
        Seed of that sample.
    batch_tokens : int, optional
        Tokens in a batch; by default from the memory budget.
    memory : int, float or str, optional
        Budget of the result and of a batch together.
    progress : callable, optional
        Called with (texts done, texts in all).

    Raises
    ------
    InputError
        An unknown pooling, no texts, or a text without tokens (its number is named).
    MemoryBudgetError
        The result and the longest text do not fit.
    """
    if pooling not in POOLINGS:
        raise InputError(f"pooling={pooling!r}: choose from {', '.join(POOLINGS)}")
    check_texts(texts)
    rows, n_all = torch.arange(len(texts)), len(texts)
    if pooling != "tokens" and max_points is not None and max_points < n_all:
        rows = choice(n_all, max_points, seed=seed).sort().values
    tokens = tokenize(model, [texts[i] for i in rows.tolist()], max_length)
    if pooling == "tokens":
        n_all = int(tokens.kept.sum())
        if max_points is not None and max_points < n_all:
            tokens = tokens.sample(max_points, seed)
        rows = rows[tokens.texts[tokens.kept]]
    n, n_states = len(rows), model.n_layers + 1
    size = batch_tokens or batch_size(
        model,
        tokens,
        "hidden states",
        n_states=n_states,
        fixed=4 * n * model.dim * (n_states + 1),
        memory=memory,
    )
    row_of = tokens.kept.cumsum(0) - 1  # of each kept token
    layers: list[Tensor] = []
    own: Tensor | None = None  # the model's own embedding, where it has one
    for batch, states in _run(model, tokens, size, progress, every=True):
        if not layers:
            layers = [torch.empty(n, state.shape[2]) for state in states]
            if model.kind == "encoder" and pooling != "tokens":
                own = torch.empty_like(layers[-1])
        at = row_of[batch.places[batch.kept.cpu()]] if pooling == "tokens" else batch.texts
        for layer, state in zip(layers, states, strict=True):
            layer[at] = pool(model, state, batch, pooling).cpu()
        if own is not None:
            own[at] = _embedding(model, states[-1], batch).cpu()
    return Activations(
        layers=layers,
        names=["embedding", *(f"layer {i}" for i in range(1, len(layers)))],
        rows=rows,
        embedding=layers[-1] if own is None else own,
        token_count=len(tokens.ids),
        notes=_notes(model, tokens, n, n_all, pooling),
    )


def embed(
    model: Model,
    texts: Sequence[str],
    *,
    max_length: int | None = None,
    batch_tokens: int | None = None,
    memory: int | float | str | None = None,
    progress: Advance | None = None,
) -> Tensor:
    """Which vector does a model give each text?

    (n, d) float32 on the CPU, by the pooling and normalisation of the model; of a causal model the
    mean of the last layer. Parameters and errors as :func:`hidden_states`.
    """
    tokens = tokenize(model, texts, max_length)
    fixed = 4 * len(texts) * model.dim
    size = batch_tokens or batch_size(model, tokens, "embeddings", fixed=fixed, memory=memory)
    vectors = torch.empty(0)
    for batch, states in _run(model, tokens, size, progress, every=False):
        if not len(vectors):
            vectors = torch.empty(len(texts), states[0].shape[2])
        vectors[batch.texts] = _embedding(model, states[0], batch).cpu()
    return vectors


def _run(
    model: Model, tokens: Tokens, size: int, progress: Advance | None, *, every: bool
) -> Iterator[tuple[Batch, Sequence[Tensor]]]:
    """Each batch with its hidden states (b, t, d): every layer's, or the last."""
    for batch in batches(model, tokens, size, progress):
        output = _forward(model.body, batch, output_hidden_states=every)
        yield batch, output.hidden_states if every else (output.last_hidden_state,)


@torch.no_grad()
def _forward(module: nn.Module, batch: Batch, **options: Any) -> Any:
    return module(
        input_ids=batch.ids, attention_mask=batch.mask.long(), return_dict=True, **options
    )


def pool(model: Model, state: Tensor, batch: Batch, rule: str) -> Tensor:
    """(rows, d) of one layer's (b, t, d): a row a text, or a row a kept token."""
    if rule == "tokens":
        return state[batch.kept]
    if rule == "cls":
        return state[:, 0]
    if rule == "last":
        return state[torch.arange(len(state), device=state.device), batch.mask.sum(1) - 1]
    mask = (batch.kept if model.kind == "causal" else batch.mask)[..., None]  # (b, t, 1)
    count = mask.sum(1)
    if not bool(count.all()):
        text = int(batch.texts[int((count[:, 0] == 0).nonzero()[0])])
        raise InputError(f"text {text} has no tokens but special ones: remove it")
    return state.where(mask, 0).sum(1) / count


def _embedding(model: Model, state: Tensor, batch: Batch) -> Tensor:
    """(b, d) the model's own vectors, from its last layer's (b, t, d)."""
    vectors = pool(model, state, batch, model.pooling)
    return unit_rows(vectors) if model.normalize else vectors


def _notes(model: Model, tokens: Tokens, n: int, n_all: int, pooling: str) -> tuple[str, ...]:
    notes = list(model.notes)
    if n < n_all:
        what = "tokens" if pooling == "tokens" else "texts"
        notes.append(f"measured on a uniform sample of {n:,} of {n_all:,} {what}")
    if tokens.n_cut:
        limit = int(tokens.lengths.max())
        notes.append(f"{tokens.n_cut:,} texts reach {limit} tokens, where they are cut")
    return tuple(notes)


def input_moments(
    model: Model,
    texts: Sequence[str],
    modules: Sequence[str] | None = None,
    *,
    max_length: int | None = None,
    batch_tokens: int | None = None,
    memory: int | float | str | None = None,
    progress: Advance | None = None,
) -> dict[str, Moments]:
    """Which directions do the inputs of each weight really use?

    Parameters
    ----------
    modules : sequence of str, optional
        Names out of ``model.linears()``; all by default.

    Returns
    -------
    dict of Moments
        For each module the float64 moments of its (d_in,) inputs over all tokens but padding:
        ``.second_moment(center=False)`` is E[x x^T]. Modules that are given the same tensor
        (queries, keys and values) share one object. Left out are modules whose input is not one
        row a token, such as a pooler.

    Raises
    ------
    InputError
        An unknown module, no texts, a text without tokens, or inputs that are not finite.
    MemoryBudgetError
        The moments, d_in^2 each, and the longest text do not fit: name fewer ``modules``.

    Notes
    -----
    One pass over the texts, and 2 d_in^2 operations a token for each distinct input.
    """
    linears = model.linears()
    if unknown := set(modules or ()) - set(linears):
        raise InputError(f"the model has no linear module {min(unknown)!r}: see model.linears()")
    chosen = {name: m for name, m in linears.items() if modules is None or name in modules}
    tokens = tokenize(model, texts, max_length)
    leaders = _leaders(model, chosen, next(batches(model, tokens, 1)))
    dims = {leader: model.weight(leader).shape[1] for leader in leaders.values()}
    size = batch_tokens or batch_size(
        model,
        tokens,
        "moments of the inputs",
        fixed=8 * sum(d * d for d in dims.values()) + 16 * max(dims.values(), default=0) ** 2,
        memory=memory,
    )
    moments = {leader: Moments(d, device=model.device) for leader, d in dims.items()}
    for batch in batches(model, tokens, size, progress):

        def take(name: str, x: Tensor, mask: Tensor = batch.mask) -> None:
            moments[name].update(x[mask])  # (tokens, d_in)

        with _inputs({name: linears[name] for name in moments}, take):
            _forward(model.body, batch)
    return {name: moments[leader] for name, leader in leaders.items()}


def _leaders(model: Model, modules: dict[str, nn.Module], batch: Batch) -> dict[str, str]:
    """For each module that sees one row a token, the first that is given the same tensor."""
    seen: list[Tensor] = []  # held, so that no two tensors share an id
    first: dict[int, str] = {}
    leaders: dict[str, str] = {}

    def take(name: str, x: Tensor) -> None:
        if x.shape[:-1] == batch.mask.shape:
            seen.append(x)
            leaders[name] = first.setdefault(id(x), name)

    with _inputs(modules, take):
        _forward(model.body, batch)
    return leaders


@contextmanager
def _inputs(modules: dict[str, nn.Module], take: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Show ``take`` the input of each module in every forward pass within."""
    with ExitStack() as stack:
        for name, module in modules.items():
            hook = module.register_forward_pre_hook(lambda _, args, name=name: take(name, args[0]))
            stack.callback(hook.remove)
        yield


@contextmanager
def replaced_weight(model: Model, name: str, weight: Tensor) -> Iterator[None]:
    """Put another (out, in) weight in the place of a module's; the old one comes back after.

    ``name`` is one of ``model.linears()``. A weight that the module shares with another changes
    there too.
    """
    parameter = model.parameter(name)
    if model.is_transposed(name):
        weight = weight.T
    if weight.shape != parameter.shape:
        raise InputError(
            f"{name} holds {tuple(model.weight(name).shape)}, not {tuple(weight.shape)}: "
            "give a weight of the same shape (out, in)"
        )
    original = parameter.data
    parameter.data = weight.to(original)
    try:
        yield
    finally:
        parameter.data = original


def perplexity(
    model: Model,
    texts: Sequence[str],
    *,
    max_length: int | None = None,
    batch_tokens: int | None = None,
    memory: int | float | str | None = None,
    progress: Advance | None = None,
) -> Estimate:
    """How surprised is a causal model by these texts, token by token?

    exp of the mean negative log-likelihood of all tokens but each text's first, so a long text
    weighs more than a short one; padding is not counted. ``n`` is the number of tokens predicted;
    the interval treats texts, not tokens, as independent. ``per_point`` holds the
    perplexity of each text, nan for one of a single token.

    Raises
    ------
    InputError
        Not a causal model, or no text of two tokens.
    """
    if model.kind != "causal":
        raise InputError(f"{model.architecture} predicts no next token: give a causal model")
    tokens = tokenize(model, texts, max_length)
    size = batch_tokens or batch_size(model, tokens, "perplexity", head=True, memory=memory)
    losses = torch.zeros(len(texts), dtype=torch.float64)
    for batch in batches(model, tokens, size, progress):
        scores = _forward(model.module, batch).logits[:, :-1]  # (b, t - 1, vocabulary)
        next_ids, is_token = batch.ids[:, 1:], batch.mask[:, 1:]  # (b, t - 1)
        loss = nn.functional.cross_entropy(scores.mT, next_ids, reduction="none")
        losses[batch.texts] = loss.double().where(is_token, 0).sum(1).cpu()
    counts = tokens.lengths - 1
    total = int(counts.sum())
    if total == 0:
        raise InputError("no text has two tokens: there is nothing to predict")
    mean = float(losses.sum()) / total
    low, high = _interval(losses[counts > 0], counts[counts > 0], mean)
    return Estimate(
        value=_exp(mean), low=low, high=high, n=total, per_point=(losses / counts).exp()
    )


def _interval(losses: Tensor, counts: Tensor, mean: float) -> tuple[float | None, float | None]:
    """95% interval of exp(sum of losses / sum of counts), by the delta method over texts."""
    n = len(losses)
    if n < 2:
        return None, None
    spread = float((losses - mean * counts).square().sum()) * n / (n - 1)
    half = 1.96 * math.sqrt(spread) / float(counts.sum())
    return _exp(mean - half), _exp(mean + half)


def _exp(x: float) -> float:
    """Infinite, not an error, where a diverged model makes it so."""
    return float(torch.tensor(x, dtype=torch.float64).exp())
