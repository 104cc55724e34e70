"""Which stratum is an input on? A gate that costs a few thin products.

The pieces that a finder of :mod:`lowdim.structure` fits are affine subspaces, or normal
distributions about them, so the score of piece k (its log-likelihood, or minus the squared distance
to it) is quadratic. It is taken in p principal coordinates of the input, where what all pieces have
in common is left out:

    z = P x - P m                   (p,)  m the mean
    score = b + L z + C (U^T z)^2   (K,)  U (p, R) the bases of all pieces side by side

One product with P, p wide, is all that the size of the layer enters.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import torch
from sklearn.base import clone
from torch import Tensor, nn
from torch.nn.functional import linear

from lowdim.core.spectrum import Spectrum
from lowdim.core.strata import Strata
from lowdim.core.subspace import Subspace
from lowdim.errors import InputError
from lowdim.structure.base import PieceFinder
from lowdim.structure.gaussian_pieces import GaussianPieces

HELD = "lowdim_shares"
"""Where a tensor keeps the shares it was given, for the next layer that reads it."""

UNKNOWN = (-1, "")  # version and digest of a gate's numbers


class Gate(nn.Module):
    """Shares of inputs in K strata.

    Parameters
    ----------
    width : int
        Of the inputs.
    n_pieces : int
        K. One piece needs no fit.
    temperature : float
        Shares are softmax(score / temperature); at 0, one for the best stratum alone.

    Attributes
    ----------
    project, shift : Tensor
        P (p, width) and -P m (p,).
    bases : Tensor
        U^T (R, p).
    curve, slope, bias : Tensor
        C (K, R), L (K, p) and b (K,).
    given : Tensor or None
        (b, K) shares that take the place of the gate, see :func:`lowdim.adapt.given_shares`.
    """

    project: Tensor
    shift: Tensor
    bases: Tensor
    curve: Tensor
    slope: Tensor
    bias: Tensor

    def __init__(self, width: int, n_pieces: int, temperature: float) -> None:
        super().__init__()
        self.n_pieces, self.temperature = n_pieces, temperature
        self.given: Tensor | None = None
        self._known = UNKNOWN
        self.register_buffer("project", torch.zeros(1, width))
        self.register_buffer("shift", torch.zeros(1))
        self.register_buffer("bases", torch.zeros(1, 1))
        self.register_buffer("curve", torch.zeros(n_pieces, 1))
        self.register_buffer("slope", torch.zeros(n_pieces, 1))
        self.register_buffer("bias", torch.zeros(1))  # (K,) once the strata are known

    def forward(self, x: Tensor) -> Tensor:
        """(..., K) shares of (..., width) inputs.

        A tensor keeps its shares, so that layers with equal gates (queries, keys and values) work
        them out once; not where a gradient passes through them, in a compiled model, or in
        inference mode, which does not tell a tensor that was changed.

        Raises
        ------
        InputError
            The strata are not known yet.
        """
        if self.given is not None:
            return _spread(self.given, x)
        if self.n_pieces == 1:
            return x.new_ones(*x.shape[:-1], 1)
        if len(self.bias) < self.n_pieces:
            raise InputError(
                "the strata of the inputs are not known yet: call "
                "lowdim.adapt.fit_gates(model, loss, batches) after attach"
            )
        if x.is_inference() or torch.compiler.is_compiling():
            return self.shares(x)
        key = (self.digest(), self.temperature, x._version)
        known, shares = getattr(x, HELD, (None, None))
        if known != key or shares is None:
            shares = self.shares(x)
            if not shares.requires_grad:
                setattr(x, HELD, (key, shares))
        return shares

    def shares(self, x: Tensor) -> Tensor:
        """(..., K) worked out anew."""
        if self.temperature > 0:
            return (self.scores(x) / self.temperature).softmax(-1)
        with torch.no_grad():
            scores = self.scores(x)
            return torch.zeros_like(scores).scatter_(-1, scores.argmax(-1, keepdim=True), 1.0)

    def scores(self, x: Tensor) -> Tensor:
        """(..., K) how well each stratum explains each input, up to what all have in common."""
        with torch.autocast(x.device.type, enabled=False):  # whose half precision would misplace
            z = linear(x, self.project, self.shift)  # (..., p)
            along = linear(z, self.bases)  # (..., R)
            return linear(z, self.slope, self.bias) + linear(along * along, self.curve)

    def digest(self) -> str:
        """What gates that always agree have in common."""
        version = sum(x._version for x in self.buffers())
        if self._known[0] != version:
            parts = [x.cpu().contiguous().view(-1).view(torch.uint8) for x in self.buffers()]
            self._known = version, hashlib.sha256(torch.cat(parts).numpy().data).hexdigest()
        return self._known[1]

    def fit(self, x: Tensor, finder: PieceFinder, *, directions: int) -> Strata:
        """Find the strata of (n, width) inputs in their leading principal directions.

        Returns
        -------
        Strata
            In the principal coordinates.
        """
        p = min(directions, *x.shape)
        leading = Spectrum.of_points(x, vectors=True, method="randomized", rank=p)
        assert leading.vectors is not None
        assert leading.mean is not None
        project = leading.vectors.T.double()  # (p, width)
        shift = -(project @ leading.mean.double())
        z = linear(x.double(), project, shift)  # (n, p)
        fitted = clone(finder).set_params(n_pieces=self.n_pieces).fit(z)
        strata = fitted.strata_
        if isinstance(fitted, GaussianPieces):
            model = fitted.model_
            member = model.stacked.member.double()  # (R, K)
            level = model.shares.log() - 0.5 * (model.values.log() @ member)
            level -= 0.5 * (p - member.sum(0)) * model.noise.log()
            self._set(project, shift, model.pieces, model.noise, 1 / model.values, level)
        else:
            noise = float(strata.squared_distances(z).amin(1).mean()) / p
            self._set_distances(project, shift, strata.pieces, noise or 1.0)
        return strata

    def take(self, strata: Strata, *, noise: float = 1.0) -> None:
        """Gate by the distance of inputs to these pieces, as :meth:`Strata.assign` does.

        Parameters
        ----------
        strata : Strata
            K pieces of the space of the inputs.
        noise : float
            Scores are minus the squared distances over twice this: what a soft gate's temperature
            is relative to.
        """
        pieces = [piece.to(torch.float64) for piece in strata.pieces]
        mean = torch.stack([p.center for p in pieces]).mean(0)  # (width,)
        between = torch.stack([p.center - mean for p in pieces], 1)  # (width, K)
        span = Subspace.of_vectors(torch.cat([*(p.basis for p in pieces), between], 1)).basis
        if len(pieces) != self.n_pieces or len(span) != self.project.shape[1] or not span.shape[1]:
            raise InputError(
                f"these are {len(pieces)} pieces of a space of {len(span)} dimensions: the gate "
                f"needs {self.n_pieces} that differ, of {self.project.shape[1]}"
            )
        inside = [Subspace(span.T @ p.basis, span.T @ (p.center - mean)) for p in pieces]
        self._set_distances(span.T, -(span.T @ mean), inside, noise)

    def copy(self, other: Gate) -> None:
        """Become equal to another gate."""
        for name, x in other.named_buffers():
            setattr(self, name, x.clone())
        self._known = UNKNOWN

    def _set_distances(
        self, project: Tensor, shift: Tensor, pieces: Sequence[Subspace], noise: float
    ) -> None:
        """Score -distance^2 / (2 noise)."""
        flat = project.new_zeros(sum(p.rank for p in pieces))
        level = project.new_zeros(len(pieces))
        self._set(project, shift, pieces, level + noise, flat, level)

    def _set(
        self,
        project: Tensor,
        shift: Tensor,
        pieces: Sequence[Subspace],
        noise: Tensor,
        inside: Tensor,
        level: Tensor,
    ) -> None:
        """Score level - |z - c|^2 / (2 noise) + sum_j (1/noise - inside_j) (u_j (z - c))^2 / 2.

        ``noise`` and ``level`` are (K,); ``inside`` (R,) holds the precisions along the bases.
        """
        bases = torch.cat([p.basis for p in pieces], 1).double().T  # (R, p)
        centers = torch.stack([p.center for p in pieces]).double()  # (K, p)
        owner = torch.arange(len(pieces)).repeat_interleave(torch.tensor([p.rank for p in pieces]))
        owner = owner.to(bases.device)
        outside = 1 / noise.double()  # (K,)
        weight = (outside[owner] - inside.double()) / 2  # (R,)
        offset = (bases * centers[owner]).sum(1)  # (R,) u_j c
        own = torch.zeros(len(pieces), len(owner), dtype=torch.float64, device=bases.device)
        own[owner, torch.arange(len(owner), device=bases.device)] = weight  # (K, R)
        slope = outside[:, None] * centers - 2 * (own * offset) @ bases
        bias = level.double() + own @ offset**2 - outside * (centers * centers).sum(1) / 2
        alike = math.isclose(float(noise.min()), float(noise.max()), rel_tol=1e-12)
        if not alike or not len(bases):
            # |z|^2 is not what all pieces have in common: the axes join the bases
            bases = torch.cat([bases, torch.eye(bases.shape[1]).to(bases)])
            own = torch.cat([own, -(outside / 2)[:, None].expand_as(centers)], 1)
        held = self.project  # whose dtype and device all take on
        for name, x in (
            ("project", project),
            ("shift", shift),
            ("bases", bases),
            ("curve", own),
            ("slope", slope),
            ("bias", bias),
        ):
            setattr(self, name, x.to(held).contiguous())
        self._known = UNKNOWN


def _spread(shares: Tensor, x: Tensor) -> Tensor:
    """(b, K) shares of the items of a batch, for inputs (b, ..., width)."""
    if len(shares) not in (1, len(x)):
        raise InputError(f"shares of {len(shares)} items were given for a batch of {len(x)}")
    return shares.view(len(shares), *(1 for _ in x.shape[1:-1]), -1).to(x)
