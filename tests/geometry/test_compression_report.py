"""Corpora of planted dimension and bits; the control; Spearman against scipy; a tiny model."""

import json

import pytest
import torch

from lowdim import datasets
from lowdim.core.estimate import to_json
from lowdim.errors import InputError
from lowdim.geometry import compression_report
from lowdim.geometry.compression_report import relate, spearman
from lowdim.io.activations import perplexity
from lowdim.io.models import load_model
from tests.conftest import WORDS


def planted(n=150):
    """Six corpora of dimension 1 to 6 in two layers, more bits with more dimensions."""
    clouds = {
        f"corpus {d}": [datasets.cube(n + d, d, 10, seed=s + d) for s in (0, 50)]
        for d in range(1, 7)
    }
    return clouds, [float(d) ** 2 for d in range(1, 7)]


def test_a_planted_relation_is_found_and_the_control_kills_it():
    found = relate(*planted())
    for id in found.dimensions:
        assert found.correlation[id].value == pytest.approx(1)
        assert all(c.value > 0.9 for c in found.by_layer[id])
        assert abs(found.control[id].value if found.control[id] else 0) < 0.95
    spread = found.dimensions["geometry/two-nn"][0]
    assert spread == sorted(spread)
    assert found.n_each == 151
    assert found.value == 1
    json.dumps(to_json(found.to_dict()), allow_nan=False)


def test_the_control_has_one_dimension_for_all():
    clouds, bits = planted(400)
    same = {name: [datasets.cube(400, 3, 10, seed=i)] for i, name in enumerate(clouds)}
    found = relate(same, bits)
    values = found.dimensions["geometry/mle"][0]
    assert max(values) / min(values) < 1.2
    assert found.control["geometry/rank-99"] is None  # three for every corpus


def test_spearman_agrees_with_scipy_and_its_interval_holds_it():
    x = torch.randn(12, generator=torch.Generator().manual_seed(0)).double()
    y = x + 0.8 * torch.randn(12, generator=torch.Generator().manual_seed(1)).double()
    scipy = pytest.importorskip("scipy.stats")
    found = spearman(x, y)
    assert found.value == pytest.approx(float(scipy.spearmanr(x, y).statistic))
    assert -1 <= found.low < found.value < found.high <= 1
    assert spearman(x, y).low == found.low
    perfect = spearman(x, x.exp())
    assert (perfect.value, perfect.low, perfect.high) == pytest.approx((1, 1, 1))
    assert spearman(x, torch.ones(12)) is None


def test_a_model_on_corpora(tiny_folder):
    model = load_model(tiny_folder("LlamaForCausalLM"))
    g = torch.Generator().manual_seed(0)

    def texts(words):
        return [
            " ".join(words[i] for i in torch.randint(len(words), (6,), generator=g).tolist())
            for _ in range(60)
        ]

    corpora = {f"{n} words": texts(WORDS[:n]) for n in (5, 9, 14, 20)}
    found = compression_report(model, corpora)
    assert found.corpora == tuple(corpora)
    assert len(found.dimensions["geometry/two-nn"]) == 3
    expected = perplexity(model, corpora["5 words"]).value
    assert 2 ** found.bits[0] == pytest.approx(expected)


def test_poor_data():
    clouds, bits = planted()
    with pytest.raises(InputError, match="at least 4 corpora"):
        relate(dict(list(clouds.items())[:3]), bits[:3])
    clouds["corpus 1"] = [x[:10] for x in clouds["corpus 1"]]
    with pytest.raises(InputError, match=r"corpus 'corpus 1': .*neighbours need"):
        relate(clouds, bits)
