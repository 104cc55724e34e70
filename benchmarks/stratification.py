"""Does the test of one smooth piece keep its level, and what does it find of planted strata?

The size is the share of rejections on sets that are one piece; the power that on planted strata of
dimension 2, 5, 9 and 14 in 64 columns, by the distance of their centres from the origin (at 0 they
meet there), noise and n. Beside it stand the ways of rejection: by dimension, and by a gap.

python -m benchmarks.stratification            # 200 and 20 draws, about 15 minutes on 2 cores
"""

from __future__ import annotations

import argparse
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import product

import torch
from sklearn.datasets import load_digits
from torch import Tensor

from benchmarks.harness import Row, report
from lowdim.datasets import phase_shuffled, sphere, strata, swiss_roll
from lowdim.structure.stratification import stratification_test

AMBIENT = 64
SEPARATIONS, SIZES, NOISES = (0.0, 0.25, 0.5, 1.0, 2.0), (200, 400, 800), (0.1, 0.3)


def normal(n: int, seed: int, *, decay: float) -> Tensor:
    """Standard deviations 1, 2^-decay, 3^-decay, ..."""
    x = torch.randn(n, AMBIENT, generator=torch.Generator().manual_seed(seed)).double()
    return x * torch.arange(1, AMBIENT + 1).double() ** -decay


def surrogate(n: int, seed: int) -> Tensor:
    """Handwritten digits, rotated, with their phases shuffled."""
    x = torch.from_numpy(load_digits().data)
    generator = torch.Generator().manual_seed(seed)
    turn = torch.linalg.qr(torch.randn(x.shape[1], x.shape[1], generator=generator).double()).Q
    return phase_shuffled(x @ turn, seed=seed)[:n]


ONE_PIECE: dict[str, Callable[[int, int], Tensor]] = {
    "normal, flat spectrum": partial(normal, decay=0.0),
    "normal, spectrum 1/i": partial(normal, decay=0.5),
    "normal, spectrum 1/i^3": partial(normal, decay=1.5),
    "sphere of dimension 2": lambda n, seed: sphere(n, 2, AMBIENT, seed=seed),
    "sphere of dimension 5": lambda n, seed: sphere(n, 5, AMBIENT, seed=seed),
    "Swiss roll": lambda n, seed: swiss_roll(n, AMBIENT, seed=seed),
    "digits, phases shuffled": surrogate,
}


def size(name: str, n: int, seed: int) -> tuple[bool, bool, bool]:
    """What the test says of one draw of a single piece."""
    return _verdict(ONE_PIECE[name](n, seed), seed)


def power(separation: float, n: int, noise: float, seed: int) -> tuple[bool, bool, bool]:
    """What the test says of one draw of planted strata."""
    planted = strata(n, ambient=AMBIENT, separation=separation, noise=noise, seed=seed)
    return _verdict(planted.points, seed)


def _verdict(x: Tensor, seed: int) -> tuple[bool, bool, bool]:
    torch.set_num_threads(1)
    found = stratification_test(x, random_state=seed)
    return found.rejected, found.strata_p <= found.size / 2, found.gap_p <= found.size / 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--power-draws", type=int, default=20)
    parser.add_argument("--n", type=int, default=600)
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args()
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(args.processes, mp_context=spawn) as pool:

        def shares(draw: Callable[[int], tuple[bool, ...]], draws: int) -> Iterator[float]:
            said = list(pool.map(draw, range(draws)))
            return (sum(column) / draws for column in zip(*said, strict=True))

        rows = []
        for name in ONE_PIECE:
            rate, *_ = shares(partial(size, name, args.n), args.draws)
            rows.append(Row(f"size: {name}", rate, "", "<= 0.07"))
        for separation, noise, n in product(SEPARATIONS, NOISES, SIZES):
            rates = shares(partial(power, separation, n, noise), args.power_draws)
            for what, rate in zip(("power", "  by dimension", "  by a gap"), rates, strict=True):
                cell = f"separation {separation:g}, noise {noise:g}, n {n}"
                rows.append(Row(f"{what}: {cell}", rate))
    report("stratification", rows, **vars(args))


if __name__ == "__main__":
    main()
