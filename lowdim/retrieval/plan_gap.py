"""What a code loses on rows that it was not fitted to."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lowdim.errors import InputError
from lowdim.retrieval.configurations import Configuration
from lowdim.retrieval.metric import exact_search
from lowdim.retrieval.plan_steps import Trained
from lowdim.retrieval.recall import recall_at_k
from lowdim.retrieval.reduction import Training


def fit_gap(
    c: Configuration, training: Training, queries: Tensor, k: int, *,
    memory: int | float | str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """How much better are the rows found that a code was fitted to than others?

    Returns
    -------
    dict
        ``rows``, half of all, that the code is fitted to; ``own``, recall where these are searched,
        and ``others``, where as many others are.

    Raises
    ------
    InputError
        Fewer rows than the code or k needs.
    """
    half = len(training.x) // 2
    if half <= k:
        raise InputError(f"{half} rows are half of all, and {k} of them are to be found")
    own, others = training.x[:half], training.x[half : 2 * half]
    codec = Trained(Training(own, training.metric, seed=training.seed), memory).codec(c)
    recalls = []
    for rows in (own, others):
        truth, _ = exact_search(rows, queries, k, metric=training.metric, memory=memory)
        ids, _ = codec.search(codec.encode(rows), queries, k)
        recalls.append(float(recall_at_k(ids, truth).mean()))
    return {"rows": half, "own": recalls[0], "others": recalls[1]}
