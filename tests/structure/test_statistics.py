import json
import math

import numpy as np
import pytest
import torch
from sklearn import metrics

from lowdim.core.strata import Strata
from lowdim.datasets import strata
from lowdim.errors import InputError
from lowdim.structure.moe import StratifiedMoE
from lowdim.structure.statistics import strata_statistics


@pytest.fixture(scope="module")
def measured():
    truth = strata(800, (1, 2, 4), 12, seed=1, noise=0.0, separation=3.0)
    model = StratifiedMoE(3, epochs=2).fit(truth.points)
    names = np.array(["a", "b", "c"])[truth.labels.numpy()]
    return truth, model, strata_statistics(truth.points, model, names)


def test_assignments_agree_with_scikit_learn(measured):
    truth, model, found = measured
    expected = metrics.cluster.contingency_matrix(model.labels_, truth.labels)
    assert found.contingency.tolist() == expected.tolist()
    assert found.labels == ["a", "b", "c"]
    assert found.nmi == pytest.approx(
        metrics.normalized_mutual_info_score(truth.labels, model.labels_)
    )
    assert found.sizes.tolist() == np.bincount(model.labels_).tolist()
    x, pieces = truth.points.numpy(), model.labels_.numpy()
    assert found.separation["silhouette"] == pytest.approx(metrics.silhouette_score(x, pieces))
    assert found.separation["davies_bouldin"] == pytest.approx(
        metrics.davies_bouldin_score(x, pieces)
    )


def test_gates_are_near_certain_on_pieces_that_are_apart(measured):
    _, model, found = measured
    assert 0 <= found.relative_entropy < 0.02
    assert found.relative_entropy == pytest.approx(found.entropy / math.log(3))
    assert max(found.entropy_by_label) < 0.05
    assert torch.allclose(found.gates_by_piece, torch.eye(3).double(), atol=0.02)
    assert float(found.utilisation.sum()) == pytest.approx(1)
    in_use = [round(s) for s in found.weighted_sparsity]
    assert in_use == list(model.sparsity_)


def test_dimensions_by_every_rule(measured):
    truth, model, found = measured
    order = np.argsort(found.dimensions["bic"])
    for name, slack in (("bic", 0), ("two-nn", 0.8), ("mle", 0.8), ("gride", 0.8)):
        values = np.array(found.dimensions[name], dtype=float)[order]
        assert np.abs(values - [1, 2, 4]).max() <= slack, name
    for k, own in enumerate(found.dimensions["pca75"]):
        points = truth.points[model.labels_ == k]
        shares = torch.linalg.svdvals(points - points.mean(0)).square()
        held = shares.cumsum(0) / shares.sum()
        assert own == int((held < 0.75).sum()) + 1


def test_distances_between_dictionaries(measured):
    _, model, found = measured
    a, b = model.dictionaries_[0], model.dictionaries_[1]
    assert float(found.dictionary_distances[0, 1]) == pytest.approx(float((a - b).norm()))
    assert torch.allclose(found.matched_distances.diagonal(), torch.zeros(3).double(), atol=1e-5)
    assert bool((found.matched_distances <= found.dictionary_distances + 1e-9).all())
    assert torch.allclose(found.key_norms, model.keys_.norm(dim=1))


def test_order_and_sign_of_atoms_mean_nothing(measured):
    truth, model, _ = measured
    twin = StratifiedMoE(3)
    twin.__dict__ |= model.__dict__
    flipped = -model.dictionaries_[0].flip(1)
    twin.dictionaries_ = torch.stack([model.dictionaries_[0], flipped, model.dictionaries_[2]])
    found = strata_statistics(truth.points, twin)
    assert float(found.matched_distances[0, 1]) < 1e-5
    assert float(found.dictionary_distances[0, 1]) > 1
    angles = found.span_angles[0, 1]
    assert float(angles[angles.isfinite()].max()) < 1e-6


def test_strata_alone_have_the_figures_that_apply(measured):
    truth, model, full = measured
    found = strata_statistics(truth.points, model.strata_)
    assert found.dictionary_distances is None
    assert found.labels is None
    assert found.entropy == pytest.approx(full.entropy, abs=1e-6)
    text = json.dumps(found.to_dict(), allow_nan=False)
    assert "entropies" not in text
    json.dumps(full.to_dict(), allow_nan=False)


def test_small_and_empty_pieces_say_what_they_lack():
    x = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0] * 11 + [2])
    found = strata_statistics(x, Strata.of_labels(x, labels, rank=1))
    assert found.dimensions["pca75"][1] is None
    assert found.dimensions["two-nn"][2] is None
    assert any("piece 1" in note for note in found.notes)
    json.dumps(found.to_dict(), allow_nan=False)
    one = strata_statistics(x, Strata.of_labels(x, torch.zeros(12).long(), rank=1))
    assert one.separation["silhouette"] is None
    assert one.relative_entropy == 0
    with pytest.raises(InputError, match="12 points"):
        strata_statistics(x[:5], Strata.of_labels(x, labels, rank=1))
    with pytest.raises(InputError, match="one a point"):
        strata_statistics(x, Strata.of_labels(x, labels, rank=1), [1, 2])
