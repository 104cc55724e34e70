"""Embedding tables of a recommender at equal size: searched widths and rows against uniform ones.

MovieLens, matrix factorisation with biases: rating = mean + user's + film's + <e_user, e_film>.
Every table stores the same number of numbers; each is trained from scratch with the weight decay
and the number of epochs that the validation ratings like best, and judged on test ratings. Every
seed splits the ratings anew.

python -m benchmarks.index_tables
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from benchmarks.harness import Row, report
from benchmarks.inputs_ratings import Ratings, movielens
from lowdim.core.random import permutation
from lowdim.retrieval import (
    MixedEmbedding,
    OptEmbedding,
    SoftEmbedding,
    frequency_blocks,
    opt_embed,
    search_dims,
)

WIDEST = 16
DECAYS = (1e-4, 3e-4)
RATE = 1e-2
Batches = list[tuple[Tensor, Tensor]]


class Factors(nn.Module):
    """A table of users and films, and what each adds to the mean."""

    def __init__(self, table: nn.Module, n: int, mean: float) -> None:
        super().__init__()
        self.table, self.mean = table, mean
        self.bias = nn.Embedding(n, 1)
        nn.init.zeros_(self.bias.weight)
        for name, weight in table.named_parameters():
            if name == "weight":
                nn.init.normal_(weight, std=0.1)

    def forward(self, ids: Tensor) -> Tensor:
        """(n,) ratings of (n, 2) users and films."""
        return self.mean + self.bias(ids).sum((1, 2)) + self.table(ids).prod(1).sum(1)


class Nothing(nn.Module):
    """No table at all: users and films add what they add to the mean."""

    def forward(self, ids: Tensor) -> Tensor:
        """(n, 2, 1) zeros."""
        return torch.zeros(*ids.shape, 1)


def batches(part: Ratings, size: int = 2000) -> Batches:
    """Ids of users, and of films behind them, with ratings; in random order."""
    rows = permutation(len(part.rating), 0)
    ids = part.ids[rows] + torch.tensor([0, part.sizes[0]])
    return list(zip(ids.split(size), part.rating[rows].split(size), strict=True))


@torch.no_grad()
def rmse(model: nn.Module, part: Batches) -> float:
    """Root mean square error; predictions are kept to the scale."""
    sums = sum(float(mse_loss(model(x).clamp(0.5, 5), y, reduction="sum")) for x, y in part)
    return (sums / sum(len(y) for _, y in part)) ** 0.5


def trained(make: Callable[[], nn.Module], train: Batches, valid: Batches) -> nn.Module:
    """The best of all decays and epochs by validation."""
    best, least = make(), float("inf")
    for decay in DECAYS:
        model, waited, own = make(), 0, float("inf")
        adam = torch.optim.Adam(model.parameters(), lr=RATE, weight_decay=decay)
        while waited < 2:  # epochs without a better one
            for x, y in train:
                adam.zero_grad()
                mse_loss(model(x), y).backward()
                adam.step()
            error = rmse(model, valid)
            waited = 0 if error < own else waited + 1
            own = min(own, error)
            if error < least:
                best, least = copy.deepcopy(model), error
    return best


def uniform(width: int) -> str:
    """The table in which every user and film has as many numbers."""
    return f"{width} column{'s' if width > 1 else ''} for each"


def errors(ratings: Ratings, seed: int, widths: list[int], n_blocks: int) -> dict[str, float]:
    """Test error by contender."""
    torch.manual_seed(seed)
    parts = ratings.split(seed)
    train, valid, test = (batches(part) for part in parts)
    n, mean = sum(ratings.sizes), float(parts[0].rating.mean())
    blocks = torch.cat(
        [
            i * n_blocks + frequency_blocks(parts[0].ids[:, i].bincount(minlength=size), n_blocks)
            for i, size in enumerate(ratings.sizes)
        ]
    )
    found: dict[str, float] = {}

    def judge(name: str, table: nn.Module, said: str = "") -> None:
        best = trained(lambda: Factors(copy.deepcopy(table), n, mean), train, valid)
        found[name] = rmse(best, test)
        print(f"seed {seed}  {name:44} {found[name]:.4f}  {said}", flush=True)

    judge("biases alone", Nothing())
    judge(uniform(WIDEST), nn.Embedding(n, WIDEST))
    soft = SoftEmbedding(blocks, WIDEST)
    options: dict[str, Any] = {"epochs": 6, "learning_rate": RATE, "weight_decay": 1e-4}
    search_dims(Factors(soft, n, mean), train, valid, mse_loss, alpha_rate=RATE, **options)
    for width in widths:
        judge(uniform(width), nn.Embedding(n, width))
        cut = MixedEmbedding.of(soft, numbers=n * width)
        judge(
            f"search_dims, as large as {uniform(width)}",
            cut,
            f"{cut.dims}, {cut.weight.numel():,} numbers",
        )
        table = OptEmbedding(blocks, WIDEST)
        opt = opt_embed(
            Factors(table, n, mean), train, valid, mse_loss, numbers=n * width, population=12,
            generations=6, seed=seed, **options,
        )  # fmt: skip
        said = f"{opt.dims}, {opt.rows:,} rows, {opt.numbers:,} numbers"
        judge(f"opt_embed, as large as {uniform(width)}", table.compact(), said)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--widths", type=int, nargs="+", default=[1])
    parser.add_argument("--blocks", type=int, default=4)
    args = parser.parse_args()
    ratings = movielens()
    runs = [errors(ratings, seed, args.widths, args.blocks) for seed in range(args.seeds)]
    rows = []
    for name in runs[0]:
        values = torch.tensor([run[name] for run in runs])
        rows.append(Row(f"{name}: test RMSE", float(values.mean())))
        same = name.partition(", as large as ")[2]
        if same:
            difference = values - torch.tensor([run[same] for run in runs])
            rows.append(Row(f"{name}: less that one's", float(difference.mean()), "", "<= 0"))
            if len(runs) > 1:
                error = float(difference.std()) / len(runs) ** 0.5
                rows.append(Row(f"{name}: standard error of that", error))
    report("index_tables", rows, seeds=args.seeds, widths=args.widths, blocks=args.blocks)


if __name__ == "__main__":
    main()
