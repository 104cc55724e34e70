import math

import pytest
import torch

from lowdim.core.random import normal
from lowdim.core.strata import Strata
from lowdim.core.subspace import Subspace
from lowdim.errors import InputError


def three_pieces() -> tuple[Subspace, ...]:
    """The x-y plane, the z axis shifted to x = 9, and the point (0, 0, 20)."""
    e = torch.eye(3, dtype=torch.float64)
    return (
        Subspace(e[:, :2], torch.zeros(3).double()),
        Subspace(e[:, 2:], 9 * e[0]),
        Subspace(e[:, :0], 20 * e[2]),
    )


WEIGHTS = torch.tensor([[1.0, 0, 0], [0.2, 0.5, 0.3], [1 / 3, 1 / 3, 1 / 3], [0, 0.5, 0.5]])


def test_read_outs():
    s = Strata(three_pieces(), WEIGHTS)
    assert s.labels.tolist()[:2] == [0, 1]
    assert s.dims == (2, 1, 0)
    assert s.sizes.tolist() == pytest.approx(WEIGHTS.sum(0).tolist())
    assert float(s.sizes.sum()) == pytest.approx(4)
    entropy = s.gate_entropy()
    assert float(entropy[0]) == 0
    assert float(entropy[2]) == pytest.approx(math.log(3))
    assert float(entropy[3]) == pytest.approx(math.log(2))
    assert repr(s) == "Strata(4 points on 3 pieces of dimension 2, 1, 0)"


def test_angles_and_distances_between_pieces():
    s = Strata(three_pieces(), WEIGHTS)
    angles, distances = s.angles(), s.distances()
    assert float(angles[0, 1]) == pytest.approx(math.pi / 2)
    for matrix in (angles, distances, s.distances(kind="grassmann")):
        assert torch.equal(matrix, matrix.T)
        assert float(matrix.diagonal().abs().max()) == 0
    assert float(distances[0, 1]) == pytest.approx(math.sqrt(2))
    assert float(distances[0, 2]) == pytest.approx(math.sqrt(2))
    assert float(distances[1, 2]) == pytest.approx(1)


def test_assign_and_reconstruct():
    s = Strata(three_pieces(), WEIGHTS)
    x = torch.tensor([[1.0, 2, 0.5], [9.1, 0, 7], [0, 1, 19]])
    assert s.assign(x).tolist() == [0, 1, 2]
    expected = torch.tensor([[1.0, 2, 0], [9, 0, 7], [0, 0, 20]]).double()
    torch.testing.assert_close(s.reconstruct(x), expected)
    many = normal((50, 3), 0) * 10
    nearest = torch.stack([p.residual(many) for p in s.pieces]).min(0).values
    moved = ((many - s.reconstruct(many)) ** 2).sum(1)
    torch.testing.assert_close(moved, nearest)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (torch.ones(2, 2) / 2, "one column a piece"),
        (torch.ones(3, dtype=torch.int64), "one column a piece"),
        (torch.tensor([[1.0, 0, 0], [0.5, 0, 0]]), "row 1"),
        (torch.tensor([[1.0, 0.5, -0.5]]), "row 0"),
        (torch.tensor([[math.nan, 0.5, 0.5]]), "row 0"),
    ],
)
def test_bad_weights(weights, message):
    with pytest.raises(InputError, match=message):
        Strata(three_pieces(), weights)


def test_bad_pieces():
    with pytest.raises(InputError, match="at least one piece"):
        Strata((), torch.ones(2, 0))
    flat = Subspace(torch.eye(2), torch.zeros(2))
    with pytest.raises(InputError, match="same dimension"):
        Strata((*three_pieces(), flat), torch.ones(2, 4) / 4)


def test_squared_distances_to_every_piece():
    s = Strata(three_pieces(), WEIGHTS)
    x = torch.tensor([[1.0, 2, 0.5], [9.1, 0, 7], [0, 1, 19]], dtype=torch.float64)
    expected = torch.tensor([[0.25, 68, 385.25], [49, 0.01, 251.81], [361, 82, 2]]).double()
    torch.testing.assert_close(s.squared_distances(x), expected, rtol=1e-6, atol=0)
    assert torch.equal(s.assign(x), s.squared_distances(x).argmin(1))


def test_of_equally_near_pieces_the_first_is_taken():
    plane = Subspace(torch.eye(3)[:, :2], torch.zeros(3))
    s = Strata((plane, plane, plane), torch.ones(1, 3) / 3)
    assert s.assign(normal((100, 3), 1)).tolist() == [0] * 100


def test_labels_of_any_integer_type():
    x = normal((30, 4), 2)
    labels = torch.arange(30) % 3
    for dtype in (torch.int32, torch.uint8, torch.int64):
        found = Strata.of_labels(x, labels.to(dtype), rank=1)
        assert torch.equal(found.labels, labels)
