"""The benchmark manifolds of the dimension literature, with their true dimensions.

M1 to M13 are those of Hein and Audibert (2005) as Rozza et al. (2012) extended them; Mbeta, Mn and
Mp those of Campadelli et al. (2015). Names, charts and sizes are as in scikit-dimension's
``BenchmarkManifolds``, against whose samples ours are tested; drawn here from our own seeds.

    BENCHMARK["M7_Roll"].sample(1000, noise=0.01, seed=3)  # (1000, 3)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from lowdim.errors import InputError

TURN = 2 * math.pi


@dataclass(frozen=True)
class Manifold:
    """Points whose intrinsic dimension is known.

    Attributes
    ----------
    name : str
        As scikit-dimension calls it.
    dim : int
        The true intrinsic dimension.
    ambient : int
        Columns of a sample.
    draw : callable
        (n, generator) -> (n, ambient) float64 points without noise.
    """

    name: str
    dim: int
    ambient: int
    draw: Callable[[int, Generator], Tensor]

    def sample(self, n: int, *, noise: float = 0.0, seed: int = 0) -> Tensor:
        """(n, ambient) points in float64.

        Parameters
        ----------
        n : int
            How many.
        noise : float
            Level of the noise added, see :func:`with_noise`; the points beneath stay the same.
        seed : int
            The same seed gives the same points.
        """
        generator = torch.Generator().manual_seed(seed)
        return with_noise(self.draw(n, generator), noise, generator)


def with_noise(x: Tensor, level: float, generator: Generator) -> Tensor:
    """Normal noise in all columns, its rms length being ``level`` of the points' own spread.

    The spread is the rms distance from the mean, so 0.05 says the same thing of a small and a
    large cloud, in few columns and in many.
    """
    if not level >= 0:
        raise InputError(f"noise={level}: a share of the spread of the points, zero or more")
    if level == 0:
        return x
    spread = (x - x.mean(0)).square().mean().sqrt()  # of one coordinate
    noise = torch.randn(x.shape, generator=generator, dtype=x.dtype)
    return x + level * spread * noise


def _rand(n: int, dim: int, g: Generator) -> Tensor:
    return torch.rand(n, dim, generator=g, dtype=torch.float64)


def _exponential(n: int, dim: int, g: Generator) -> Tensor:
    return -torch.log1p(-_rand(n, dim, g))


def _normal(dim: int) -> Callable[[int, Generator], Tensor]:
    return lambda n, g: torch.randn(n, dim, generator=g, dtype=torch.float64)


def _sphere(dim: int) -> Callable[[int, Generator], Tensor]:
    return lambda n, g: torch.nn.functional.normalize(_normal(dim + 1)(n, g))


def _affine_3_in_5(n: int, g: Generator) -> Tensor:
    basis = torch.tensor(
        [[1.2, 0.5, -0.5, 0.4, 1.1], [-0.5, 0.9, -0.2, -0.9, -0.3], [0, 0, 1, -0.1, 0]],
        dtype=torch.float64,
    )
    offset = torch.tensor([3, -1, 0, 0, 8], dtype=torch.float64)
    return 4 * _rand(n, 3, g) @ basis + offset  # (n, 3) @ (3, 5)


def _four_in_six(n: int, g: Generator) -> Tensor:
    a, b, c, d = _rand(n, 4, g).T
    return torch.stack(
        [
            b**2 * (TURN * a).cos(),
            c**2 * (TURN * a).sin(),
            b + c + (b - d) ** 2,
            b - 2 * c + (a - d) ** 2,
            -b - 2 * c + (c - d) ** 2,
            a**2 - b**2 + c**2 - d**2,
        ],
        1,
    )


def _chained_discs(dim: int, copies: int) -> Callable[[int, Generator], Tensor]:
    """Polar coordinates with the angle of one disc as the radius of the one before it."""

    def draw(n: int, g: Generator) -> Tensor:
        p = _rand(n, dim, g)
        radius = p.roll(-1, 1)
        discs = torch.stack((radius * (TURN * p).cos(), radius * (TURN * p).sin()), 2)
        return discs.flatten(1).repeat(1, copies)  # (n, 2 dim copies)

    return draw


def _coiled_circle(n: int, g: Generator) -> Tensor:
    t = TURN * _rand(n, 1, g)
    tube = 2 + (8 * t).cos()
    return torch.cat((tube * t.cos(), tube * t.sin(), (8 * t).sin()), 1)


def _helicoid(n: int, g: Generator) -> Tensor:
    r, p = (10 * math.pi * _rand(n, 2, g)).split(1, 1)
    return torch.cat((r * p.cos(), r * p.sin(), p / 2), 1)


def _roll(n: int, g: Generator) -> Tensor:
    u, v = _rand(n, 2, g).split(1, 1)
    t = 1.5 * math.pi * (1 + 2 * u)
    return torch.cat((t * t.cos(), 21 * v, t * t.sin()), 1)


def _uniform_cube(dim: int) -> Callable[[int, Generator], Tensor]:
    return lambda n, g: 5 * _rand(n, dim, g) - 2.5


def _cube_surface(dim: int) -> Callable[[int, Generator], Tensor]:
    """Uniform on the 2 (dim + 1) faces of the unit cube in dim + 1 coordinates."""

    def draw(n: int, g: Generator) -> Tensor:
        x = _rand(n, dim + 1, g)
        face = torch.randint(2 * (dim + 1), (n,), generator=g)
        x[torch.arange(n), face // 2] = (face % 2).double()
        return x

    return draw


def _moebius(n: int, g: Generator) -> Tensor:
    u, v = _rand(n, 2, g).split(1, 1)
    phi, across = TURN * u, v - 0.5
    radius = 1 + across * (5 * phi).cos()
    return torch.cat((radius * phi.cos(), radius * phi.sin(), across * (5 * phi).sin()), 1)


def _s_curve(n: int, g: Generator) -> Tensor:
    u, v = _rand(n, 2, g).split(1, 1)
    t = 3 * math.pi * (u - 0.5)
    return torch.cat((t.sin(), 2 * v, t.sign() * (t.cos() - 1)), 1)


def _spiral(n: int, g: Generator) -> Tensor:
    t = 10 * math.pi * _rand(n, 1, g)
    curve = torch.cat((100 * t.cos(), 100 * t.sin(), t), 1)
    return torch.nn.functional.pad(curve, (0, 10))


def _beta(dim: int) -> Callable[[int, Generator], Tensor]:
    """Coordinates of a Beta(10, 1/2) density, crowded at one, wound up twice."""

    def draw(n: int, g: Generator) -> Tensor:
        a = _exponential(n, 10 * dim, g).view(n, dim, 10).sum(2)  # Gamma(10)
        b = _normal(dim)(n, g).square() / 2  # Gamma(1/2)
        x = a / (a + b)
        wound = torch.cat((x * (TURN * x).cos().sin(), x * (TURN * x).sin().cos()), 1)
        return wound.repeat(1, 2)

    return draw


def _tangents(dim: int) -> Callable[[int, Generator], Tensor]:
    def draw(n: int, g: Generator) -> Tensor:
        x = _rand(n, dim, g)
        back = x.flip(1)
        return torch.cat(((x * back.cos()).tan(), (back * x.sin()).atan()), 1).repeat(1, 2)

    return draw


def _paraboloid(dim: int) -> Callable[[int, Generator], Tensor]:
    """A paraboloid over a multivariate Burr density, with its sines and squares."""

    def draw(n: int, g: Generator) -> Tensor:
        e = _exponential(n, dim + 1, g)
        x = 1 / (1 + e[:, 1:] / e[:, :1])
        x = torch.cat((x, x.square().sum(1, keepdim=True)), 1)
        return torch.cat((x, x.sin(), x.square()), 1)

    return draw


BENCHMARK = {
    m.name: m
    for m in (
        Manifold("M1_Sphere", 10, 11, _sphere(10)),
        Manifold("M2_Affine_3to5", 3, 5, _affine_3_in_5),
        Manifold("M3_Nonlinear_4to6", 4, 6, _four_in_six),
        Manifold("M4_Nonlinear", 4, 8, _chained_discs(4, 1)),
        Manifold("M5a_Helix1d", 1, 3, _coiled_circle),
        Manifold("M5b_Helix2d", 2, 3, _helicoid),
        Manifold("M6_Nonlinear", 6, 36, _chained_discs(6, 3)),
        Manifold("M7_Roll", 2, 3, _roll),
        Manifold("M8_Nonlinear", 12, 72, _chained_discs(12, 3)),
        Manifold("M9_Affine", 20, 20, _uniform_cube(20)),
        Manifold("M10a_Cubic", 10, 11, _cube_surface(10)),
        Manifold("M10b_Cubic", 17, 18, _cube_surface(17)),
        Manifold("M10c_Cubic", 24, 25, _cube_surface(24)),
        Manifold("M10d_Cubic", 70, 71, _cube_surface(70)),
        Manifold("M11_Moebius", 2, 3, _moebius),
        Manifold("M12_Norm", 20, 20, _normal(20)),
        Manifold("M13a_Scurve", 2, 3, _s_curve),
        Manifold("M13b_Spiral", 1, 13, _spiral),
        Manifold("Mbeta", 10, 40, _beta(10)),
        Manifold("Mn1_Nonlinear", 18, 72, _tangents(18)),
        Manifold("Mn2_Nonlinear", 24, 96, _tangents(24)),
        Manifold("Mp1_Paraboloid", 3, 12, _paraboloid(3)),
        Manifold("Mp2_Paraboloid", 6, 21, _paraboloid(6)),
        Manifold("Mp3_Paraboloid", 9, 30, _paraboloid(9)),
    )
}
"""The standard set by name; nothing in the library is fitted to it."""
