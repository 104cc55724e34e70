"""Neural codes: linear regions, what classifiers read off them, and Hamming search among them."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import jacrev, vmap

from lowdim.errors import InputError
from lowdim.retrieval import (
    code_recall,
    code_report,
    exact_search,
    hamming_search,
    neural_codes,
    recall_at_k,
)


def net(*widths, seed=0, dtype=torch.float64):
    torch.manual_seed(seed)
    parts = []
    for a, b in pairwise(widths):
        parts += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*parts[:-1]).to(dtype)


def gaussian(*shape, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=g, dtype=torch.float64)


def test_bits_say_which_units_are_on():
    module, x = net(5, 7, 6, 3), gaussian(40, 5)
    with torch.no_grad():
        first = module[:2](x)
        on = torch.cat([first, module[2:4](first)], 1) > 0
    expected = np.packbits(on.numpy(), axis=1, bitorder="little")
    found = neural_codes(module, x)
    assert found.bits == 13
    assert np.array_equal(found.codes, expected)
    for layers in (["1", "3"], ["0", "2"]):  # the activations, or what feeds them
        assert np.array_equal(neural_codes(module, x, layers=layers).codes, expected)
    second = neural_codes(module, x, layers=["3"])
    assert second.bits == 6
    assert np.array_equal(second.codes, np.packbits(on[:, 7:].numpy(), 1, bitorder="little"))


class Functional(nn.Module):
    """One layer used twice, its activations called as functions."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.out = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        hidden = torch.relu(self.layer(x))
        return self.out(nn.functional.leaky_relu(self.layer(hidden)))


def test_functions_and_shared_layers_are_seen_and_blocks_change_nothing():
    module, x = Functional().double(), gaussian(300, 4)
    found = neural_codes(module, x)
    with torch.no_grad():
        first = module.layer(x)
        on = torch.cat([first, module.layer(first.relu())], 1) > 0
    assert np.array_equal(found.codes[:, 0], np.packbits(on.numpy(), 1, bitorder="little")[:, 0])
    assert torch.equal(neural_codes(module, x, memory=20_000).codes, found.codes)


def test_a_code_is_an_affine_map():
    """Rows of one code share one Jacobian and one offset: exact inside a linear region."""
    module = net(3, 10, 10, 4)
    x = gaussian(3000, 3, seed=1)
    found = neural_codes(module, x)
    _, region = found.codes.unique(dim=0, return_inverse=True)
    with torch.no_grad():
        slope = vmap(jacrev(module))(x)  # (n, 4, 3)
        offset = module(x) - torch.einsum("noi,ni->no", slope, x)
    seen = 0
    for code in region.unique():
        rows = (region == code).nonzero()[:, 0]
        seen += len(rows) - 1
        assert (slope[rows] - slope[rows[0]]).abs().max() < 1e-6
        assert (offset[rows] - offset[rows[0]]).abs().max() < 1e-6
    assert seen == found.n - found.distinct > 1000


@pytest.mark.parametrize("width", [1, 4, 16, 50])
def test_regions_of_a_line_are_its_pieces(width):
    module = net(1, width, 1, seed=width)
    grid = torch.linspace(-3, 3, 200_001, dtype=torch.float64)[:, None]
    kinks = -module[0].bias / module[0].weight[:, 0]
    inside = int(((kinks > -3) & (kinks < 3)).sum())
    assert neural_codes(module, grid).distinct == 1 + inside


def test_redundancy_is_the_share_of_repeated_codes():
    module = net(2, 3, 1)
    x = gaussian(500, 2)
    found = neural_codes(module, x)
    assert found.distinct <= 7  # three lines cut a plane into seven pieces
    assert found.value == (500 - found.distinct) / 500
    dead = net(2, 8, 1)
    dead[0].bias.data -= 100
    assert neural_codes(dead, x).distinct == 1
    twice = neural_codes(net(2, 400, 1), torch.cat([x, x[:20]]))
    assert twice.value >= 20 / 520
    assert twice.notes == ("20 rows equal an earlier one, and share its code",)
    assert "codes" not in twice.to_dict()


def test_images_and_both_kinks_of_relu6():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU6(), nn.Flatten(), nn.Linear(32, 3))
    found = neural_codes(module, gaussian(9, 1, 6, 6))
    assert found.bits == 2 * 2 * 4 * 4
    assert found.codes.shape == (9, 8)
    assert module.training
    assert next(module.parameters()).dtype == torch.float32


def digits():
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    x, y = torch.from_numpy(x[order] / 16), torch.from_numpy(y[order])
    return x[:900] - x[:900].mean(0), y[:900], x[900:] - x[:900].mean(0), y[900:]


