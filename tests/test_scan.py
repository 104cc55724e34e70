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
    assert model_scan.deep is None
    last = model_scan.layers[-1]["estimates"]
    assert last["compare/information-imbalance"]["value"] == 2 / 120
    assert 0 < last["compare/neighborhood-overlap"]["value"] <= 1
    assert "compare/neighborhood-overlap" not in model_scan.layers[0]["estimates"]


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
    assert any("neighbours need" in note for note in report.notes)
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


@pytest.fixture(scope="module", params=["BertModel", "LlamaForCausalLM"])
def deep_scan(request, tiny_folder):
    labels = ["a", "b", "c", "d"] * 56
    return lowdim.scan(tiny_folder(request.param), text=sentences(224), labels=labels, deep=True)


def test_a_deep_scan_has_every_part_and_a_verdict_for_each_claim(deep_scan):
    deep, causal = deep_scan.deep, deep_scan.source["role"] == "causal"
    assert [row["index"] for row in deep["positional"]] == [0, 1, 2]
    for row in deep["positional"]:
        shares = (row[f"{part}_share"] for part in ("position", "context", "residual"))
        assert sum(shares) == pytest.approx(1)
    assert len(deep["tokens"]["rows"]) == 3
    last = [1, 2] if causal else [0, 1, 2]  # the embedding output of a last token is its word
    assert [row["index"] for row in deep["profile"]["rows"]] == last
    assert deep["profile"]["phase"]["peak"] in last
    assert deep["profile"]["shuffled"]["n"] == 224
    assert len(deep["local_rank"]["rows"]) == 2
    assert (deep["tokens"]["loss"] is not None) is causal
    assert ("compression" in deep) is causal
    parts = {claim["part"] for claim in deep["claims"]}
    assert parts == set(deep) - {"claims", "points"}
    assert all(claim["agrees"] in (True, False, None) for claim in deep["claims"])
    assert all(any(c.isdigit() for c in claim["found"]) for claim in deep["claims"])
    known = {m.id for m in lowdim.methods() if m.deep}
    assert set(deep["points"]["estimates"]) <= known
    assert {"geometry/positional", "geometry/dimension-profile"} <= set(deep_scan.methods)


def test_a_deep_scan_is_saved_drawn_printed_and_compared(deep_scan, tmp_path):
    page = deep_scan.save(tmp_path).read_text(encoding="utf-8")
    for id in ("profile", "smooth", "token-dimension", "local-rank"):
        assert f'id="{id}"' in page
    assert "--deep" in page
    again = lowdim.load_scan(tmp_path)
    assert again.to_dict() == deep_scan.to_dict()
    lines = repr(deep_scan).splitlines()
    assert len(lines) <= 50
    assert max(map(len, lines)) <= 80
    again.deep["positional"][1]["position_share"] += 0.1
    (row,) = lowdim.diff(deep_scan, again).changed
    assert (row.place, row.measure) == ("deep/positional/layer 1", "position_share")


def test_a_stopped_deep_scan_goes_on_from_an_ordinary_ones_pieces(
    tiny_folder, tmp_path, monkeypatch
):
    texts, folder = sentences(120), tiny_folder("BertModel")

    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(scan_module.Deep, "tokens", stop)
        with pytest.raises(KeyboardInterrupt):
            lowdim.scan(folder, text=texts, out=tmp_path, deep=True)
    partial = lowdim.load_scan(tmp_path)
    assert set(partial.deep) == {"positional", "profile"}
    assert not partial.complete
    with monkeypatch.context() as patch:
        patch.setattr(scan_module.Deep, "positional", stop)
        patch.setattr(scan_module, "embedding_section", stop)
        resumed = lowdim.scan(folder, text=texts, out=tmp_path, deep=True, resume=True)
    assert resumed.complete
    assert resumed.deep["positional"] == partial.deep["positional"]


def test_a_deep_scan_of_points_has_their_deep_measures_alone():
    x = torch.randn(300, 6, generator=torch.Generator().manual_seed(0))
    deep = lowdim.scan(x, deep=True).deep
    assert set(deep) == {"points"}
    assert deep["points"]["n"] == 300
    assert lowdim.scan(x).deep is None


def test_too_little_text_for_prompts_is_a_note(tiny_folder):
    report = lowdim.scan(tiny_folder("LlamaForCausalLM"), text=sentences(20), deep=True)
    assert report.complete
    assert "positional" not in report.deep
    assert any("give more text" in note for note in report.notes)


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
