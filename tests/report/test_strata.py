"""What a strata report says is so: of planted pieces, of chance, and of samples."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from rich.console import Console
from scipy.stats import hypergeom
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

import lowdim
from lowdim import StrataReport
from lowdim.core.pieces import Pieces
from lowdim.core.progress import Silent
from lowdim.core.strata import Strata
from lowdim.errors import InputError, MissingExtraError
from lowdim.io.text import Texts
from lowdim.report import strata_words
from lowdim.report.strata_labels import (
    _enriched,
    _permuted,
    agreement,
    enriched_words,
    length_share,
    trivial,
)
from lowdim.report.strata_parts import render_fragment
from lowdim.report.strata_sections import between, examples, gate, point_map, share
from lowdim.report.strata_stability import stability
from tests.report.strata_sample import WORDS, Means, labelled, planted, registered


@pytest.fixture(scope="module", autouse=True)
def finders():
    with registered():
        yield


@pytest.fixture(scope="module")
def report():
    x = planted()
    labels, texts = labelled(x)
    return lowdim.strata(x.points, text=texts, labels=labels, pieces=3, method="test-means")


def shown(report, width=80):
    console = Console(width=width, color_system=None)
    with console.capture() as captured:
        console.print(report)
    return captured.get()


# --- on planted pieces ---------------------------------------------------------------------------


def test_planted_pieces_are_described(report):
    x = planted()
    assert adjusted_rand_score(x.labels, report.assignments["piece"]) == 1
    rows = report.pieces["rows"]
    assert sum(row["n"] for row in rows) == 360
    truth = [int(x.labels[report.assignments["piece"] == k].mode().values) for k in range(3)]
    for row, k in zip(rows, truth, strict=True):
        assert row["rank"] == row["bic"] == (2, 5, 9)[k]
        assert row["labels"][0]["name"] == ("animal", "food", "motion")[k]
        assert {entry["name"] for entry in row["words"]} == set(WORDS[k])
    assert report.complete


def test_separate_planted_pieces_come_back(report):
    assert min(report.stability["jaccard"]) > 0.99
    assert np.allclose(report.stability["seeds"], 1)
    assert report.labels["nmi"] == pytest.approx(1)
    assert report.labels["guess"] == 1


def test_the_document_is_strict_json_and_draws_itself(report, tmp_path):
    page = report.save(tmp_path)
    data = json.loads((tmp_path / "strata.json").read_text(), parse_constant=pytest.fail)
    assert data["schema"] == "lowdim.strata-report/1"
    assert "assignments" not in data
    again = StrataReport(**data)
    assert shown(again) == shown(report)
    assert again.save(tmp_path / "again").read_text() == page.read_text()


def test_a_row_each_in_the_assignments(report, tmp_path):
    report.save(tmp_path)
    table = pq.read_table(tmp_path / "assignments.parquet").to_pydict()
    assert table["row"] == list(range(360))
    assert table["piece"] == report.strata.labels.tolist()
    own = torch.stack([p.residual(planted().points) for p in report.strata.pieces], 1)
    own = own.gather(1, report.strata.labels[:, None])[:, 0].sqrt()
    assert np.allclose(table["distance"], own, rtol=1e-5)
    assert set(table) == {"row", "piece", "gate_entropy", "distance", "margin", "local_dimension"}
    assert not np.isnan(table["local_dimension"]).any()


def test_the_summary_fits_eighty_columns(report):
    printed = shown(report)
    assert max(len(line) for line in printed.splitlines()) <= 80
    for row in report.pieces["rows"]:
        assert f"{row['n']}" in printed
    assert "3 pieces" in printed
    fragment = render_fragment(report)
    assert "3 pieces" in fragment
    assert fragment.count("<tr>") == 4


def test_soft_pieces_are_told_by_their_entropy():
    found = lowdim.strata(planted(90, separation=1.0).points, pieces=3, method="test-soft")
    assert found.gate["kind"] == "entropy"
    entropy = found.strata.gate_entropy()
    assert torch.allclose(found.assignments["gate_entropy"], entropy.float())
    assert "margin" not in found.assignments
    for row in found.pieces["rows"]:
        surest, least = row["typical"][0], row["borderline"][0]
        assert surest["value"] <= least["value"]
        assert surest["row"] != least["row"]


def test_one_piece_has_nothing_between():
    found = lowdim.strata(planted(90).points, pieces=1, method="test-means")
    assert found.between is None
    assert found.stability is None
    assert found.gate["kind"] == "distance"
    assert "One piece" in shown(found)


def test_what_is_read_off_a_sample_says_so():
    x = planted(600)
    labels, _ = labelled(x)
    found = lowdim.strata(x.points, labels=labels, pieces=3, method="test-means", max_points=200)
    assert len(found.strata.weights) == 600
    assert sum(row["n"] for row in found.pieces["rows"]) == 200
    assert "sample of 200 of 600" in " ".join(found.notes)
    known = ~found.assignments["local_dimension"].isnan()
    assert int(known.sum()) == 200
    assert found.labels["n"] == 200
    assert found.labels["nmi"] == pytest.approx(1)  # labels and pieces are of the same rows
    rows = [e["row"] for row in found.pieces["rows"] for e in row["typical"]]
    assert bool(known[torch.tensor(rows)].all())


def test_the_same_seed_gives_the_same_report():
    x = planted(110).points
    a, b = (lowdim.strata(x, pieces=2, method="test-means", seed=3).to_dict() for _ in range(2))
    for found in (a, b):
        for key in ("created", "seconds", "peak_bytes"):
            found.pop(key)
        for row in found["pieces"]["rows"]:
            for estimate in row["estimates"].values():
                estimate.pop("seconds", None)
        if found["verdict"]:
            found["verdict"].pop("seconds", None)
    assert a == b


def test_auto_takes_a_number_that_describes_unseen_points():
    found = lowdim.strata(planted(200).points, pieces="auto", method="test-means")
    assert len(found.strata.pieces) == found.fit["n_pieces"] >= 2
    assert found.fit["n_pieces"] in [row["n_pieces"] for row in found.fit["choice"]]


def test_a_model_is_read_at_the_layer_asked_for(tmp_path):
    pytest.importorskip("transformers")
    from lowdim.io.activations import hidden_states
    from lowdim.io.models import load_model
    from tests.conftest import SENTENCES, save_tokenizer, tiny_config

    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    transformers.BertModel(tiny_config("Bert")).save_pretrained(tmp_path)
    save_tokenizer(tmp_path, template="[CLS] $A [SEP]")
    texts = [f"{a} {b}" for a in SENTENCES for b in SENTENCES]
    found = lowdim.strata(tmp_path, text=texts, pieces=2, layer=1, method="test-means")
    x = hidden_states(load_model(tmp_path), texts).layers[1]
    expected = Means(2).fit(x).strata_
    assert torch.equal(found.strata.labels, expected.labels)
    with pytest.raises(InputError, match=r"0 to 2, or -3 to -1"):
        lowdim.strata(tmp_path, text=texts, pieces=2, layer=3, method="test-means")


def test_pieces_found_in_few_directions_lie_in_the_space_of_the_points():
    x = planted(90).points
    turn = torch.linalg.qr(torch.randn(30, 30, generator=torch.Generator().manual_seed(0)))[0]
    wide = torch.cat([x, torch.zeros(90, 10)], 1) @ turn.double() + 1
    found = lowdim.strata(wide, pieces=3, method="test-means", dims=20)
    all_columns = lowdim.strata(wide, pieces=3, method="test-means", dims=0)
    assert adjusted_rand_score(found.strata.labels, all_columns.strata.labels) == 1
    assert found.fit["dims"] == 20
    assert found.fit["energy"] == pytest.approx(1)
    assert {p.dim for p in found.strata.pieces} == {30}
    own = torch.stack([p.residual(wide) for p in found.strata.pieces], 1).amin(1).sqrt()
    assert torch.allclose(own.float(), found.assignments["distance"], atol=1e-5)
    assert "dims" not in all_columns.fit


# --- the measures --------------------------------------------------------------------------------


def test_chance_has_the_mean_of_the_permutation_distribution():
    rng = np.random.default_rng(0)
    code, found = rng.integers(0, 3, 200), rng.integers(0, 4, 200)
    drawn = _permuted(code, found, 0)
    same = np.random.default_rng(0)
    for nmi, ari in drawn[:5]:
        shuffled = same.permutation(code)
        assert nmi == pytest.approx(normalized_mutual_info_score(shuffled, found))
        assert ari == pytest.approx(adjusted_rand_score(shuffled, found))
    assert abs(drawn[:, 1].mean()) < 0.005


def test_labels_without_a_link_are_not_followed():
    rejected = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        labels, pieces = rng.integers(0, 4, 150).astype(str).tolist(), rng.integers(0, 3, 150)
        found = agreement(torch.randn(150, 2), pieces.tolist(), labels, 3, seed)
        rejected += found["p_nmi"] <= 0.05
    assert rejected <= 4  # binomial(20, 0.05) is above 4 once in 400


def test_the_smallest_p_value_is_said_as_a_bound():
    pieces = [0] * 60 + [1] * 60
    found = agreement(torch.randn(120, 2), pieces, [str(k) for k in pieces], 2, 0)
    assert found["p_nmi"] == 1 / 1000
    assert "p at most 0.001" in strata_words.labels(found)
    assert strata_words.p_value(0.02, 999) == "p = 0.02"


def test_enrichment_is_the_hypergeometric_tail_with_its_correction():
    held, totals, sizes = np.array([[30, 5], [2, 5]]), np.array([32, 10]), np.array([50, 50])
    found = _enriched(held, totals, sizes, np.array(["a", "b"]))
    p = hypergeom.sf(29, 100, 32, 50)
    assert [e["name"] for e in found[0]] == ["a"]
    assert found[1] == []
    assert found[0][0]["q"] == pytest.approx(4 * p)  # the smallest of four
    odds = np.log(30.5 / 20.5) - np.log(2.5 / 48.5)
    assert found[0][0]["log_odds"] == pytest.approx(odds)


def test_words_spread_at_random_are_not_named():
    rng = np.random.default_rng(0)
    texts = [" ".join(f"word{j}" for j in rng.integers(0, 40, 6)) for _ in range(400)]
    found, tried = enriched_words(rng.integers(0, 4, 400).tolist(), texts, 4)
    assert tried == 40
    assert sum(map(len, found)) <= 1
    assert enriched_words([0, 1], ["!", "?"], 2) == ([[], []], 0)


def test_trivial_agreement_is_called_so():
    x = torch.randn(200, 3)
    alone = agreement(x, [0] * 200, ["a", "b"] * 100, 1, 0)
    assert "only one piece" in " ".join(trivial(alone, None))
    own = agreement(x, [0, 1] * 100, [str(i) for i in range(200)], 2, 0)
    assert "200 labels for 200 points" in " ".join(trivial(own, None))
    lopsided = agreement(x, [0] * 190 + [1] * 10, (["a"] * 100 + ["b"] * 100), 2, 0)
    assert "95% of the points" in " ".join(trivial(lopsided, None))
    assert "length of the texts" in " ".join(trivial(lopsided, 0.5))
    assert not any("length" in reason for reason in trivial(lopsided, 0.05))


def test_length_share_is_eta_squared():
    texts = ["a" * 9] * 10 + ["a" * 99] * 10
    assert length_share([0] * 10 + [1] * 10, texts) == pytest.approx(1)
    assert length_share([0, 1] * 10, texts) == pytest.approx(0)
    assert length_share([0, 1], ["ab", "cd"]) is None


def test_the_margin_is_zero_halfway_and_below_zero_beyond():
    x = torch.tensor([[0.0, 0], [1, 0], [10, 0], [11, 0], [5.5, 0], [7, 0]]).double()
    strata = Strata.of_labels(x[:4], torch.tensor([0, 0, 1, 1]), rank=0)
    weights = torch.eye(2).double()[[0, 0, 1, 1, 0, 0]]
    strata = Strata(strata.pieces, weights)
    found = share(strata, x, torch.arange(6))
    assert found.kind == "margin"
    assert found.values[4] == pytest.approx(0)
    assert found.values[5] == pytest.approx((3.5 - 6.5) / 6.5)
    at = (strata.labels == 0).nonzero()[:, 0]
    told = examples(at, found, None, None, torch.arange(6) + 100)
    assert [e["row"] for e in told["typical"]] == [100, 101]
    assert [e["row"] for e in told["borderline"]] == [105, 104]
    assert told["borderline"][0]["other"] == 1


def test_a_point_that_equals_two_pieces_has_no_margin():
    x = torch.zeros(4, 2).double()
    strata = Strata.of_labels(x, torch.tensor([0, 0, 1, 1]), rank=0)
    assert share(strata, x, torch.arange(4)).values.tolist() == [0, 0, 0, 0]


def test_angles_and_distances_of_known_planes():
    x = torch.cat([torch.eye(4)[:1].repeat(5, 1), torch.eye(4)[1:2].repeat(5, 1)]).double()
    x = x * torch.linspace(-1, 1, 5).double().repeat(2)[:, None]
    labels = torch.arange(10) // 5
    found = between(Strata.of_labels(x, labels, rank=1))
    assert found["angles"][0, 1] == pytest.approx(90)
    assert found["directions"][0, 1] == pytest.approx(1)
    assert found["centers"][0, 1] == pytest.approx(0, abs=1e-12)
    points = between(Strata.of_labels(x + labels[:, None], labels, rank=0))
    assert points["angles"].isnan().all()
    assert points["centers"][0, 1] == pytest.approx(2)


def test_the_map_of_few_points_is_their_principal_plane():
    x = planted(60).points
    found = point_map(x, torch.zeros(60).long(), None, None, None, torch.arange(60), 0)
    assert found["method"] == "PCA"
    z = torch.tensor([found["x"], found["y"]]).double()
    values = torch.linalg.eigvalsh(torch.cov(x.T, correction=0)).flip(0)
    assert torch.allclose(z.var(1, correction=0), values[:2], rtol=1e-3)
    assert found["energy"] == pytest.approx(float(values[:2].sum() / values.sum()), rel=1e-6)


def test_doubt_by_label_is_the_mean_of_each_with_its_interval():
    x = planted()
    strata = Means(3).fit(x.points).strata_
    names = [str(k) for k in x.labels.tolist()]
    sharing = share(strata, x.points, torch.arange(360))
    found = gate(sharing, names)
    for entry in found["labels"]:
        mine = sharing.values[torch.tensor([n == entry["label"] for n in names])]
        assert entry["value"] == pytest.approx(float(mine.mean()))
        reach = 1.96 * float(mine.std()) / len(mine) ** 0.5
        assert entry["high"] - entry["value"] == pytest.approx(reach, rel=1e-4)
        assert entry["value"] - entry["low"] == pytest.approx(reach, rel=1e-4)
        assert sum(entry["histogram"]["counts"]) == entry["n"] == len(mine)


def test_pieces_of_nothing_do_not_come_back():
    x = torch.randn(300, 8, generator=torch.Generator().manual_seed(0)).double()
    labels = Means(6).fit(x).strata_.labels
    found = stability(
        lambda seed: Means(6, random_state=seed), x, labels, 6, Pieces(None, {}), Silent(), 0
    )
    assert max(found["jaccard"]) < 0.75
    assert np.allclose(np.diag(found["halves"]), 1)
    assert len(found["halves"]) == 7
    assert len(found["seeds"]) == 4


# --- mistakes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"pieces": 500}, "at most 360"),
        ({"pieces": 0}, "from 1"),
        ({"pieces": "many"}, "or auto"),
        ({"method": "subspacs"}, "choose from .*subspaces"),
        ({"method": "two-nn"}, "no finder of pieces: choose from"),
        ({"layer": 1}, "no layers"),
        ({"labels": ["a"] * 7}, "7 labels for 360"),
        ({"text": ["a"] * 7}, "7 texts for 360"),
        ({"seed": -1}, "seed"),
        ({"max_points": 2}, "at least 8"),
        ({"dims": -1}, "0 for all"),
        ({"memory": "much"}, "memory"),
        ({"resume": True}, "out="),
    ],
)
def test_mistakes_are_named_before_the_work(options, word):
    with pytest.raises(InputError, match=word):
        lowdim.strata(planted().points, **{"pieces": 3, "method": "test-means"} | options)


def test_an_unknown_method_is_answered_with_those_close_to_it():
    with pytest.raises(InputError, match=r"choose from .*test-means"):
        lowdim.strata(planted().points, method="test-meanz")


def test_a_missing_package_is_named():
    with pytest.raises(MissingExtraError, match="pip install"):
        lowdim.strata(planted().points, pieces=2, method="test-missing")


def test_equal_points_are_answered_and_not_guessed():
    with pytest.raises(InputError):
        lowdim.strata(torch.ones(50, 3), pieces="auto", method="test-means")


def test_duplicates_and_constant_columns_do_no_harm():
    x = planted(60).points
    x = torch.cat([x, x[:30]])
    x = torch.cat([x, torch.ones(90, 1).double()], 1)
    found = lowdim.strata(x, pieces=3, method="test-means")
    local = found.assignments["local_dimension"]
    assert len(local) == 90
    assert torch.equal(local[:30], local[60:])


def test_labels_come_with_the_texts():
    x = planted(90)
    labels, texts = labelled(x)
    found = lowdim.strata(x.points, text=Texts(texts, labels), pieces=3, method="test-means")
    assert found.labels["labels"] == ["animal", "food", "motion"]