def trained(widths, steps, x, y):
    module = net(64, *widths, 10)
    step = torch.optim.Adam(module.parameters(), lr=0.01)
    for _ in range(steps):
        step.zero_grad()
        nn.functional.cross_entropy(module(x), y).backward()
        step.step()
    return module


def test_digits_are_told_apart_better_by_wider_networks():
    x, y, x_test, y_test = digits()
    reports = []
    for width in (4, 16, 128):
        module = trained([width], 100, x, y)
        codes, test = neural_codes(module, x), neural_codes(module, x_test)
        reports.append(code_report(codes, y, test, y_test))
    few, some, many = reports
    assert few.redundancy > 0.95 > some.redundancy > 0.2 > 0.02 > many.redundancy
    assert few.redundancy_test > some.redundancy_test > many.redundancy_test
    for name in ("k_nn", "logistic", "k_means", "k_means_test"):
        assert getattr(few, name) < getattr(some, name) < getattr(many, name)
    assert min(many.k_nn, many.logistic) > 0.85
    assert many.base < 0.15
    assert "k-NN" in str(many)
    assert many.to_dict()["classes"] == 10


@pytest.mark.parametrize(
    ("widths", "layer", "by_training"), [([32], "1", False), ([64] * 3, "5", True)]
)
def test_training_brings_classes_to_the_codes_of_a_deep_layer_and_not_of_a_first(
    widths, layer, by_training
):
    x, y, x_test, y_test = digits()
    at_start, after = (
        code_report(
            neural_codes(m, x, layers=[layer]), y, neural_codes(m, x_test, layers=[layer]), y_test
        )
        for m in (trained(widths, 0, x, y), trained(widths, 100, x, y))
    )
    if by_training:
        assert after.k_nn > at_start.k_nn + 0.2
        assert after.k_means_test > at_start.k_means_test + 0.2
    else:
        assert after.redundancy > at_start.redundancy
        assert abs(after.k_nn - at_start.k_nn) < 0.1


def test_report_against_scikit_learn():
    from sklearn.neighbors import KNeighborsClassifier

    x, y, x_test, y_test = digits()
    module = net(64, 200, 10)
    codes, test = neural_codes(module, x), neural_codes(module, x_test)
    found = code_report(codes, y, test, y_test, k=1)
    bits = [np.unpackbits(c.codes.numpy(), 1, bitorder="little")[:, :200] for c in (codes, test)]
    theirs = KNeighborsClassifier(1, metric="hamming").fit(bits[0], y).score(bits[1], y_test)
    assert found.k_nn == pytest.approx(theirs, abs=0.01)  # but for equal distances
    names = np.array(list("abcdefghij"))
    named = code_report(codes, names[y], test, names[y_test], k=1)
    assert named == found
    assert code_report(codes, y, codes, y, k=1).k_nn == 1.0


def test_recall_of_hamming_search_grows_with_the_bits_and_is_that_of_its_parts():
    x, q = gaussian(600, 10), gaussian(60, 10, seed=1)
    recalls = []
    for width in (16, 64, 512):
        module = net(10, width, 2)
        recall = code_recall(module, x, q, layers=["0"], metric="cosine")
        with torch.no_grad():
            truth = exact_search(module[0](x), module[0](q), 10)[0]
        codes, asked = (neural_codes(module, rows, layers=["0"]).codes for rows in (x, q))
        by_parts = recall_at_k(hamming_search(codes, asked, 10)[0], truth)
        assert torch.equal(recall.per_point, by_parts)
        assert recall.low <= recall.value <= recall.high
        recalls.append(recall.value)
    assert recalls[0] + 0.1 < recalls[1] < recalls[2] - 0.1


def test_bad_input():
    module, x = net(4, 9, 2), gaussian(20, 4)
    codes, y = neural_codes(module, x), torch.arange(20) % 2
    other = neural_codes(net(4, 5, 2), x)
    for call, message in (
        (lambda: neural_codes(nn.Linear(4, 2).double(), x), "no ReLU-like activation"),
        (lambda: neural_codes(module, x, layers=["relu"]), "no layer 'relu'"),
        (lambda: neural_codes(module, x * torch.nan), "nan at row 0"),
        (lambda: code_recall(module, x, x, k=21), "k=21"),
        (lambda: code_report(codes, y, other, y), "codes of 9 and 5 bits"),
        (lambda: code_report(codes, y[:-1], codes, y), "y has shape"),
        (lambda: code_report(codes, y, codes, y[:-1]), "y_test has shape"),
        (lambda: code_report(codes, 0 * y, codes, 0 * y), "1 classes"),
        (lambda: code_report(codes, y, codes, y, k=21), "k=21"),
    ):
        with pytest.raises(InputError, match=message):
            call()
