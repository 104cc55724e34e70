"""The magnitude vector of an image: each pixel a point, its weight an edge detector.

A pixel is the point (row, column, contrast * intensities); large weights mark where the image, as
a surface in that space, has its boundary: at steps of intensity and at the frame (Adamer, De
Brouwer, O'Bray, Rieck 2023). The inverse of the similarities is nearly local, so the weights are
solved for in overlapping windows, all at once, of which the middles are kept. Cost: a system of
(patch + 2 margin)^2 unknowns a window; the residual on random pixels says what the cut costs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lowdim.core.memory import plan
from lowdim.core.points import as_points
from lowdim.core.random import choice
from lowdim.errors import InputError
from lowdim.geometry.magnitude import Magnitude, factor
from lowdim.registry import image, method

METRICS = {"l1": 1.0, "l2": 2.0}

CHECKED = 200
"""Pixels on which the residual is measured."""


@method(
    "geometry/magnitude-image",
    needs=image(),
    paper="Adamer et al. 2023",
    cost="O(pixels (patch + 2 margin)^4)",
    oracle="the exact weighting of a small image",
    invariant=(),
    deep=True,
)
def magnitude_image(
    image: Any,
    *,
    contrast: float = 10.0,
    t: float = 1.0,
    metric: str = "l1",
    patch: int = 12,
    margin: int = 6,
    memory: int | float | str | None = None,
    seed: int = 0,
) -> Magnitude:
    """Where are the edges of this image, as the boundary of a cloud of pixels?

    Parameters
    ----------
    image : array-like
        (height, width) or (height, width, channels) finite numbers.
    contrast : float
        Pixels that a difference of one in intensity is worth.
    t : float
        Similarities are exp(-t * distance), distances in pixels.
    metric : {"l1", "l2"}
        Under l1 the plain image is a product, and its magnitude that of its sides multiplied.
    patch, margin : int
        Side of the middle that a window contributes, and what it sees around it.
    memory : int, float or str, optional
        Budget for the windows solved at once.
    seed : int
        Draws the pixels on which the residual is measured.

    Returns
    -------
    Magnitude
        ``per_point`` is (height, width). ``residual`` is measured on 200 pixels against the whole
        image; ``error`` is extrapolated from them; ``dimension`` is NaN.

    Notes
    -----
    Trust it where ``residual`` is small: at t = 1 a margin of 6 leaves about 1e-2 or less, smaller
    t needs a wider margin. Weights follow the noise as well: smooth a noisy image first.
    """
    pixels = image if isinstance(image, Tensor) else torch.as_tensor(image)
    if pixels.ndim not in (2, 3) or not pixels.numel() or metric not in METRICS:
        raise InputError(
            f"the image has shape {tuple(pixels.shape)} and metric={metric!r}: give (height, "
            "width) or (height, width, channels) of at least one pixel, and l1 or l2"
        )
    if not (contrast >= 0 and t > 0 and patch >= 1 and margin >= 0):
        raise InputError("contrast and margin must be at least 0, patch at least 1, t above 0")
    height, width = pixels.shape[:2]
    values = as_points(pixels.reshape(height * width, -1), name="the list of pixels").double()
    row, column = torch.meshgrid(
        torch.arange(height, device=values.device),
        torch.arange(width, device=values.device),
        indexing="ij",
    )
    place = torch.stack([row.reshape(-1), column.reshape(-1)], 1).double()
    x = torch.cat([place, contrast * values], 1)  # (pixels, 2 + channels)
    power, weights = METRICS[metric], x.new_zeros(len(x))
    largest = min((patch + 2 * margin) ** 2, len(x))
    plan("magnitude_image", rows=1, bytes_per_row=24 * largest**2 + 64 * len(x), memory=memory)
    for top in range(0, height, patch):
        for left in range(0, width, patch):
            rows = torch.arange(max(0, top - margin), min(height, top + patch + margin))
            columns = torch.arange(max(0, left - margin), min(width, left + patch + margin))
            window = (rows[:, None] * width + columns).reshape(-1).to(x.device)
            z = torch.cdist(x[window], x[window], p=power).mul_(-t).exp_()
            solved = torch.cholesky_solve(x.new_ones(len(window), 1), factor(z))[:, 0]
            at = place[window]
            middle = (at >= at.new_tensor([top, left])) & (
                at < at.new_tensor([top + patch, left + patch])
            )
            middle = middle.all(1)
            weights[window[middle]] = solved[middle]
    some = choice(len(x), min(len(x), CHECKED), seed, device=x.device)
    gap = 1 - torch.cdist(x[some], x, p=power).mul_(-t).exp_() @ weights
    return Magnitude(
        value=float(weights.sum()), n=len(x), per_point=weights.reshape(height, width),
        exact=bool(largest == len(x) and patch >= max(height, width)), seed=seed, rate=t,
        dimension=float("nan"), residual=float(gap.abs().max()),
        error=float((gap.square().mean() * len(x)).sqrt() * weights.norm()),
    )  # fmt: skip
