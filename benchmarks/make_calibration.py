"""Simulate sets of known dimension and fit what `lowdim.geometry.dimension` stands on.

python -m benchmarks.make_calibration

Writes ``lowdim/geometry/calibration.json``. A set is a shape (how points fill d coordinates) or a
space (one whose dimension follows from its size: frames, low rank, signals), put through a map (how
those coordinates lie in space), with or without noise. Neither the standard benchmark manifolds nor
the shapes of `benchmarks.dimension_blind` are among them: they are what the result is judged by.

``--part 1/2 --keep one.npz`` reads every second set only and keeps the readings; ``--from one.npz
two.npz`` fits what several such runs kept, with the same result as one run of all.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from lowdim.core.neighbors import Neighbors
from lowdim.errors import InputError
from lowdim.geometry.dimension import FEWEST, LARGEST, quadratic, readings

Random = np.random.Generator
Points = np.ndarray
OUT = Path(__file__).parent.parent / "lowdim" / "geometry" / "calibration.json"
LEVELS = [0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98]
LARGEST_DIM = 100
RIDGE = 1.0


class Drawn(NamedTuple):
    """One simulated set."""

    x: Points
    dim: int
    shape: str
    map: str


def cube(g: Random, n: int, d: int) -> Points:
    return g.uniform(-1, 1, (n, d))


def ball(g: Random, n: int, d: int) -> Points:
    u = g.normal(size=(n, d))
    return u / np.linalg.norm(u, axis=1, keepdims=True) * g.random((n, 1)) ** (1 / d)


def normal(g: Random, n: int, d: int) -> Points:
    return g.normal(size=(n, d))


def sphere(g: Random, n: int, d: int) -> Points:
    u = g.normal(size=(n, d + 1))
    return u / np.linalg.norm(u, axis=1, keepdims=True)


def torus(g: Random, n: int, d: int) -> Points:
    t = g.uniform(0, 2 * math.pi, (n, d))
    return np.concatenate([np.cos(t), np.sin(t)], 1)


def skewed(g: Random, n: int, d: int) -> Points:
    """Each coordinate a power of a uniform one: crowded at one end."""
    return g.random((n, d)) ** np.exp(
        g.uniform(-1, 2.5, d) if g.random() < 0.5 else g.uniform(0, 2)
    )


def saturated(g: Random, n: int, d: int) -> Points:
    """Coordinates that share a common factor, through tanh: crowded at both ends together."""
    shared = g.normal(size=(n, 1)) * g.uniform(0, 2)
    return np.tanh(g.uniform(0.3, 2.0) * (g.normal(size=(n, d)) + shared) + g.normal() * 0.7)


def heavy(g: Random, n: int, d: int) -> Points:
    """A scale mixture of normals: a dense core and a wide halo."""
    return g.normal(size=(n, d)) * np.exp(g.uniform(0, 0.8) * g.normal(size=(n, 1)))


def simplex(g: Random, n: int, d: int) -> Points:
    """Shares of a whole: a Dirichlet law, from crowded corners to a crowded middle."""
    share = g.gamma(np.exp(g.uniform(-1, 2)), size=(n, d + 1))
    return share / share.sum(1, keepdims=True)


def quadrics(g: Random, n: int, d: int) -> Points:
    """Quadratic forms of a sphere, a normal or a cube: projective spaces where the sign is lost."""
    u = (sphere, normal, cube)[g.integers(3)](g, n, d)
    width = u.shape[1]
    i, j = np.triu_indices(width)
    if len(i) <= 60 and g.random() < 0.6:
        forms = u[:, i] * u[:, j] * np.where(i == j, 1, math.sqrt(2))  # all: Veronese's
    else:
        many = 2 * width + 2 + int(g.integers(0, width + 1))
        forms = (u @ _directions(g, width, many)) * (u @ _directions(g, width, many))
    return forms if g.random() < 0.6 else np.concatenate([g.uniform(0.1, 1) * u, forms], 1)


def frames(g: Random, n: int, d: int) -> tuple[Points, int]:
    """Stiefel: k orthonormal vectors of length m, k = m being the orthogonal group."""
    k = int(g.integers(2, max(2, int((1 + math.sqrt(1 + 8 * d)) / 2)) + 1))
    m = max(k, round((d + k * (k + 1) / 2) / k))
    q, r = np.linalg.qr(g.normal(size=(n, m, k)))
    q = q * np.sign(np.diagonal(r, axis1=1, axis2=2))[:, None]  # uniform, as qr alone is not
    return q.reshape(n, -1), m * k - k * (k + 1) // 2


def low_rank(g: Random, n: int, d: int) -> tuple[Points, int]:
    """(a, b) matrices of rank r."""
    d = max(d, 3)
    r = int(g.integers(max(1, d // 45), math.isqrt(d + 1)))
    both = max(2 * r + 2, round(d / r) + r)  # a + b
    a = int(g.integers(r + 1, both // 2 + 1))
    factors = g.normal(size=(n, a, r)) @ g.normal(size=(n, r, both - a))
    return factors.reshape(n, -1), r * (both - r)


def bumps(g: Random, n: int, d: int) -> tuple[Points, int]:
    """Pixels of up to three spots that move, on a line or a square, and grow or brighten."""
    axes, spots = int(g.integers(1, 3)), int(g.integers(1, 4))
    side = int(g.integers(16, 65)) if axes == 1 else int(g.integers(6, 15))
    grows, brightens = g.random(2) < 0.4
    ticks = np.arange(side) / side
    pixels = np.stack(np.meshgrid(*[ticks] * axes), -1).reshape(-1, axes)
    total, wraps, reach = np.zeros((n, len(pixels))), g.random() < 0.5, g.uniform(0.3, 1)
    for _ in range(spots):
        off = pixels - reach * g.random((n, 1, axes))  # (n, pixels, axes)
        off = off - np.round(off) if wraps else off
        width = g.uniform(0.1, 0.3) * (np.exp(g.uniform(0, 0.7, (n, 1))) if grows else 1)
        height = g.uniform(0.5, 2, (n, 1)) if brightens else g.uniform(0.5, 2)
        total += height * np.exp(-0.5 * (off**2).sum(2) / width**2)
    return total, spots * (axes + int(grows) + int(brightens))


def tones(g: Random, n: int, d: int) -> tuple[Points, int]:
    """Samples of up to three sinusoids, of varying frequency, phase or height."""
    steps = int(g.integers(24, 97))
    t = np.arange(steps) / steps
    varies, many = g.random(3) < 0.5, int(g.integers(1, 4))
    varies[g.integers(3)] = True
    total = np.zeros((n, steps))
    for _ in range(many):
        low = g.uniform(0.5, 5)
        free = g.random((3, n, 1)) if g.random() < 0.7 else g.beta(2, 2, (3, n, 1))
        frequency, phase, height = np.where(varies[:, None, None], free, g.random((3, 1, 1)))
        frequency = low + g.uniform(0.5, 3) * frequency
        total += (0.4 + height) * np.sin(2 * math.pi * (frequency * t + phase))
    return total, many * int(varies.sum())


def flat(g: Random, u: Points) -> Points:
    return u


def waves(g: Random, u: Points) -> Points:
    """Sines of random projections beside the coordinates: smooth curvature everywhere."""
    width = int(u.shape[1] * g.uniform(0.5, 3)) + 1
    frequency = math.exp(g.uniform(math.log(0.2), math.log(4)))
    projected = u @ _directions(g, u.shape[1], width)
    bent = np.sin(frequency * projected + g.uniform(0, 2 * math.pi, width)) / frequency
    return np.concatenate([u * g.uniform(0.1, 1), bent * g.uniform(0.3, 2)], 1)


def winding(g: Random, u: Points) -> Points:
    """Some coordinates wound up: sheets that pass close to themselves, as a roll or a coil does."""
    d = u.shape[1]
    wound = g.permutation(d)[: int(g.integers(1, max(2, d // 2 + 1)))]
    turns = np.exp(g.uniform(math.log(0.5), math.log(8), len(wound)))
    t = u[:, wound] * turns
    radius = 1 + g.uniform(0, 1.5) * u[:, [int(g.integers(d))]] if g.random() < 0.5 else 1.0
    pitch = g.uniform(0.05, 1) if g.random() < 0.7 else 0.0
    rest = np.delete(u, wound, 1) * g.uniform(0.3, 1.5)
    return np.concatenate([radius * np.cos(t), radius * np.sin(t), pitch * u[:, wound], rest], 1)


def products(g: Random, u: Points) -> Points:
    """Waves whose height depends on other coordinates: curvature and density that vary."""
    d = u.shape[1]
    width = int(d * g.uniform(2, 4)) + 1
    height = 1 + g.uniform(0, 1) * u @ _directions(g, d, width)
    frequency = math.exp(g.uniform(math.log(0.3), math.log(3)))
    phase = g.uniform(0, 2 * math.pi, width)
    bent = height * np.sin(frequency * u @ _directions(g, d, width) + phase) / frequency
    return np.concatenate([u * g.uniform(0, 0.5), bent], 1)


def network(g: Random, u: Points) -> Points:
    """Two random layers of tanh, wider than the input."""
    for _ in range(2):
        width = int(u.shape[1] * g.uniform(1.2, 2.2)) + 2
        u = np.tanh(
            g.uniform(0.3, 1.5) * u @ _directions(g, u.shape[1], width) + g.normal(size=width) / 2
        )
    return u


SHAPES = (cube, ball, normal, sphere, torus, skewed, saturated, heavy, simplex, quadrics)
SPACES = (frames, low_rank, bumps, tones)
MAPS: tuple[Callable[[Random, Points], Points], ...] = (
    flat,
    flat,
    waves,
    winding,
    products,
    network,
)


def _directions(g: Random, d: int, width: int) -> Points:
    """(d, width) random columns of length one, sparse in half of the draws."""
    w = g.normal(size=(d, width))
    if g.random() < 0.5:
        w *= g.random(w.shape) < min(1, 2.5 / d)
        w[g.integers(d, size=width), np.arange(width)] += 1
    return w / np.linalg.norm(w, axis=0)


def simulate(seed: int) -> Drawn:
    """One set, all of it by the seed."""
    g = np.random.default_rng(seed)
    d = int(math.exp(g.uniform(0, math.log(LARGEST_DIM + 1))))
    if g.random() < 0.2:  # low dimensions deserve more than their share of a logarithmic prior
        d = int(g.integers(1, 5))
    span = (3000, LARGEST) if g.random() < 0.05 else (FEWEST, 3000)
    n = int(math.exp(g.uniform(math.log(span[0]), math.log(span[1]))))
    bend = MAPS[g.integers(len(MAPS))]
    if g.random() < len(SPACES) / (len(SPACES) + len(SHAPES)):
        space = SPACES[g.integers(len(SPACES))]
        (u, d), name = space(g, n, d), space.__name__
        bend = flat if g.random() < 0.5 else bend  # most often met as they are
    else:
        shape = SHAPES[g.integers(len(SHAPES))]
        u, name = shape(g, n, d), shape.__name__
    if g.random() < 0.5:
        u = u * np.exp(g.uniform(0, 0.6) * g.normal(size=u.shape[1]))  # axes of unequal length
    u = (u - u.mean(0)) / u.std(0).mean()
    x = bend(g, u)
    if g.random() < 0.6:
        more = 0 if g.random() < 0.5 else int(math.exp(g.uniform(0, 4.6)))
        x = np.concatenate([x, np.zeros((n, more))], 1)
        level = math.exp(g.uniform(math.log(0.002), math.log(0.1)))
        x = x + level * math.sqrt(x.var(0).mean()) * g.normal(size=x.shape)
    return Drawn(x, d, name, bend.__name__)


def read(drawn: Drawn, seed: int) -> dict[str, float]:
    """The readings of a set, and its n."""
    x = torch.from_numpy(drawn.x)
    found = readings(x, Neighbors.of_points(x, 20), seed=seed)
    return found | {"n": float(len(x))}


def ridge(terms: np.ndarray, y: np.ndarray, penalty: float) -> np.ndarray:
    return np.linalg.solve(terms.T @ terms + penalty * np.eye(terms.shape[1]), terms.T @ y)


def fit(terms: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients of log d, and of the log of its absolute error."""
    location = ridge(terms, y, RIDGE)
    error = np.abs(y - terms @ location)
    return location, ridge(terms, np.log(error + 0.02), 10 * RIDGE)


