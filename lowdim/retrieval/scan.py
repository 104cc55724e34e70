"""The best k rows for each query, from scores that come a block of rows at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.nn.functional import pad

from lowdim.core.blocked import group_of, on_threads, ragged, workers

Scores = Callable[[Tensor], Tensor]
"""(rows, bytes) codes to (queries, rows) scores, larger is better."""

CELLS = 2**18
"""Coordinates decoded at once by a core: they stay in its cache."""

LEAST = 2**22
"""Fewest bytes of codes, each read for every query, that are worth a thread of their own."""

LISTED = 2**18
"""Scores that are worked out and looked through at once."""


def in_cache(scores: Scores, dims: int) -> Scores:
    """The same scores, from as many rows at a time as are decoded in the cache of a core."""
    rows = max(1, CELLS // dims)

    def of_codes(codes: Tensor) -> Tensor:
        blocks = [scores(part) for part in codes.split(rows)]
        return blocks[0] if len(blocks) == 1 else torch.cat(blocks, 1)

    return of_codes


def best(
    codes: Iterable[Tensor], scores: Scores, queries: int, k: int, block: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """(queries, k) row numbers and scores, descending; equals in the order of their rows.

    ``codes`` are (rows, bytes) parts of the whole, in order; ``block`` rows are scored at once.
    Fewer rows than k leave -1 at the end, with score -inf. Lists are made on the threads that
    score: threads that torch would start here wait busily, on the cores of the next search.
    """
    parts, first = [], 0
    for part in codes:
        shards = max(1, min(workers(device), queries * part.numel() // LEAST))
        for rows in part.tensor_split(shards):
            parts.append((first, rows))
            first += len(rows)

    def of_part(item: tuple[int, Tensor]) -> tuple[Tensor, Tensor]:
        start, rows = item
        found = torch.full((queries, k), -1, device=device)
        values = torch.full((queries, k), -math.inf, device=device)
        for some in rows.split(block):
            found, values = _merged(found, values, scores(some), start)
            start += len(some)
        return found, values

    lists = list(on_threads(of_part, parts, device))
    found = torch.cat([ids for ids, _ in lists], 1)
    values = torch.cat([scores for _, scores in lists], 1)
    return _top(found, values, k)


def _merged(found: Tensor, values: Tensor, scores: Tensor, first: int) -> tuple[Tensor, Tensor]:
    """The lists with what is better in a (queries, rows) block; an equal later row is not.

    Only groups of columns whose largest score is above a list's last are looked into.
    """
    k, size = found.shape[1], group_of(scores.shape[1], found.shape[1])
    short = -scores.shape[1] % size
    groups = (pad(scores, (0, short), value=-math.inf) if short else scores).unflatten(
        1, (-1, size)
    )
    peaks, limit = groups.amax(2), values[:, -1]  # (queries, groups), (queries,)
    if peaks.shape[1] >= k and bool(limit.isneginf().any()):
        # k groups reach the k-th largest peak, so as many columns do: what is below is not listed
        kth = peaks.topk(k, 1, sorted=False).values.amin(1)
        limit = torch.maximum(limit, torch.nextafter(kth, kth.new_tensor(-math.inf)))
    line, group = (peaks > limit[:, None]).nonzero().unbind(1)
    near = groups[line, group]  # (hits, size)
    hit, member = (near > limit[line, None]).nonzero().unbind(1)
    if not len(hit):
        return found, values
    line = line[hit]  # ascending, and so are the columns of each line
    slot, width = ragged(line, len(scores))
    fresh = values.new_full((len(scores), width), -math.inf)
    rows = found.new_full((len(scores), width), -1)
    fresh[line, slot] = near[hit, member]
    rows[line, slot] = group[hit] * size + member + first
    return _top(torch.cat([found, rows], 1), torch.cat([values, fresh], 1), k)


def _top(found: Tensor, values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    values, order = values.sort(dim=1, descending=True, stable=True)
    return found.gather(1, order[:, :k]), values[:, :k]
