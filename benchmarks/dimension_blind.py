"""Does the interval of `lowdim.geometry.dimension` hold on shapes that nobody looked at before?

python -m benchmarks.dimension_blind

The shapes below were written down before their first run, and are neither in the calibration nor
among the standard benchmark manifolds that some of its choices were made with. Each is a smooth map
of numbers drawn independently; its dimension is the rank of that map's Jacobian, which the tests
check. None has noise.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor

from benchmarks.dimension_accuracy import covered
from benchmarks.harness import Row, report
from lowdim.geometry.dimension import dimension

TURN = 2 * math.pi


@dataclass(frozen=True)
class Shape:
    """The image of ``numbers`` independent uniform (or normal) numbers under ``at``."""

    dim: int
    numbers: int
    at: Callable[[Tensor], Tensor]  # (n, numbers) -> (n, ambient)
    normal: bool = False

    def sample(self, n: int, seed: int) -> Tensor:
        """(n, ambient) points in float64."""
        g = torch.Generator().manual_seed(seed)
        draw = torch.randn if self.normal else torch.rand
        return self.at(draw(n, self.numbers, generator=g, dtype=torch.float64))


def _fixed(*shape: int) -> Tensor:
    """The same normal numbers whenever asked."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(2024), dtype=torch.float64)


def _grassmann(m: int, k: int) -> Callable[[Tensor], Tensor]:
    """Projections onto k-planes."""

    def at(z: Tensor) -> Tensor:
        q = torch.linalg.qr(z.view(-1, m, k)).Q
        return (q @ q.mT).flatten(1)  # (n, m, k) @ (n, k, m)

    return at


def _isospectral(z: Tensor) -> Tensor:
    """Symmetric matrices of eigenvalues 1 to 5: complete flags."""
    q = torch.linalg.qr(z.view(-1, 5, 5)).Q
    return ((q * torch.arange(1, 6, dtype=z.dtype)) @ q.mT).flatten(1)


def _klein_bottle(u: Tensor) -> Tensor:
    a, b = (TURN * u).T
    tube = 2 + b.cos()
    twisted = b.sin() * (a / 2).cos(), b.sin() * (a / 2).sin()
    return torch.stack((tube * a.cos(), tube * a.sin(), *twisted), 1)


def _torus_knot(u: Tensor) -> Tensor:
    t = TURN * u
    tube = 2 + (5 * t).cos()
    return torch.cat((tube * (3 * t).cos(), tube * (3 * t).sin(), (5 * t).sin()), 1)


def _lens(z: Tensor) -> Tensor:
    """The three-sphere modulo third roots of unity, by its invariant monomials."""
    a, b = torch.view_as_complex(torch.nn.functional.normalize(z).view(-1, 2, 2)).T
    forms = torch.stack((a**3, a**2 * b, a * b**2, b**3, a * b.conj()), 1)
    return torch.cat((forms.real, forms.imag, (a.abs() ** 2)[:, None]), 1)


def _hyperboloid(z: Tensor) -> Tensor:
    return torch.cat((z, (1 + z.square().sum(1, keepdim=True)).sqrt()), 1)


def _fourier_curve(u: Tensor) -> Tensor:
    t = TURN * u * torch.arange(1, 7)  # (n, 6)
    return torch.cat((t.cos(), t.sin()), 1) @ (_fixed(12, 20) / torch.arange(1, 7).tile(2)[:, None])


def _fourier_surface(u: Tensor) -> Tensor:
    waves = torch.cartesian_prod(torch.arange(3), torch.arange(-2, 3))[3:].double().T  # (2, 12)
    t = TURN * u @ waves
    height = (1 / waves.square().sum(0)).tile(2)[:, None]
    return torch.cat((t.cos(), t.sin()), 1) @ (_fixed(24, 30) * height)


def _turned_image(u: Tensor) -> Tensor:
    """A pattern of four spots, turned, moved in two directions and scaled, on 20 x 20 pixels."""
    centres = torch.tensor([[0.5, 0], [-0.4, 0.1], [0, 0.35], [0.1, -0.5]], dtype=u.dtype)
    height = torch.tensor([1, 0.8, -0.7, 0.5], dtype=u.dtype)
    angle, size = TURN * u[:, 0], 0.7 + 0.6 * u[:, 1]
    turn = torch.stack((angle.cos(), -angle.sin(), angle.sin(), angle.cos()), 1).view(-1, 2, 2)
    spots = size[:, None, None] * centres @ turn + 0.8 * (u[:, None, 2:] - 0.5)  # (n, 4, 2)
    ticks = torch.linspace(-1.2, 1.2, 20, dtype=u.dtype)
    off = torch.cartesian_prod(ticks, ticks)[None, :, None] - spots[:, None]  # (n, 400, 4, 2)
    return torch.exp(-off.square().sum(3) / (0.08 * size[:, None, None] ** 2)) @ height


def _chirps(u: Tensor) -> Tensor:
    """Spectrogram of a sweep, by its first and last pitch and its loudness."""
    t = torch.linspace(0, 1, 256, dtype=u.dtype)
    first, last = 20 + 40 * u[:, :1], 20 + 40 * u[:, 1:2]
    signal = (0.5 + u[:, 2:]) * torch.sin(TURN * (first * t + (last - first) * t**2 / 2))
    frames = signal.unfold(1, 64, 32) * torch.hann_window(64, dtype=u.dtype)  # (n, 7, 64)
    return torch.fft.rfft(frames).abs().flatten(1)


