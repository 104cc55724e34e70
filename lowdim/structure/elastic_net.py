"""Elastic net subspace clustering by an oracle-based active set (You, Li, Robinson, Vidal 2016).

Each unit row x_j is coded by the others by

    min_c  l1 |c|_1 + (1 - l1)/2 |c|^2 + gamma_j/2 |x_j - X^T c|^2,    c_j = 0.

With the oracle point delta = gamma_j (x_j - X^T c) the solution is c_i = soft(<x_i, delta>, l1) /
(1 - l1): points outside the oracle region |<x_i, delta>| > l1 have no part in it. So a problem of
some tens of points is solved, delta is held against all n, those in its region that were left out
come in and those not in use go out, until none is left out. Then the code is the solution over all
n points, and that last product is the proof.

Here all points do so at once. A round is one product of the oracle points of all rows that are not
proved yet with all points, 2 n^2 d flops at most; the small problems are solved by a semi-smooth
Newton method on the dual, which ends at the exact active set. Memory: the points twice, and the
active sets.
"""

from __future__ import annotations

import scipy.sparse as sp
import torch
from torch import Tensor

from lowdim.core.blocked import workers
from lowdim.core.memory import plan
from lowdim.errors import InputError
from lowdim.registry import method, pieces
from lowdim.structure.base import Job
from lowdim.structure.self_expressive import (
    SelfExpressive,
    as_graph,
    coded,
    strongest,
    working_memory,
)

TOGETHER = 128
"""Small problems that a core solves at once."""

NEWTON, HALVINGS = 100, 20

ROUNDS = 50
"""After which a code is kept as it is, and its violation reported: far beyond what is needed."""


@method(
    "structure/ensc",
    needs=pieces(),
    paper="You, Li, Robinson and Vidal 2016",
    arxiv="1605.02633",
    cost="2 n^2 d flops a round, of which about four are needed",
    oracle="sklearn.linear_model.ElasticNet",
)
class ElasticNetSubspace(SelfExpressive):
    """Which linear subspaces do the points fill, each point being made of all its near of kin?

    Parameters
    ----------
    n_pieces, join, rank, reduce, random_state, memory
        See :class:`SelfExpressive`.
    l1 : float
        Share of the l1 penalty, above 0 and at most 0.999: near 1 few points, near 0 many.
    alpha : float
        Weight of the data: gamma_j is ``alpha`` times the largest at which point j has no code at
        all. Above 1, larger is closer to the point; at most 1000, since it takes ever longer.
    tolerance : float
        A code is proved when no other point's |<x_i, delta>| is above ``l1`` by more than this
        share of it.
    start, width : int
        Points in the first active set (the nearest in direction), and the most that come in a
        round. They change the time and not the result.

    Attributes
    ----------
    violation_ : float
        The largest relative violation of the optimality conditions over all pairs of points;
        at most ``tolerance``, unless rounding kept a code from it in fifty rounds.
    rounds_ : float
        Products of all points with all points that it took, on average over the points.

    Notes
    -----
    Trust it as :class:`SparseSubspaceOMP`, and where that falls apart: the ridge term brings in
    more points of a piece, and so its graph hangs together. Points of a dense piece are coded by
    their nearest, so curved pieces are followed too.
    """

    violation_: float
    rounds_: float

    def __init__(
        self,
        n_pieces: int = 8,
        *,
        l1: float = 0.9,
        alpha: float = 20.0,
        tolerance: float = 1e-3,
        start: int = 64,
        width: int = 64,
        join: float = 0.01,
        rank: int | None = None,
        reduce: int | None = None,
        random_state: int = 0,
        memory: int | float | str | None = None,
    ) -> None:
        super().__init__(
            n_pieces, join=join, rank=rank, reduce=reduce, random_state=random_state, memory=memory
        )
        self.l1 = l1
        self.alpha = alpha
        self.tolerance = tolerance
        self.start = start
        self.width = width

    def _codes(self, x: Tensor, job: Job) -> sp.csr_array:
        if not (0 < self.l1 <= 0.999 and 1 < self.alpha <= 1000):
            raise InputError(
                f"l1={self.l1}, alpha={self.alpha}: l1 above 0 and at most 0.999, alpha above 1 "
                "and at most 1000"
            )
        if not (self.tolerance >= 1e-4 and self.start >= 1 and self.width >= 1):
            raise InputError(
                f"tolerance={self.tolerance}, start={self.start}, width={self.width}: give at "
                "least 1e-4, which is what float32 resolves, and at least one point"
            )
        n, d = x.shape
        size = 2 * (self.start + self.width)
        small = TOGETHER * (16 * size * d + 48 * size * size)
        plan(
            "ElasticNetSubspace", rows=1, bytes_per_row=workers(x.device) * small,
            fixed=working_memory(d, self.width, x.device) + 16 * n * size, memory=self.memory,
        )  # fmt: skip
        parts = coded(
            lambda rows: elastic_net_codes(
                x, rows, l1=self.l1, alpha=self.alpha, tolerance=self.tolerance,
                start=self.start, width=self.width,
            ),
            x, job, what="codes",
        )  # fmt: skip
        self.violation_ = float(torch.cat([part["violation"] for part in parts]).max())
        self.rounds_ = float(torch.cat([part["rounds"] for part in parts]).double().mean())
        return as_graph(parts, n)


