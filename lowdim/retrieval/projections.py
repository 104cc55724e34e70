"""Maps that are read off the columns, the spectrum or nothing at all.

`random`, `sparse` and `fft` do not look at the vectors but for their mean: they are the controls
that a fitted map has to beat. `truncate` is for encoders that were trained to be cut. The last two
keep principal directions, but compare as PCA does not.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lowdim.core.random import normal, signs, uniform
from lowdim.errors import InputError
from lowdim.registry import method, vectors
from lowdim.retrieval.map import Map
from lowdim.retrieval.reduction import Training, check_dims, principal

LEAST = 0.05
"""Singular values of a sparse map, over its largest, below which the way back leaves them out."""


@method(
    "retrieval/random",
    needs=vectors(),
    paper="Johnson and Lindenstrauss 1984; Dasgupta and Gupta 2003",
    cost="O(d m^2) once, O(d m) a vector",
    invariant=(),
)
def random(training: Training, dims: int) -> Map:
    """How far does one get with m directions drawn at random?

    Notes
    -----
    Gaussian directions made orthonormal, so that the way back is the transpose; the first of them
    are those of a map of fewer dims. Trust it as a control, and where vectors are to change in ways
    that no sample foretells: on average a squared length keeps the share m / d, whatever the data.
    """
    check_dims(dims, training.dim)
    drawn = normal((dims, training.dim), training.seed, dtype=torch.float64)
    return _orthonormal(torch.linalg.qr(drawn.T)[0], training)


@method(
    "retrieval/sparse",
    needs=vectors(),
    paper="Achlioptas 2003; Li, Hastie and Church 2006",
    cost="O(d m^2) once, O(d m) a vector",
    invariant=(),
)
def sparse(training: Training, dims: int) -> Map:
    """How far does one get with sums and differences of a few random columns each?

    Notes
    -----
    Entries are -1, 0 and +1, one in sqrt(d) of them not zero. The way back is the pseudo-inverse,
    which near m = d leaves out combinations that would blow up the rounding of a code.
    It finds as much as ``random`` (``python -m benchmarks.index_methods``); the scaled transpose,
    the usual way back, would not, since the directions are not orthogonal. Trust it as a control,
    and where a product is dear: its matrix is held dense here.
    """
    check_dims(dims, training.dim)
    shape, seed = (dims, training.dim), training.seed
    kept = uniform(shape, seed) * math.sqrt(training.dim) < 1  # Li et al.: density 1 / sqrt(d)
    encoder = (signs(shape, seed, dtype=torch.float64) * kept).T  # (d, m)
    back = torch.linalg.pinv(encoder, rtol=LEAST)
    return Map(_ready(encoder, training), training.x.mean(0), _ready(back, training))


@method(
    "retrieval/fft",
    needs=vectors(),
    paper="Bulgakov and Segal 2024, who keep amplitudes; here cosines and sines, which are linear",
    cost="O(d m) a vector",
    oracle="torch.fft.rfft",
    invariant=(),
)
def fft(training: Training, dims: int) -> Map:
    """Do low frequencies along the columns hold more than random directions?

    Notes
    -----
    The first m of the mean, cosine and sine of one turn over the columns, of two turns, ...: m
    fixed orthonormal directions. The columns of an embedding stand in no order, so this is a random
    projection of another name. Trust it as a control, and only on columns that follow each other,
    as samples of a signal do.
    """
    check_dims(dims, training.dim)
    return _orthonormal(low_frequencies(training.dim, dims), training)


def low_frequencies(d: int, m: int) -> Tensor:
    """(d, m) float64 orthonormal columns: 1, cos t, sin t, cos 2t, ... for t in d steps of a turn.

    The coordinates are the real and imaginary parts of ``rfft(x, norm="ortho")``, in that order,
    times sqrt(2) (the first and, of an even d, the last times 1) and with the sign of the sines
    turned.
    """
    number = torch.arange(m)
    steps = torch.arange(d, dtype=torch.float64)[:, None]  # (d, 1)
    angles = 2 * math.pi / d * steps * ((number + 1) // 2)  # (d, m)
    waves = torch.where(number % 2 == 1, angles.cos(), angles.sin())
    waves[:, 0] = 1
    return waves / torch.linalg.vector_norm(waves, dim=0)


@method(
    "retrieval/truncate",
    needs=vectors(),
    paper="Kusupati, Bhatt, Rege et al. 2022",
    arxiv="2205.13147",
    cost="none",
    oracle="sentence_transformers.util.truncate_embeddings",
    invariant=(),
)
def truncate(training: Training, dims: int) -> Map:
    """Do the first m columns do, as an encoder trained to be cut promises?

    Notes
    -----
    Rows and queries are cut, and compared by the metric as they then are: nothing is fitted.
    Trust it with encoders that were trained for it (Matryoshka); with others the columns kept are
    as good as any others, which is as good as ``random``.
    """
    check_dims(dims, training.dim)
    first = torch.eye(training.dim, dims).to(training.x)
    return Map(first, training.x.new_zeros(training.dim), first.T.contiguous())


@method(
    "retrieval/pca-whitened",
    needs=vectors(),
    paper="Jegou and Chum 2012",
    cost="O(n d^2) to fit, O(d m) a vector",
    oracle="sklearn.decomposition.PCA",
    invariant=("permutation",),
)
def pca_whitened(training: Training, dims: int) -> Map:
    """Is what is near clearer where all m directions count the same?

    Notes
    -----
    Principal coordinates over their standard deviation; rows and queries are compared there, so
    the scores are not those of the vectors, and the more dims, the further it falls behind ``pca``
    in what exact search would find (``python -m benchmarks.index_methods``). Trust it with
    relevance judgements that say it helps, as it did for image descriptors where a few directions
    drown the others.
    """
    values, basis, mean = principal(training, dims)
    rank = int((values > 0).sum())
    if rank < dims:
        raise InputError(f"dims={dims}: the vectors vary along {rank} directions, give no more")
    return Map(_ready(basis / values.sqrt(), training), _ready(mean, training))


@method(
    "retrieval/band",
    needs=vectors(),
    paper="Mu and Viswanath 2018; the question: Balestriero and LeCun 2024",
    arxiv="1702.01417",
    cost="O(n d^2) to fit, O(d m) a vector",
    invariant=("permutation",),
)
def band(training: Training, dims: int) -> Map:
    """Is what is near clearer without the directions in which all vectors are alike?

    Notes
    -----
    Of the principal directions the first d / 100 (rounded, at least one) are dropped, the next m
    kept; rows and queries are compared there. Trust it with relevance judgements that say it helps,
    as for word vectors whose leading directions tell how frequent a word is. Against the order of
    the vectors themselves it loses what it drops (``python -m benchmarks.index_methods``).
    """
    dropped = max(1, round(training.dim / 100))
    check_dims(dims, min(len(training.x), training.dim) - dropped)
    _, basis, mean = principal(training, dropped + dims)
    return Map(_ready(basis[:, dropped:], training), _ready(mean, training))


def _orthonormal(basis: Tensor, training: Training) -> Map:
    """Along (d, m) orthonormal directions, about the mean of the vectors."""
    encoder = _ready(basis, training)
    return Map(encoder, training.x.mean(0), encoder.T.contiguous())


def _ready(x: Tensor, training: Training) -> Tensor:
    """In the precision and on the device of the vectors."""
    return x.to(training.x).contiguous()
