"""`scan` as a library: models, weights and points, samples, resuming, and the default input."""

import json
import random

import numpy as np
import pytest
import torch

import lowdim
from lowdim.errors import InputError
from lowdim.report import scan as scan_module
from tests.conftest import WORDS


def sentences(n, seed=0):
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.randint(3, 12))) for _ in range(n)]


@pytest.fixture(scope="module", params=["BertModel", "LlamaForCausalLM"])
def model_scan(request, tiny_folder, tmp_path_factory):
    folder, texts = tiny_folder(request.param), sentences(120)
    out = tmp_path_factory.mktemp("out")
    return lowdim.scan(folder, text=texts, labels=["a", "b"] * 60, out=out)


def test_a_model_has_every_section(model_scan):
    assert model_scan.complete
    assert model_scan.source["kind"] == "model"
    assert len(model_scan.layers) == 3
    cka = np.array(model_scan.cka)
    assert cka.shape == (3, 3)
    assert np.allclose(np.diag(cka), 1)
    assert np.allclose(cka, cka.T)
    assert len(model_scan.weights) >= 12
    assert {"geometry/two-nn", "geometry/mle", "diversity/vendi"} <= set(
        model_scan.embedding["estimates"]
    )
    assert {"spectra/tail-exponent", "spectra/marchenko-pastur"} <= set(
        model_scan.weights[3]["estimates"]
    )
    assert model_scan.embedding["size_recall"]["rows"]
    assert len(model_scan.embedding["labels"]["rows"]) == 2
    assert set(model_scan.methods) >= set(model_scan.layers[0]["estimates"])


def test_report_is_strict_json_and_reads_back(model_scan, tmp_path):
    page = model_scan.save(tmp_path)
    assert page.read_text().startswith("<!doctype html>")
    json.loads((tmp_path / "scan.json").read_text(), parse_constant=pytest.fail)
    assert lowdim.load_scan(tmp_path).to_dict() == model_scan.to_dict()


def test_it_prints_itself(model_scan):
    lines = repr(model_scan).splitlines()
    assert len(lines) <= 50
    assert max(map(len, lines)) <= 80
    assert "<" in model_scan._repr_html_()


def test_same_numbers_whatever_the_order_of_texts(tiny_folder):
    texts = sentences(120)
    order = np.random.default_rng(0).permutation(120)
    one = lowdim.scan(tiny_folder("BertModel"), text=texts)
    two = lowdim.scan(tiny_folder("BertModel"), text=[texts[i] for i in order])
    for a, b in zip(one.layers, two.layers, strict=True):
        for id, estimate in a["estimates"].items():
            assert b["estimates"][id]["value"] == pytest.approx(estimate["value"], rel=2e-3), id


@pytest.mark.parametrize("pooling", ["last", "tokens"])
def test_other_poolings(tiny_folder, pooling):
    report = lowdim.scan(
        tiny_folder("BertModel"), text=sentences(60), pooling=pooling, max_points=200
    )
    assert report.layers[0]["n"] == (60 if pooling == "last" else 200)


def test_points_from_an_array_and_a_sample_of_many():
    x = torch.randn(500, 6, generator=torch.Generator().manual_seed(0))
    assert lowdim.scan(x).embedding["n"] == 500
    sampled = lowdim.scan(x, max_points=100, labels=["a", "b"] * 250)
    assert sampled.embedding["n"] == 100
    assert "uniform sample of 100 of 500" in " ".join(sampled.notes)


def test_few_points_become_notes_and_not_errors():
    report = lowdim.scan(np.eye(6))
    assert report.complete
    assert "geometry/participation-ratio" in report.embedding["estimates"]
    assert any("20 neighbours need" in note for note in report.notes)
    assert report.advice == []


def test_no_advice_where_nothing_helps():
    x = torch.randn(400, 3, generator=torch.Generator().manual_seed(0))
    assert [a for a in lowdim.scan(x).advice if a["kind"] != "index"] == []


def test_planted_duplicates_are_found_and_advised():
    x = torch.randn(300, 8, generator=torch.Generator().manual_seed(0))
    x = torch.cat([x, x[:20], x[20:30] + 1e-6])
    report = lowdim.scan(x)
    assert report.embedding["duplicates"] == 20
    pairs = {(p["a"], p["b"]) for p in report.embedding["near_duplicates"]}
    assert {(i, 300 + i) for i in range(20)} <= pairs
    assert {(20 + i, 320 + i) for i in range(10)} <= pairs
    assert "duplicates" in " ".join(a["title"] for a in report.advice)


def test_a_stopped_scan_keeps_its_pieces_and_resumes(tiny_folder, tmp_path, monkeypatch):
    texts, folder = sentences(80), tiny_folder("BertModel")

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(scan_module, "cka_section", stop)
        with pytest.raises(KeyboardInterrupt):
            lowdim.scan(folder, text=texts, out=tmp_path)
    partial = lowdim.load_scan(tmp_path)
    assert not partial.complete
    assert partial.weights
    assert partial.layers
    assert partial.embedding is None

    def forbidden(*_, **__):
        pytest.fail("the activations were finished before the stop")

    with monkeypatch.context() as patch:
        patch.setattr(scan_module, "hidden_states", forbidden)
        resumed = lowdim.scan(folder, text=texts, out=tmp_path, resume=True)
    whole = lowdim.scan(folder, text=texts)
    assert resumed.embedding["estimates"]["geometry/two-nn"]["value"] == pytest.approx(
        whole.embedding["estimates"]["geometry/two-nn"]["value"]
    )
    changed = lowdim.scan(folder, text=texts[:-1], out=tmp_path, resume=True)
    assert changed.embedding["n"] == 79


def test_mistakes_are_found_before_the_work(tmp_path):
    with pytest.raises(InputError, match="3 labels for 2 rows"):
        lowdim.scan(np.eye(2), labels=["a", "b", "c"])
    with pytest.raises(InputError, match="texts for 2 points"):
        lowdim.scan(np.eye(2), text=["one"])
    (tmp_path / "scan.json").write_text('{"schema": "lowdim.scan/99"}')
    with pytest.raises(InputError, match=r"lowdim\.scan/99"):
        lowdim.load_scan(tmp_path)


@pytest.mark.slow
def test_default_input(minilm_folder):
    report = lowdim.scan()
    assert report.source["n"] == 2000
    assert report.source["n_labels"] == 8
    assert 10 < report.embedding["estimates"]["geometry/two-nn"]["value"] < 20
    assert len(report.weights) == 40
    assert 1 <= len(report.advice) <= 7


@pytest.mark.slow
def test_causal_models(stories15m_folder, smollm2_folder):
    texts = lowdim.datasets.glosses().texts[:300]
    for folder in (stories15m_folder, smollm2_folder):
        report = lowdim.scan(folder, text=texts)
        assert report.source["role"] == "causal"
        assert report.complete