def elastic_net_codes(
    x: Tensor,
    rows: Tensor,
    *,
    l1: float,
    alpha: float,
    tolerance: float,
    start: int = 64,
    width: int = 64,
) -> dict[str, Tensor]:
    """Solve the elastic net of some points over all the others, and prove it.

    Parameters
    ----------
    x : Tensor
        (n, d) different unit rows.
    rows : Tensor
        (b,) numbers of the points to code.
    l1, alpha, tolerance, start, width
        See :class:`ElasticNetSubspace`.

    Returns
    -------
    dict
        ``index`` and ``values`` (b, s), the codes; ``violation`` (b,) of the optimality
        conditions, over all points; ``rounds`` (b,) products with all points.
    """
    n, b = len(x), len(rows)
    cosine, active = strongest(x[rows], x, min(start, n - 1), rows[:, None])
    gamma = alpha * l1 / cosine[:, :1].clamp_min(torch.finfo(x.dtype).eps)  # (b, 1)
    live, codes = torch.arange(b, device=x.device), torch.zeros_like(cosine)
    rounds = torch.ones(b, dtype=torch.int64, device=x.device)
    done = [(live[:0], active[:0], x.new_zeros(0, 1), x.new_zeros(0))]
    while len(live):
        codes, oracle, inside = _solve(x, x[rows[live]], active, codes, gamma[live], l1)
        new = min(width, n - 1 - active.shape[1])
        if new:
            rounds[live] += 1
            own = torch.cat([rows[live, None], active], 1)
            reach, others = strongest(oracle, x, new, own)
        else:
            reach, others = x.new_zeros(len(live), 1), active[:, :1]
        violation = torch.maximum(reach[:, 0] / l1 - 1, inside).clamp_min(0)
        proved = (violation <= tolerance) | (rounds[live] >= ROUNDS)
        done.append((live[proved], active[proved], codes[proved], violation[proved]))
        live, reach, others = live[~proved], reach[~proved], others[~proved]
        codes, active = codes[~proved], active[~proved]
        # those in use stay, those in the oracle region come in; a set has room for the largest
        score = torch.cat([(codes != 0).to(reach), reach - l1], 1)
        room = max(int((score > 0).sum(1).max()), active.shape[1]) if len(live) else 1
        kept = score.topk(room, 1).indices
        active = torch.cat([active, others], 1).gather(1, kept)
        codes = torch.cat([codes, torch.zeros_like(reach)], 1).gather(1, kept)
    size = max(codes.shape[1] for _, _, codes, _ in done)
    index, values = rows[:, None].repeat(1, size), x.new_zeros(b, size)
    violations = x.new_zeros(b)
    for at, points, codes, violation in done:
        index[at, : points.shape[1]], values[at, : codes.shape[1]] = points, codes
        violations[at] = violation
    return {"index": index, "values": values, "violation": violations, "rounds": rounds}