def left_out_scores(
    terms: np.ndarray, y: np.ndarray, families: list[np.ndarray]
) -> dict[str, np.ndarray]:
    """|error| / spread on each shape, then on each map, when it was not there to be fitted."""
    scores = {}
    for labels in families:
        for family in np.unique(labels):
            out = labels == family
            location, spread = fit(terms[~out], y[~out])
            error = np.abs(y[out] - terms[out] @ location)
            scores[str(family)] = error / np.exp(terms[out] @ spread)
    return scores


def calibrate(features: np.ndarray, drawn: list[tuple[int, str, str]]) -> dict[str, Any]:
    """What is stored, from (m, p) log-readings and (dimension, shape, map).

    ``held`` is the share of each left-out family within its intervals at 90%.
    """
    y = np.log([d for d, _, _ in drawn])
    mean, scale = features.mean(0), features.std(0)
    z = (features - mean) / scale
    terms = quadratic(z)
    location, spread = fit(terms, y)
    families = [np.array([row[i] for row in drawn]) for i in (1, 2)]
    scores = left_out_scores(terms, y, families)
    quantiles = np.quantile(np.concatenate(list(scores.values())), LEVELS)
    at_90 = quantiles[LEVELS.index(0.9)]
    precision = np.linalg.inv(z.T @ z / len(z) + 1e-3 * np.eye(z.shape[1]))
    distance = np.sqrt(np.einsum("mp,pq,mq->m", z, precision, z))
    return {
        "mean": mean,
        "scale": scale,
        "location": location,
        "spread": spread,
        "precision": precision,
        "farthest": float(np.quantile(distance, 0.95)),  # beyond, too few are there to learn from
        "levels": LEVELS,
        "scores": quantiles,
        "held": {family: round(float((s <= at_90).mean()), 3) for family, s in scores.items()},
    }


