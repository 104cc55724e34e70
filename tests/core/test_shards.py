"""Sources: every cut reads the same rows, in this process and in another, and says which row."""

import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from lowdim.core import shards as module
from lowdim.core.engine import LocalEngine
from lowdim.core.pieces import Pieces
from lowdim.core.points import distinct
from lowdim.core.shards import Held, Kept, distinct_rows, sample, shards
from lowdim.errors import InputError, MemoryBudgetError
from lowdim.io.points import open_points

N, DIM = 230, 5
X = torch.randn(N, DIM, generator=torch.Generator().manual_seed(0))


def write_parquet_folder(folder):
    folder.mkdir()
    for i, part in enumerate(X.numpy()[a:b] for a, b in [(0, 100), (100, 101), (101, N)]):
        table = pa.table({"v": list(part)})
        pq.write_table(table, folder / f"part-{i}.parquet", row_group_size=30)


def write_safetensors_folder(folder):
    folder.mkdir()
    for i, (a, b) in enumerate([(0, 90), (90, N)]):
        save_file({"x": X.numpy()[a:b]}, folder / f"part-{i}.safetensors")


def write_vecs(path):
    records = np.empty(N, [("dim", "<i4"), ("values", "<f4", (DIM,))])
    records["dim"], records["values"] = DIM, X
    path.write_bytes(records.tobytes())


FORMATS = {
    "x.npy": lambda p: np.save(p, X.numpy()),
    "x.npz": lambda p: np.savez_compressed(p, X.numpy()),
    "x.csv": lambda p: np.savetxt(p, X.double().numpy(), delimiter=",", fmt="%.17g"),
    "x.safetensors": lambda p: save_file({"x": X.numpy()}, p),
    "x.fvecs": write_vecs,
    "parquet": write_parquet_folder,
    "safetensors": write_safetensors_folder,
}


@pytest.fixture(scope="module", params=[*FORMATS, "tensor", "kept"])
def source(request, tmp_path_factory):
    if request.param == "tensor":
        return Held(X)
    if request.param == "kept":
        return Kept(Held(torch.cat([X, X]).repeat_interleave(2, 0)), torch.arange(0, 2 * N, 2))
    path = tmp_path_factory.mktemp("sources") / request.param
    FORMATS[request.param](path)
    return open_points(path)


def same(x, expected):
    return torch.equal(x.float(), expected)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_a_slice_of_a_slice_reads_its_rows_also_after_a_journey(source, data):
    start = data.draw(st.integers(0, N - 2))
    stop = data.draw(st.integers(start + 1, N))
    low = data.draw(st.integers(0, stop - start - 1))
    part = source.slice(start, stop).slice(low, stop - start)
    assert part.start == start + low
    for there in (part, pickle.loads(pickle.dumps(part))):
        assert same(there.read(), X[start + low : stop])
        assert same(torch.cat(list(there.chunks())), X[start + low : stop])
        assert same(there.take([there.n - 1, 0]), X[[stop - 1, start + low]])


@pytest.mark.parametrize("rows", [1, 7, 64, 1000])
def test_shards_cover_all_rows_once(source, rows):
    parts = shards(source, rows)
    assert max(part.n for part in parts) <= rows
    assert same(torch.cat([part.read() for part in parts]), X)
    assert [part.start for part in parts] == np.cumsum([0, *(p.n for p in parts[:-1])]).tolist()


def test_shards_begin_where_row_groups_do(tmp_path):
    write_parquet_folder(tmp_path / "p")
    source = open_points(tmp_path / "p")
    assert source.edges.tolist() == [30, 60, 90, 100, 101, 131, 161, 191, 221]
    assert [p.start for p in shards(source, 70)] == [0, 60, 101, 161]
    assert source.slice(95, 140).edges.tolist() == [5, 6, 36]
    assert [p.start for p in shards(source, 25)][:3] == [0, 25, 50]  # no edge late enough


def test_what_is_sent_of_a_file_or_a_view_is_small(tmp_path):
    big = torch.zeros(10_000, 50)
    np.save(tmp_path / "x.npy", big.numpy())
    assert len(pickle.dumps(open_points(tmp_path / "x.npy").slice(5, 9_000))) < 500
    assert len(pickle.dumps(Held(big).slice(0, 10))) < 5000


def test_a_file_that_changed_on_the_way_is_refused(tmp_path):
    np.save(tmp_path / "x.npy", X.numpy())
    sent = pickle.dumps(open_points(tmp_path / "x.npy"))
    np.save(tmp_path / "x.npy", X[:-1].numpy())
    with pytest.raises(InputError, match="changed since it was opened"):
        pickle.loads(sent)


def test_bad_rows_are_named_by_their_number_in_the_file(tmp_path):
    bad = X.clone()
    bad[150, 2] = torch.nan
    np.save(tmp_path / "x.npy", bad.numpy())
    part = open_points(tmp_path / "x.npy").slice(100, 200)
    for read in (part.read, lambda: part.take([50])):
        with pytest.raises(InputError, match="row 150, column 2"):
            read()
    with pytest.raises(InputError, match="rows 0 to 99"):
        part.take([100])


def test_a_folder_of_safetensors_lacks_no_part_of_its_index(tmp_path):
    folder = tmp_path / "parts"
    write_safetensors_folder(folder)
    index = '{"weight_map": {"a": "part-0.safetensors", "b": "part-9.safetensors"}}'
    (folder / "x.safetensors.index.json").write_text(index)
    with pytest.raises(InputError, match=r"lacks part-9\.safetensors"):
        open_points(folder)
    (folder / "x.safetensors.index.json").unlink()
    save_file({"x": np.zeros((3, DIM + 1), np.float32)}, folder / "part-2.safetensors")
    with pytest.raises(InputError, match="must agree"):
        open_points(folder)


def test_sample_takes_the_rows(source):
    rows = torch.tensor([0, 3, 99, 100, 101, N - 1])
    found = sample(source, rows, engine=LocalEngine())
    assert same(found, X[rows])
    with pytest.raises(MemoryBudgetError, match="may use 50"):
        sample(source, rows, engine=LocalEngine(), memory=50)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), kinds=st.integers(1, 40), rows=st.integers(1, 60))
def test_distinct_rows_are_those_of_the_whole(seed, kinds, rows):
    generator = torch.Generator().manual_seed(seed)
    x = X[:kinds][torch.randint(kinds, (50,), generator=generator)]
    x[::7] = -0.0 * x[::7]  # zeros of either sign are one
    before, module.ROWS = module.ROWS, rows
    try:
        kept, inverse = distinct_rows(
            Held(x), engine=LocalEngine(), memory="1MiB", pieces=Pieces(None, {})
        )
        assert torch.equal(
            torch.cat([p.read() for p in shards(kept, rows)]) + 0.0, kept.read() + 0.0
        )
    finally:
        module.ROWS = before
    points, expected = distinct(x)
    assert torch.equal(kept.read(), points)
    assert torch.equal(inverse, expected)
