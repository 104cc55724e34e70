"""`measure`: one search and one spectrum for all, short names, streams, duplicates, errors."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import lowdim
from lowdim import nouns
from lowdim.core.shards import Held
from lowdim.datasets import cube
from lowdim.errors import InputError, MemoryBudgetError
from lowdim.registry import find

X = cube(600, 4, 10, seed=1)


def test_one_search_and_one_pass_serve_all(monkeypatch, tmp_path):
    searches, passes = [], []
    search, sums = nouns.Neighbors.of_points, nouns._sums

    def counting(*args, **options):
        if isinstance(args[0], Held) and args[0].n == len(X):  # a method may search in parts of X
            searches.append(args[1])
        return search(*args, **options)

    def counting_sums(units, memory, shard):
        passes.append(units)
        return sums(units, memory, shard)

    monkeypatch.setattr(nouns.Neighbors, "of_points", counting)
    monkeypatch.setattr(nouns, "_sums", counting_sums)
    found = lowdim.measure(X)
    assert searches == [max(n.options["k"] for m in found for n in needs(m, "neighbors"))]
    assert sorted(passes) == [[False], [True]]
    passes.clear()
    np.save(tmp_path / "x.npy", X.numpy())
    lowdim.measure(tmp_path / "x.npy", "vendi", "isoscore", "participation-ratio")
    assert passes == [[False, True]]  # a file is read once for both


def needs(id, noun):
    return [need for need in find(id).needs if need.noun == noun]


def test_same_values_alone_and_together():
    together = lowdim.measure(X)
    for id, estimate in together.items():
        alone = lowdim.measure(X, id)[id]
        assert alone.value == pytest.approx(estimate.value, rel=1e-9), id


def test_mapping_by_id_and_short_name():
    r = lowdim.measure(X, "geometry/two-nn", "isoscore")
    assert list(r) == ["geometry/two-nn", "geometry/isoscore"]
    assert r["two-nn"] is r["geometry/two-nn"]
    assert "two-nn" in repr(r)
    assert "<table>" in r._repr_html_()
    assert max(len(line) for line in repr(r).splitlines()) <= 80
    with pytest.raises(KeyError, match="measured were"):
        r["vendi"]


def test_finds_the_dimension_it_was_given():
    r = lowdim.measure(X, "two-nn", "mle", "participation-ratio")
    assert r["participation-ratio"].value == pytest.approx(4, abs=0.2)
    for name in ("two-nn", "mle"):
        assert 3 < r[name].value < 4.6


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 300), st.integers(0, 10**6))
def test_duplicates_change_no_neighbour_method(copies, seed):
    rows = torch.randint(len(X), (copies,), generator=torch.Generator().manual_seed(seed))
    plain = lowdim.measure(X, "two-nn", "mle")
    more = lowdim.measure(torch.cat([X, X[rows]]), "two-nn", "mle")
    for id in plain:
        assert more[id].value == pytest.approx(plain[id].value, rel=1e-9)
        assert more[id].n == plain[id].n


def test_a_file_is_streamed_and_gives_the_same(tmp_path):
    path = tmp_path / "points.npy"
    np.save(path, X.numpy())
    for memory in (None, "16MiB"):
        streamed = lowdim.measure(path, "vendi", "isoscore", "two-nn", memory=memory)
        whole = lowdim.measure(X, "vendi", "isoscore", "two-nn")
        for id in whole:
            assert streamed[id].value == pytest.approx(whole[id].value, rel=1e-9)


def test_errors_name_the_fault():
    with pytest.raises(InputError, match="20 neighbours need at least 21 distinct points, x has 5"):
        lowdim.measure(X[:5], "mle")
    with pytest.raises(InputError, match="45 exact duplicates merged"):
        lowdim.measure(X[:5].repeat(10, 1), "mle")
    with pytest.raises(InputError, match="reads matrix"):
        lowdim.measure(X, "tail-exponent")
    with pytest.raises(InputError, match="not a rectangular array"):
        lowdim.measure([[1, 2], [3]], "isoscore")
    with pytest.raises(MemoryBudgetError, match="may use 1"):
        lowdim.measure(X, "two-nn", memory="1KiB")
