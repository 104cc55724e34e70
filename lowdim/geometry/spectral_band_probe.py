"""Does the task live where the variance is? (Balestriero and LeCun 2024)

Reconstruction spends capacity on directions of large variance; a task may live in the rest. Three
answers: :func:`spectral_band_probe` scores the same model on the top and on the bottom of the
spectrum; :func:`reconstruction_alignment` says in closed form how much of a linear task the best k
directions for reconstruction solve; :func:`noise_benefit` asks whether denoising would choose
better ones. An audit to run before embeddings are truncated by variance.

Cost: one spectrum with vectors, O(n d^2 + d^3).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lowdim.core.estimate import Estimate
from lowdim.core.linalg import eigh_psd
from lowdim.core.random import permutation
from lowdim.core.spectrum import Spectrum
from lowdim.errors import InputError
from lowdim.geometry.labels import as_classes, as_targets
from lowdim.registry import labelled, method

MODELS = ("linear", "knn")


@dataclass(frozen=True, kw_only=True)
class BandProbe(Estimate):
    """Held-out accuracy by band of the spectrum; ``value`` is bottom less top.

    Attributes
    ----------
    top, bottom, full : float
        Accuracy on the leading directions, on the rest, and on all.
    base : float
        Of always saying the commonest class.
    top_rank, bottom_rank : int
        Directions in each band.
    top_share : float
        Share of the variance that the top band holds.
    """

    top: float
    bottom: float
    full: float
    base: float
    top_rank: int
    bottom_rank: int
    top_share: float


@method(
    "geometry/spectral-band-probe",
    needs=labelled(),
    paper="Balestriero and LeCun 2024",
    arxiv="2402.11337",
    cost="O(n d^2 + d^3), and three probes",
    invariant=(),
)
def spectral_band_probe(
    x: Tensor, y: Any, *, share: float = 0.9, model: str = "linear", held_out: float = 0.3,
    seed: int = 0, memory: int | float | str | None = None,
) -> BandProbe:  # fmt: skip
    """Do the directions of large variance hold the labels, or the ones that PCA drops?

    Parameters
    ----------
    x : Tensor
        (n, d).
    y : sequence
        n labels.
    share : float
        Share of the variance in the top band, which takes as few directions as reach it.
    model : {"linear", "knn"}
        Ridge regression on whitened coordinates, in closed form, or 10 nearest neighbours.
    held_out : float
        Share of rows that accuracy is measured on; the spectrum is that of the others.
    seed : int
        Of the split.
    memory : int, float or str, optional
        Budget of the spectrum.

    Raises
    ------
    InputError
        Not one label a row, one class, or no variance beyond the top band.

    Notes
    -----
    Trust it where ``full`` is well above ``base``; a difference within about 1/sqrt(held-out rows)
    is chance. The bands differ in their number of directions, which alone favours the bottom one
    for a linear probe with many rows: read the ranks beside the scores.
    """
    from sklearn.linear_model import RidgeClassifier
    from sklearn.neighbors import KNeighborsClassifier

    if model not in MODELS:
        raise InputError(f"model={model!r}: choose from {', '.join(MODELS)}")
    x, code, _ = as_classes(x, y)
    n_test = round(held_out * len(x))
    if not 0 < n_test < len(x) - 1:
        raise InputError(f"held_out={held_out} of {len(x)} rows leaves no rows on one side")
    order = permutation(len(x), seed, device=x.device)
    test, train = order[:n_test], order[n_test:]
    spectrum = Spectrum.of_points(x[train], vectors=True, memory=memory)
    assert spectrum.vectors is not None
    assert spectrum.mean is not None
    rank, k = int((spectrum.values > 0).sum()), spectrum.rank_at(share)
    if k >= rank:
        raise InputError(f"the top {k} of {rank} directions are all there is: lower share={share}")
    z = ((x.double() - spectrum.mean) @ spectrum.vectors[:, :rank]).cpu()  # (n, rank)
    if model == "linear":
        z = z / spectrum.values[:rank].sqrt().cpu()
    code, test, train = code.cpu(), test.cpu(), train.cpu()

    def score(columns: slice) -> float:
        part = z[:, columns].numpy()
        neighbors = min(10, len(train))
        probe = RidgeClassifier() if model == "linear" else KNeighborsClassifier(neighbors)
        return float(probe.fit(part[train], code[train]).score(part[test], code[test]))

    top, bottom = score(slice(k)), score(slice(k, None))
    common = torch.bincount(code[train]).argmax()
    return BandProbe(
        value=bottom - top, n=len(x), seed=seed, top=top, bottom=bottom, full=score(slice(None)),
        base=float((code[test] == common).double().mean()), top_rank=k, bottom_rank=rank - k,
        top_share=float(spectrum.values[:k].sum()) / spectrum.total,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Alignment(Estimate):
    """Share of the linearly solvable task that k directions of largest variance solve.

    Attributes
    ----------
    shares : tuple of float
        Explained by the first 1, 2, ... k principal directions, over what as many directions
        chosen for the task explain.
    r_squared : float
        Share of the targets' variance that all directions explain together.
    """

    shares: tuple[float, ...]
    r_squared: float


def reconstruction_alignment(x: Tensor, y: Tensor, k: int) -> Alignment:
    """How much of a linear task do the best k directions for reconstruction solve?

    Parameters
    ----------
    x : Tensor
        (n, d).
    y : Tensor
        (n,) or (n, t) targets; one-hot columns for classes.
    k : int
        Directions.

    Raises
    ------
    InputError
        Not one target a row, constant targets, or fewer than ``k`` directions with variance.

    Notes
    -----
    Measured on the rows given: with d near n every direction explains the targets by chance.
    """
    task = _Task.of(x, y)
    if not 1 <= k <= len(task.values):
        raise InputError(f"k={k}: between 1 and the {len(task.values)} directions with variance")
    solved = task.cross.square().sum(1).cumsum(0)  # by principal directions, which do not overlap
    best = torch.linalg.svdvals(task.cross).square()
    best = torch.nn.functional.pad(best, (0, len(solved) - len(best))).cumsum(0)
    shares = (solved / best)[:k]
    return Alignment(
        value=float(shares[-1]), n=len(x), shares=tuple(shares.tolist()),
        r_squared=float(best[-1]) / task.total,
    )  # fmt: skip


def shared_encoder(x: Tensor, y: Tensor, k: int, *, weight: float) -> Tensor:
    """Which k directions serve a task and reconstruction best, at this weight of the second?

    Parameters
    ----------
    x, y, k
        As for :func:`reconstruction_alignment`.
    weight : float
        0 is supervised; towards infinity the directions become the principal ones.

    Returns
    -------
    Tensor
        (d, k) float64, columns V that minimise |Y - V W|^2 + weight |X - V Z|^2 for codes X V:
        leading generalised eigenvectors of (X'Y Y'X + weight X'X X'X) v = g X'X v, in X'X-unit
        scale. Beyond the rank of the targets a weight of 0 leaves the choice open.
    """
    task = _Task.of(x, y)
    if not 1 <= k <= len(task.values) or weight < 0:
        raise InputError(f"k={k}, weight={weight}: 1 to {len(task.values)}, and not negative")
    both = task.cross @ task.cross.T + weight * torch.diag(task.values)
    w = eigh_psd(both)[1][:, :k]
    return task.vectors / task.values.sqrt() @ w


@dataclass(frozen=True, kw_only=True)
class NoiseBenefit(Estimate):
    """Change of the share of the task solved by denoising; ``value`` is the best of masking.

    Attributes
    ----------
    clean : float
        Share that k principal directions solve.
    masking, gaussian : dict
        Level -> share less ``clean``: of coordinates hidden at that rate, and of added noise with
        that standard deviation in units of the mean coordinate's. The second is always 0.
    """

    clean: float
    masking: dict[float, float]
    gaussian: dict[float, float]


def noise_benefit(
    x: Tensor, y: Tensor, k: int, *, levels: tuple[float, ...] = (0.1, 0.25, 0.5, 0.75)
) -> NoiseBenefit:
    """Would learning to denoise choose better directions for the task than reconstruction does?

    Parameters
    ----------
    x, y, k
        As for :func:`reconstruction_alignment`.
    levels : tuple of float
        In (0, 1), both masking rates and noise sizes.

    Notes
    -----
    The optimal linear denoiser of rank k leads with generalised eigenvectors of
    (C'C) v = g M v, C the cross moment of clean and noisy and M the noisy second moment. Gaussian
    noise adds sigma^2 I to M, which keeps the principal directions and their order; masking at
    rate p takes (1 - p)^2 C + p (1 - p) diag(C), which does not.
    """
    task = _Task.of(x, y)
    c = task.vectors * task.values @ task.vectors.T
    if not 1 <= k <= len(task.values) or not all(0 < p < 1 for p in levels):
        raise InputError(f"k={k}, levels={levels}: 1 to {len(task.values)}, and inside (0, 1)")
    diagonal, size = c.diagonal(), float(c.diagonal().mean())
    clean = task.share(task.vectors[:, :k])

    def gain(cross: Tensor, noisy: Tensor) -> float:
        values, vectors = eigh_psd(noisy)
        keep = values > values[0] * len(c) * 1e-15
        root = vectors[:, keep] / values[keep].sqrt()
        best = eigh_psd(root.T @ cross.T @ cross @ root)[1][:, :k]
        return task.share(root @ best) - clean

    masking = {
        p: gain((1 - p) * c, (1 - p) ** 2 * c + p * (1 - p) * torch.diag(diagonal)) for p in levels
    }
    gaussian = {p: gain(c, c + p * p * size * torch.eye(len(c)).to(c)) for p in levels}
    return NoiseBenefit(
        value=max(masking.values()), n=len(x), clean=clean, masking=masking, gaussian=gaussian
    )


@dataclass(frozen=True)
class _Task:
    """Principal directions of the points, and the targets seen along each."""

    values: Tensor  # (r,) energies above zero
    vectors: Tensor  # (d, r)
    cross: Tensor  # (r, t) covariance of whitened principal coordinates and targets
    total: float  # energy of the targets

    @classmethod
    def of(cls, x: Tensor, y: Tensor) -> _Task:
        x, y = as_targets(x, y)
        y = y - y.mean(0)
        total = float(y.square().sum()) / len(y)
        if not total > 0:
            raise InputError("y is constant: there is no task")
        spectrum = Spectrum.of_points(x, vectors=True)
        assert spectrum.vectors is not None
        assert spectrum.mean is not None
        rank = int((spectrum.values > 0).sum())
        if rank == 0:
            raise InputError("all rows of x are equal: there is no direction to look at")
        values, vectors = spectrum.values[:rank], spectrum.vectors[:, :rank]
        z = (x.double() - spectrum.mean) @ vectors / values.sqrt()  # (n, r) white
        return cls(values, vectors, z.T @ y / len(y), total)

    def share(self, v: Tensor) -> float:
        """Explained by the codes X V, over what as many directions could explain."""
        white = self.values.sqrt()[:, None] * (self.vectors.T @ v)  # (r, k) in white coordinates
        solved = torch.linalg.qr(white).Q.T @ self.cross
        best = torch.linalg.svdvals(self.cross).square()[: v.shape[1]].sum()
        return float(solved.square().sum() / best)