def _curves(u: Tensor) -> Tensor:
    """Product of an ellipse, a parabola, a helix and a figure of eight."""
    a, b, c, d = u.T
    ellipse = 2 * (TURN * a).cos(), (TURN * a).sin()
    parabola = 3 * b, (3 * b - 1.5) ** 2
    helix = (9 * c).cos(), (9 * c).sin(), 2 * c
    eight = (TURN * d).sin(), (TURN * d).sin() * (TURN * d).cos()
    return torch.stack((*ellipse, *parabola, *helix, *eight), 1)


def _torus_cone(u: Tensor) -> Tensor:
    """Rays from the origin through a torus of dimension four."""
    t = TURN * u[:, 1:]
    return (0.2 + u[:, :1]) * torch.cat((t.cos(), t.sin()), 1)


def _cubic_graph(z: Tensor) -> Tensor:
    """Monkey saddles over three planes, and what couples them."""
    a, b, c = torch.view_as_complex(z.view(-1, 3, 2)).T
    cubes = torch.stack((a**3, b**3, c**3, a * b * c, a * b.conj() ** 2), 1) / 3
    return torch.cat((z, cubes.real, cubes.imag), 1)


def _superellipsoid(z: Tensor) -> Tensor:
    """Sum of fourth powers equal to one."""
    return z / z.pow(4).sum(1, keepdim=True) ** 0.25


def _views(z: Tensor) -> Tensor:
    """Perspective images of fifteen points of a rigid body in any pose before the camera."""
    q = torch.linalg.qr(z[:, :9].reshape(-1, 3, 3)).Q
    move = 0.5 * z[:, None, 9:].tanh() + torch.tensor([0, 0, 6], dtype=z.dtype)
    x = _fixed(15, 3) @ q + move  # (n, 15, 3)
    return (x[..., :2] / x[..., 2:]).flatten(1)


def _arm(u: Tensor) -> Tensor:
    """Joints of a chain of four rods in the plane, each bent by up to a right angle."""
    angle = (math.pi * (u - 0.5)).cumsum(1)
    return torch.cat((angle.cos().cumsum(1), angle.sin().cumsum(1)), 1)


def _softmax(z: Tensor) -> Tensor:
    """Probabilities of forty words from five numbers."""
    return torch.softmax(z @ _fixed(5, 40), 1)


SHAPES = {
    "Grassmannian (2, 5)": Shape(6, 10, _grassmann(5, 2), normal=True),
    "Grassmannian (4, 10)": Shape(24, 40, _grassmann(10, 4), normal=True),
    "matrices of one spectrum": Shape(10, 25, _isospectral, normal=True),
    "Klein bottle": Shape(2, 2, _klein_bottle),
    "torus knot (3, 5)": Shape(1, 1, _torus_knot),
    "lens space (3, 1)": Shape(3, 4, _lens, normal=True),
    "hyperboloid": Shape(5, 5, _hyperboloid, normal=True),
    "Fourier curve": Shape(1, 1, _fourier_curve),
    "Fourier surface": Shape(2, 2, _fourier_surface),
    "turned image": Shape(4, 4, _turned_image),
    "spectra of chirps": Shape(3, 3, _chirps),
    "product of curves": Shape(4, 4, _curves),
    "cone over a torus": Shape(5, 5, _torus_cone),
    "monkey saddles": Shape(6, 6, _cubic_graph, normal=True),
    "superellipsoid": Shape(7, 8, _superellipsoid, normal=True),
    "views of a body": Shape(6, 12, _views, normal=True),
    "jointed arm": Shape(4, 4, _arm),
    "softmax of five": Shape(5, 5, _softmax, normal=True),
}


def trials(ns: list[int], seeds: int) -> list[dict[str, Any]]:
    """One cell for each shape, n and seed: the 90% interval, or None."""
    cells = []
    for (name, shape), n, seed in product(SHAPES.items(), ns, range(seeds)):
        found = dimension(shape.sample(n, seed), seed=seed)
        said = {"value": found.value, "low": found.low, "high": found.high}
        cells.append({"shape": name, "dim": shape.dim, "n": n, "seed": seed} | said)
    return cells


def rows(cells: list[dict[str, Any]]) -> list[Row]:
    """Over all, by n and by shape."""
    share, held, width = covered(cells)
    table = [
        Row("resolved 90% intervals that hold the truth", held, "", ">= 0.85"),
        Row("share resolved", share),
        Row("median relative width of the resolved", width),
    ]
    groups = {
        f"n = {n}": [c for c in cells if c["n"] == n] for n in sorted({c["n"] for c in cells})
    }
    for name, shape in SHAPES.items():
        groups[f"{name}, d = {shape.dim}"] = [c for c in cells if c["shape"] == name]
    for name, group in groups.items():
        share, held, width = covered(group)
        table.append(Row(f"{name}: share resolved", share))
        if share:
            table += [Row("  that hold the truth", held), Row("  median relative width", width)]
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--n", type=int, nargs="+", default=[300, 1000, 2500])
    parser.add_argument("--seeds", type=int, default=2)
    args = parser.parse_args()
    report("dimension_blind", rows(trials(args.n, args.seeds)), n=args.n, seeds=args.seeds)


if __name__ == "__main__":
    main()