def _solve(
    x: Tensor, target: Tensor, active: Tensor, guess: Tensor, gamma: Tensor, l1: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Codes (b, m) over the active points, oracle points (b, d), largest violation among them."""
    parts, given = [], (target, active, guess, gamma)
    for t, a, w, g in zip(*(part.split(TOGETHER) for part in given), strict=True):
        atoms = x[a]  # (b, m, d)
        # rounding times gamma has to stay well below the ridge that makes this positive definite
        rounding = float(g.max()) * a.shape[1] * torch.finfo(x.dtype).eps
        fine = atoms if rounding < (1 - l1) / 4 else atoms.double()
        gram = torch.bmm(fine, fine.mT)
        cosine = torch.bmm(fine, t.to(fine)[:, :, None])[:, :, 0]
        codes, inside = restricted(gram.double(), cosine.double(), w.double(), g.double(), l1)
        codes = codes.to(x.dtype)
        parts.append((codes, g * (t - torch.bmm(codes[:, None], atoms)[:, 0]), inside.to(x.dtype)))
    codes, oracle, inside = (torch.cat(part) for part in zip(*parts, strict=True))
    return codes, oracle, inside


def restricted(
    gram: Tensor, cosine: Tensor, guess: Tensor, gamma: Tensor, l1: float
) -> tuple[Tensor, Tensor]:
    """Many small elastic nets, by a semi-smooth Newton method on the dual with a line search.

    Parameters
    ----------
    gram : Tensor
        (b, m, m) float64 products of the active points of each problem.
    cosine : Tensor
        (b, m) their products with the point to be coded.
    guess : Tensor
        (b, m) codes to start from.
    gamma : Tensor
        (b, 1) weight of the data.
    l1 : float
        Share of the l1 penalty.

    Returns
    -------
    codes, violation : Tensor
        (b, m), and (b,) the largest violation of the optimality conditions, relative to ``l1``.

    Notes
    -----
    With u = <x_i, delta> the dual is f = gamma/2 w^T G w + |soft(u, l1)|^2 / (2 (1 - l1)) where
    u = gamma (cosine - G w). A step solves for the codes with the signs that u has now, which is
    the solution if u keeps its signs; otherwise it goes as far in that direction as f falls.
    """
    w, codes, ridge = guess.clone(), guess.clone(), 1 - l1
    gram_w = torch.bmm(gram, w[:, :, None])[:, :, 0]
    steps = 0.5 ** torch.arange(HALVINGS).to(cosine)
    live = torch.arange(len(gram), device=gram.device)
    for _ in range(NEWTON):
        g, c, weight = gram[live], cosine[live], gamma[live]
        u = weight * (c - gram_w[live])
        sign = u.sign() * (u.abs() > l1)
        new = _on_support(g, c, weight, sign, l1)
        gram_new = torch.bmm(g, new[:, :, None])[:, :, 0]
        u_new = weight * (c - gram_new)
        settled = (u_new.sign() * (u_new.abs() > l1) == sign).all(1)
        codes[live] = new
        # f along w + t (new - w), a quadratic and the part of soft(u)
        old, step = w[live], new - w[live]
        gram_step = gram_new - gram_w[live]
        t = steps[:, None]
        quadratic = (
            (old * gram_w[live]).sum(1)
            + 2 * t * (old * gram_step).sum(1)
            + t * t * (step * gram_step).sum(1)
        )
        soft = ((u + steps[:, None, None] * (u_new - u)).abs() - l1).clamp_min(0)
        height = weight[:, 0] / 2 * quadratic + soft.square().sum(2) / (2 * ridge)  # (steps, b)
        best = steps[height.argmin(0)][:, None]
        w[live], gram_w[live] = old + best * step, gram_w[live] + best * gram_step
        live = live[~settled]
        if not len(live):
            break
    u = gamma * (cosine - torch.bmm(gram, codes[:, :, None])[:, :, 0])
    right = u.sign() * (u.abs() - l1).clamp_min(0)
    return codes, (right - ridge * codes).abs().amax(1) / l1


def _on_support(g: Tensor, c: Tensor, gamma: Tensor, sign: Tensor, l1: float) -> Tensor:
    """Solve (gamma G + (1 - l1)) w = gamma c - l1 sign on the rows where sign is not zero."""
    size = max(int((sign != 0).sum(1).max()), 1)
    at = (sign == 0).int().argsort(dim=1, stable=True)[:, :size]  # those on the support come first
    on = sign.gather(1, at).abs()
    sub = g.gather(1, at[:, :, None].expand(-1, -1, g.shape[2]))
    sub = sub.gather(2, at[:, None].expand(-1, size, -1))
    sub = gamma[:, :, None] * sub * on[:, :, None] * on[:, None]
    sub = sub + torch.diag_embed(1 - l1 * on)  # the ridge on the support, one off it
    right = on * (gamma * c - l1 * sign).gather(1, at)
    factor = torch.linalg.cholesky(sub)
    solved = torch.cholesky_solve(right[:, :, None], factor)[:, :, 0]
    return torch.zeros_like(c).scatter(1, at, solved)
