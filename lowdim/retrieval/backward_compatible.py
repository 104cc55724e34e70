"""BT^2: new embeddings for the old store, from which the new encoder's own can be read off.

Zhou et al. 2023. The new vector y is turned, not changed: its first coordinates go, beside an
imitation of the old vector, into as many columns as the store has, and the rest into columns that
old rows fill with zeros. All maps are orthonormal, so y can be read off the result.
"""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, cross_entropy, normalize
from torch.nn.utils.parametrizations import orthogonal

from lowdim.core.random import integers
from lowdim.errors import InputError
from lowdim.registry import encoders, method
from lowdim.retrieval.metric import placed
from lowdim.retrieval.pair_maps import Pairs
from lowdim.structure.estimator import open_source


@method(
    "retrieval/backward-compatible",
    needs=encoders(),
    paper="Zhou et al. 2023",
    arxiv="2211.03989",
    cost="O(d_new^2 + d_old^2) a vector; fit: O(d^3) a step",
)
class CompatibleHead(nn.Module):
    """Which extra columns let vectors of a new encoder stand beside those of an old one?

    Parameters
    ----------
    d_old, d_new : int
        Columns of the store, and of the new encoder.
    d_extra : int
        Columns added behind those of the store, from max(0, d_new - d_old) to d_new. The store's
        columns then hold ``c = d_extra + d_old - d_new`` of imitation and d_old - c of y.
    scale : float
        Inverse temperature of the old classifier, where labels are given to ``fit``.

    Attributes
    ----------
    imitate : nn.Linear
        x, what y says the old vector was; scaled to length one.
    p, q, b : nn.Module
        Orthonormal maps, their ``weight``: P (d_new, d_new) turns y, Q (c, d_old) cuts c
        coordinates out of x, B (d_old, d_old) turns [Q x; P y] into h.

    Notes
    -----
    Output [h; e]: h = B [Q x; (P y)_1], e = (P y)_2. The square of its length is
    |Q x|^2 + |y|^2, and inner products are those of y and of Q x added. Old rows are
    [old; 0] (:meth:`old_rows`). The paper trains the encoder too, has d_old = d_new and scales
    Q x to length one; here the vectors are given and x itself has length one, so that Q x keeps
    the share of the old vector that it explains. What is imitated counts among new rows too, so
    that more extra columns find more among old rows and less among new ones. Trust it where old and
    new rows share a store; for queries alone :func:`lowdim.retrieval.compatible` spoils nothing.
    """

    def __init__(self, d_old: int, d_new: int, d_extra: int, *, scale: float = 16.0) -> None:
        super().__init__()
        least = max(0, d_new - d_old)
        if min(d_old, d_new) < 1 or not least <= d_extra <= d_new:
            raise InputError(
                f"d_extra={d_extra}: from {least} to {d_new} for d_old={d_old}, d_new={d_new}"
            )
        self.d_old, self.d_new, self.d_extra, self.scale = d_old, d_new, d_extra, scale
        self.imitated = d_extra + d_old - d_new  # c
        self.imitate = nn.Linear(d_new, d_old)
        self.p = _orthonormal(d_new)
        self.q = _orthonormal(d_old)  # its first c rows are Q
        self.b = _orthonormal(d_old)

    def forward(self, y: Tensor) -> Tensor:
        """(n, d_old + d_extra) [h; e] of (n, d_new) new vectors."""
        x = normalize(self.imitate(y))  # (n, d_old)
        seen = self.q(x)[:, : self.imitated]  # (n, c)
        turned = self.p(y)  # (n, d_new)
        inside = self.d_new - self.d_extra  # coordinates of y among the store's columns
        h = self.b(torch.cat([seen, turned[:, :inside]], 1))  # (n, d_old)
        return torch.cat([h, turned[:, inside:]], 1)

    def recover(self, z: Tensor) -> Tensor:
        """(n, d_new) new vectors, from nothing but their (n, d_old + d_extra) outputs."""
        h, e = z[:, : self.d_old], z[:, self.d_old :]
        turned = torch.cat([(h @ self.b.weight)[:, self.imitated :], e], 1)
        return turned @ self.p.weight

    def old_rows(self, old: Any) -> Tensor:
        """(n, d_old + d_extra) old vectors as they stand among the outputs: zeros behind."""
        rows = placed(open_source(old).read(), "cosine", "old")
        return torch.cat([rows, rows.new_zeros(len(rows), self.d_extra)], 1)

    @torch.inference_mode()
    def transform(self, new: Any) -> Tensor:
        """(n, d_old + d_extra) outputs of (n, d_new) vectors, first scaled to length one."""
        return self(placed(open_source(new).read(), "cosine", "new"))

    def fit(
        self, f_new: Any, f_old: Any, labels: Any = None, *, steps: int = 300, batch: int = 512,
        learning_rate: float = 1e-3, seed: int = 0,
    ) -> Self:  # fmt: skip
        """Train the maps on vectors of the same items by both encoders.

        Parameters
        ----------
        f_new, f_old : array-like, path or source
            (n, d_new) and (n, d_old).
        labels : array-like, optional
            (n,) classes: h is then also classified by the old encoder's class means, the influence
            loss of backward-compatible training.
        steps, batch, learning_rate : int, int, float
            Of Adam; 0 steps leave the closed form that training starts from.
        seed : int
            Of the batches.

        Raises
        ------
        InputError
            Row counts or columns that differ from what the head was made for, NaN or Inf, a zero
            vector.

        Notes
        -----
        Losses: 1 - cos(x, old), 1 - cos(h, old), and cross-entropy of h. The start: x by
        regression, and by the singular vectors of the cross-moment of y and old the d_old - c
        directions where the two agree most are left to y, the c others to the imitation.
        """
        y = placed(open_source(f_new).read(), "cosine", "f_new")
        old = placed(open_source(f_old).read(), "cosine", "f_old")
        if y.shape[1] != self.d_new or old.shape[1] != self.d_old or len(y) != len(old):
            raise InputError(
                f"f_new is {tuple(y.shape)} and f_old {tuple(old.shape)}: "
                f"give (n, {self.d_new}) and (n, {self.d_old})"
            )
        self._start(y, old)
        classes = None if labels is None else _classes(labels, len(y))
        means = None if classes is None else _class_means(old, classes)  # (classes, d_old)
        adam = torch.optim.Adam(self.parameters(), lr=learning_rate)
        for step in range(steps):
            rows = integers(min(batch, len(y)), len(y), seed, step)
            h, x = self(y[rows])[:, : self.d_old], self.imitate(y[rows])
            near = cosine_similarity(h, old[rows]) + cosine_similarity(x, old[rows])
            loss = 2 - near.mean()
            if classes is not None and means is not None:
                loss = loss + cross_entropy(self.scale * normalize(h) @ means.T, classes[rows])
            adam.zero_grad()
            loss.backward()
            adam.step()
        return self

    @torch.no_grad()
    def _start(self, y: Tensor, old: Tensor) -> None:
        """The best maps in closed form."""
        pairs = Pairs.of(y, old)
        affine = pairs.affine(pairs.regression(1e-3))
        self.imitate.weight.copy_(affine.weight.T)
        self.imitate.bias.copy_(affine.bias)
        kept = self.d_old - self.imitated
        u, _, vt = torch.linalg.svd(y.double().T @ old.double())  # (d_new, d_new), (d_old, d_old)
        self.p.weight = u.T.float()
        self.q.weight = torch.cat([vt[kept:], vt[:kept]]).float()
        self.b.weight = torch.cat([vt[kept:], vt[:kept]]).T.float()


def _orthonormal(d: int) -> nn.Linear:
    """A (d, d) map whose weight stays orthonormal while it is trained."""
    linear = nn.Linear(d, d, bias=False)
    orthogonal(linear, orthogonal_map="cayley")
    return linear


def _classes(labels: Any, n: int) -> Tensor:
    classes = torch.as_tensor(labels)
    if classes.shape != (n,):
        raise InputError(f"labels have shape {tuple(classes.shape)}: give ({n},)")
    return classes.unique(return_inverse=True)[1]


def _class_means(x: Tensor, classes: Tensor) -> Tensor:
    """(classes, d) directions of the mean of each class."""
    sums = x.new_zeros(int(classes.max()) + 1, x.shape[1]).index_add_(0, classes, x)
    return normalize(sums)
