"""What a training did to each tensor: how far it moved it, in how many directions.

Cost: an update with factors of rank r costs r^2 (in + out); any other is formed, and its spectrum
costs min(in, out)^2 max(in, out).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lowdim.adapt.adapter import Adapter, as_matrix
from lowdim.adapt.record import Attached
from lowdim.adapt.targets import Target
from lowdim.core.spectrum import Spectrum
from lowdim.spectra.ranks import effective_rank


@torch.no_grad()
def update_rows(record: Attached) -> list[dict[str, Any]]:
    """How far and in how many directions did each adapter move its tensor?

    Returns
    -------
    list of dict
        One a target, in the order of the model: ``name``, ``method``, ``options``, ``shape``,
        ``trainable``, Frobenius ``norm`` of the update, ``relative`` to that of the weight, and
        the ``effective_rank`` of the update; None where an update is no fixed tensor.
    """
    rows = []
    for group in record.groups:
        for target, adapter in group.distinct():
            row: dict[str, Any] = {"name": target.name, "method": group.method.id}
            row |= {"options": group.method.options(), "shape": list(target.shape)}
            row |= {"trainable": adapter.n_trainable, "norm": None, "relative": None}
            row |= {"effective_rank": None}
            if adapter.mergeable:
                spectrum = update_spectrum(target, adapter)
                row["norm"] = spectrum.total**0.5
                weight = float(torch.linalg.vector_norm(target.weight, dtype=torch.float64))
                row["relative"] = row["norm"] / weight if weight else None
                moved = spectrum.total > 0
                row["effective_rank"] = effective_rank(spectrum).value if moved else 0.0
            rows.append(row)
    return rows


def update_spectrum(target: Target, adapter: Adapter) -> Spectrum:
    """Squared singular values of the update as a matrix, without forming it where it has factors.

    With B = Q_B R_B and A^T = Q_A R_A the values of B A are those of the small R_B R_A^T.
    """
    found = adapter.factors()
    if found is None:
        update = adapter.update(target.weight)
        return Spectrum.of_matrix(as_matrix(update) if update.ndim > 1 else update[None])
    b, a = found
    values = torch.linalg.svdvals(_triangle(b) @ _triangle(a.T).T).square()
    return Spectrum(values, float(values.sum()), (len(b), a.shape[1]))


def _triangle(x: Tensor) -> Tensor:
    """R of a QR decomposition, in float64."""
    return torch.linalg.qr(x.double(), mode="r").R