def rounded(value: Any) -> Any:
    """Plain JSON with seven digits."""
    if isinstance(value, np.ndarray):
        return rounded(value.tolist())
    if isinstance(value, list):
        return [rounded(v) for v in value]
    return float(f"{value:.7g}") if isinstance(value, float) else value


def simulated(seeds: range) -> dict[str, np.ndarray]:
    """Log-readings of the sets of these seeds, with what they are."""
    start = time.perf_counter()
    kept: list[tuple[int, list[float], int, str, str]] = []
    names: list[str] = []
    for done, seed in enumerate(seeds, 1):
        one = simulate(seed)
        try:
            found = read(one, seed)
        except InputError:  # points that coincide after saturation
            continue
        names = list(found)
        kept.append((seed, list(np.log(list(found.values()))), one.dim, one.shape, one.map))
        if done % 250 == 0:
            print(f"{done} sets, {time.perf_counter() - start:.0f} s", flush=True)
    columns = dict(
        zip(
            ("seed", "features", "dim", "shape", "map"),
            map(np.array, zip(*kept, strict=True)),
            strict=True,
        )
    )
    seconds = np.array(time.perf_counter() - start)
    return columns | {"names": np.array(names), "seconds": seconds}


def together(parts: list[Any]) -> dict[str, np.ndarray]:
    """What several runs kept, in the order of the seeds."""
    order = np.argsort(np.concatenate([part["seed"] for part in parts]))
    rows = ("seed", "features", "dim", "shape", "map")
    joined = {key: np.concatenate([part[key] for part in parts])[order] for key in rows}
    return joined | {"names": parts[0]["names"], "seconds": sum(part["seconds"] for part in parts)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sets", type=int, default=5500)
    parser.add_argument("--part", default="1/1", help="which of how many, as 1/2")
    parser.add_argument("--keep", type=Path, help="keep the readings there and fit nothing")
    parser.add_argument("--from", type=Path, nargs="+", dest="kept", help="fit readings kept")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.kept:
        kept = together([np.load(path) for path in args.kept])
    else:
        part, parts = map(int, args.part.split("/"))
        kept = simulated(range(part - 1, args.sets, parts))
    if args.keep:
        np.savez(args.keep, allow_pickle=False, **kept)
        return
    made = {
        "command": "python -m benchmarks.make_calibration",
        "sets": len(kept["dim"]),
        "seconds": round(float(kept["seconds"])),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }
    drawn = list(zip(kept["dim"].tolist(), kept["shape"], kept["map"], strict=True))
    fitted = calibrate(kept["features"], drawn)
    made["held at 90% when left out"] = fitted.pop("held")
    stored = {"made": made, "names": kept["names"].tolist()} | fitted
    args.out.write_text(json.dumps({k: rounded(v) for k, v in stored.items()}) + "\n")


if __name__ == "__main__":
    main()
