"""Planted maps come back, closed forms by numpy, the criterion where it must hold, and a codec."""

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.linear_model import Ridge
from torch.nn.functional import normalize

from lowdim.errors import InputError
from lowdim.retrieval import Codec, Upgrade, compatible, exact_search
from lowdim.retrieval.cross_recall import Trial
from lowdim.retrieval.pair_maps import Pairs, maps
from lowdim.retrieval.recall import recall_at_k


def normals(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def turn(d, seed=1):
    return torch.linalg.qr(normals(d, d, seed=seed)).Q


def test_a_rotated_encoder_is_found_out_and_loses_nothing():
    old = normals(600, 12)
    found = compatible(old, old @ turn(12), n_queries=100)
    report = found.report_
    assert (report.new_old.mean, report.new_moved.mean, report.agreement.mean) == (1, 1, 1)
    assert report.verdict == "holds"
    torch.testing.assert_close(found.transform(old @ turn(12)), normalize(old), atol=2e-3, rtol=0)
    rows = found.inverse_transform(old)
    torch.testing.assert_close(rows, normalize(old @ turn(12)), atol=2e-3, rtol=0)


def test_an_unchanged_encoder_needs_no_map():
    x = normals(300, 8)
    report = compatible(x, x).report_
    assert (report.way, report.way_back, report.gain.mean) == ("identity", "identity", 0)


def test_a_better_encoder_is_better_on_the_old_store_too():
    """The old encoder is the new one with noise: its rows are what the store has to live with."""
    new = normals(1500, 16) * torch.logspace(0, -1, 16)
    old = new @ turn(16) + 0.15 * normals(1500, 16, seed=3)
    report = compatible(old, new, metric="dot").report_
    assert report.verdict == "holds"
    assert report.old_old.mean < report.new_old.mean < report.new_new.mean == 1
    assert report.enough <= report.n_pairs
    assert [n for n, _ in report.curve] == [64, 128, 256, 512, 600]
    assert report.n_rows + report.n_pairs + 2 * report.n_queries == 1500


def test_labels_judge_where_they_are_given():
    g = torch.Generator().manual_seed(0)
    labels = torch.randint(5, (1000,), generator=g)
    means = 2 * normals(5, 10)
    new = means[labels] + normals(1000, 10, seed=1)
    old = (means[labels] + 3 * normals(1000, 10, seed=2)) @ turn(10)
    report = compatible(old, new, labels=labels).report_
    assert report.judge == "labels"
    assert report.old_old.mean < report.new_old.mean < report.new_new.mean < 1


def test_maps_are_those_of_other_libraries():
    x, y = normals(200, 6).double(), normals(200, 4, seed=2).double() + 1
    pairs = Pairs.of(x, y)
    found = maps(pairs, ["orthogonal", "ridge", "low-rank"])
    peer = Ridge(alpha=float(200 * 1e-2 * pairs.xx.diagonal().mean())).fit(x, y)
    torch.testing.assert_close(
        found["ridge 0.01"](x.float()).double(), torch.from_numpy(peer.predict(x)),
        atol=1e-5, rtol=0,
    )  # fmt: skip
    u, _, vt = np.linalg.svd((x - x.mean(0)).T @ (y - y.mean(0)), full_matrices=False)
    np.testing.assert_allclose(found["orthogonal"].weight, u @ vt, atol=1e-6)
    assert torch.linalg.matrix_rank(found["low-rank 2"].weight) == 2


def test_transposed_scores_rows_as_the_new_encoder_is_expected_to():
    """<q, E[x|y]> and <map(q), y> differ by one number a query."""
    x, y = normals(400, 7), normals(400, 5, seed=1) + normals(400, 7)[:, :5]
    affine = maps(Pairs.of(x, y), ["transposed"])["transposed 0.01"]
    back = maps(Pairs.of(y, x), ["ridge"])["ridge 0.01"]
    difference = x[:20] @ back(y).T - affine(x[:20]) @ y.T
    torch.testing.assert_close(difference.std(1), torch.zeros(20), atol=1e-4, rtol=0)


def test_no_text_is_used_twice():
    trial = Trial(normals(101, 3), normals(101, 3), None, 10, 5, "cosine")
    parts = [trial.choosing, trial.measuring, trial.searched]
    used = [set(range(101)[p]) for p in parts]
    used.append(set(range(101 - trial.n_fit, 101)))
    assert sum(map(len, used)) == len(set.union(*used)) == 101
    assert len(used[2]) == trial.n_rows


def test_figures_are_what_a_codec_finds_among_the_old_codes():
    new = normals(1200, 16) * torch.logspace(0, -1, 16)
    old = new @ normals(16, 10, seed=5) + 0.2 * normals(1200, 10, seed=3)
    pairs, rows, queries = slice(0, 700), slice(700, 1100), slice(1100, 1200)
    upgrade = compatible(old[pairs], new[pairs])
    codec = Codec("float16").fit(old[rows])
    codes = codec.encode(old[rows])  # encoded before the new encoder was known
    truth = exact_search(new[rows], new[queries], 10)[0]
    before = recall_at_k(codec.search(codes, old[queries])[0], truth).mean()
    after = recall_at_k(codec.search(codes, upgrade.transform(new[queries]))[0], truth).mean()
    assert after > before
    assert abs(float(after) - upgrade.report_.new_old.mean) < 0.1


def test_scikit_learn_contract_and_kinds_of_input(tmp_path):
    old, new = normals(200, 6), normals(200, 9, seed=2)
    upgrade = Upgrade(k=3, metric="euclidean", seed=4)
    again = clone(upgrade).fit(new.numpy(), old.numpy())
    assert again.get_params()["k"] == 3
    assert isinstance(again.transform(new.numpy()), np.ndarray)
    np.save(tmp_path / "new.npy", new.numpy())
    torch.testing.assert_close(again.transform(tmp_path / "new.npy"), again.transform(new))
    assert again.report_ == upgrade.fit(new, old).report_
    assert "compatibility:" in str(again.report_)
    assert again.report_.to_dict()["k"] == 3


def test_wrong_input_says_so():
    x = normals(100, 4)
    for message, call in {
        "of the same texts": lambda: compatible(x, x[:50]),
        "too few|at least": lambda: compatible(x[:20], x[:20]),
        "choose from": lambda: compatible(x, x, ways=["magic"]),
        "not transposed alone": lambda: compatible(x, x, ways=["transposed"]),
        "here choose from orthogonal": lambda: compatible(x, normals(100, 5), ways=["identity"]),
        "all old vectors are equal": lambda: compatible(torch.ones(100, 4), x),
        "labels have shape": lambda: compatible(x, x, labels=[1]),
        "is all zeros": lambda: compatible(torch.zeros(100, 4), x),
        "not fitted": lambda: Upgrade().transform(x),
        "the map takes 4": lambda: compatible(x, x).transform(normals(5, 3)),
    }.items():
        with pytest.raises(InputError, match=message):
            call()
