"""Every format gives back the numbers that were written; every bad file gives one sentence."""

import gzip
import struct

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import save_file

from lowdim.errors import InputError, MemoryBudgetError
from lowdim.io.points import is_weights, open_points, read_labels, read_points

h5py = pytest.importorskip("h5py")


def write_npy(path, x):
    np.save(path, x)


def write_npy_fortran(path, x):
    np.save(path, np.asfortranarray(x))


def write_npy_big_endian(path, x):
    np.save(path, x.astype(">f4"))


def write_npz(path, x):
    np.savez(path, embeddings=x, other=np.zeros(3))


def write_npz_compressed(path, x):
    np.savez_compressed(path, x)


def write_npz_compressed_fortran(path, x):
    np.savez_compressed(path, np.asfortranarray(x))


def write_safetensors(path, x):
    save_file({"x": x, "labels": np.zeros(len(x))}, path)


def write_parquet_lists(path, x):
    table = pa.table({"id": range(len(x)), "v": list(x), "text": ["a"] * len(x)})
    pq.write_table(table, path, row_group_size=3)


def write_parquet_fixed(path, x):
    lists = pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), x.shape[1])
    pq.write_table(pa.table({"v": lists}), path, row_group_size=4)


def write_parquet_columns(path, x):
    columns = {f"f{j}": x[:, j] for j in range(x.shape[1])}
    index = {"__index_level_0__": range(len(x))}
    pq.write_table(pa.table(columns | index), path, row_group_size=5)


def write_parquet_folder(path, x):
    path.mkdir()
    for number, part in enumerate(np.array_split(x, 2)):
        if len(part):
            write_parquet_lists(path / f"part-{number}.parquet", part)


def write_csv(path, x):
    path.write_text("\n".join(",".join(repr(float(v)) for v in row) for row in x) + "\n")


def write_csv_named(path, x):
    write_csv(path, x)
    names = ",".join(f'"f {j}"' for j in range(x.shape[1]))
    path.write_text("\ufeff" + names + "\r\n\n" + path.read_text(), encoding="utf-8")


def write_csv_pandas(path, x):
    rows = [",".join([str(i), *(repr(float(v)) for v in row)]) for i, row in enumerate(x)]
    names = ",".join(["", *(f"f{j}" for j in range(x.shape[1]))])
    path.write_text("\n".join([names, *rows]))


def write_csv_gz(path, x):
    write_csv(path, x)
    path.write_bytes(gzip.compress(path.read_bytes()))


def write_fvecs(path, x):
    records = np.empty(len(x), [("dim", "<i4"), ("values", "<f4", (x.shape[1],))])
    records["dim"], records["values"] = x.shape[1], x
    path.write_bytes(records.tobytes())


def write_hdf5(path, x):
    with h5py.File(path, "w") as file:
        file["group/points"] = x
        file["names"] = np.zeros(len(x))


def write_hdf5_chunked(path, x):
    with h5py.File(path, "w") as file:
        file.create_dataset("train", data=x, compression="gzip", chunks=True)


FORMATS = [
    (write_npy, "x.npy"),
    (write_npy_fortran, "x.npy"),
    (write_npy_big_endian, "x.npy"),
    (write_npz, "x.npz"),
    (write_npz_compressed, "x.npz"),
    (write_npz_compressed_fortran, "x.npz"),
    (write_safetensors, "x.safetensors"),
    (write_parquet_lists, "x.parquet"),
    (write_parquet_fixed, "x.parquet"),
    (write_parquet_columns, "x.parquet"),
    (write_parquet_folder, "parts"),
    (write_csv, "x.csv"),
    (write_csv_named, "x.csv"),
    (write_csv_pandas, "x.csv"),
    (write_csv_gz, "x.csv.gz"),
    (write_fvecs, "x.fvecs"),
    (write_hdf5, "x.h5"),
    (write_hdf5_chunked, "x.hdf5"),
]
each_format = pytest.mark.parametrize(
    ("write", "name"), FORMATS, ids=[write.__name__.removeprefix("write_") for write, _ in FORMATS]
)
POINTS = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9),
    elements=st.floats(-1e6, 1e6, width=32),
)
in_tmp_path = settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@each_format
@in_tmp_path
@given(x=POINTS, data=st.data())
def test_round_trip(tmp_path_factory, write, name, x, data):
    path = tmp_path_factory.mktemp("points") / name
    write(path, x)
    source = open_points(path)
    assert (source.n, source.dim, source.path) == (*x.shape, path)
    assert source.dtype == (torch.float64 if ".csv" in name else torch.float32)
    expected = torch.from_numpy(x).to(source.dtype)
    assert torch.equal(source.read(), expected)
    smallest = 8 * source.dim * source.dtype.itemsize
    chunks = list(source.chunks(memory=2 * smallest))
    assert max(map(len, chunks)) <= 2
    assert torch.equal(torch.cat(chunks), expected)
    rows = data.draw(st.lists(st.integers(0, len(x) - 1), min_size=1, max_size=12))
    assert torch.equal(source.take(rows), expected[rows])


@each_format
def test_what_does_not_fit_is_refused_before_it_starts(tmp_path, write, name):
    x = np.ones((300, 8), np.float32)
    write(tmp_path / name, x)
    source = open_points(tmp_path / name)
    with pytest.raises(MemoryBudgetError, match=r"needs at least .* may use 4\.0 KiB"):
        source.read(memory=4096)
    with pytest.raises(MemoryBudgetError):
        source.chunks(memory=10)
    with pytest.raises(MemoryBudgetError):
        source.take(range(300), memory=4096)
    assert sum(map(len, source.chunks(memory=4096))) == 300


def test_half_precision_and_integers_are_promoted(tmp_path):
    for stored, promoted in [
        (np.float16, torch.float32),
        (np.int8, torch.float32),
        (np.int64, torch.float64),
        (np.float64, torch.float64),
        (np.bool_, torch.float32),
        ("<u4", torch.float64),
    ]:
        x = np.arange(6).reshape(3, 2).astype(stored)
        np.save(tmp_path / "x.npy", x)
        source = open_points(tmp_path / "x.npy")
        assert source.dtype == promoted
        assert torch.equal(source.read(), torch.from_numpy(x.astype(np.float64)).to(promoted))


def test_bfloat16_and_float8_safetensors(tmp_path):
    from safetensors.torch import save_file as save_tensors

    for dtype in (torch.bfloat16, torch.float8_e4m3fn):
        x = torch.tensor([[1.5, -2.0], [0.25, 4.0]]).to(dtype)
        save_tensors({"only": x}, tmp_path / "x.safetensors")
        assert torch.equal(read_points(tmp_path / "x.safetensors"), x.float())


def test_bvecs(tmp_path):
    x = np.arange(12, dtype=np.uint8).reshape(3, 4)
    (tmp_path / "x.bvecs").write_bytes(b"".join(struct.pack("<i", 4) + row.tobytes() for row in x))
    assert torch.equal(read_points(tmp_path / "x.bvecs"), torch.from_numpy(x).float())


def test_one_dimensional_arrays_are_one_column(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(5.0))
    assert read_points(tmp_path / "x.npy").shape == (5, 1)


def test_reading_does_not_hand_out_the_mapped_file(tmp_path):
    before = np.ones((4, 2), np.float32)
    np.save(tmp_path / "x.npy", before)
    save_file({"x": before}, tmp_path / "x.safetensors")
    for name in ("x.npy", "x.safetensors"):
        source = open_points(tmp_path / name)
        for chunk in source.chunks():
            chunk.zero_()
        source.take([0, 1]).zero_()
        source.read().zero_()
        assert torch.equal(source.read(), torch.ones(4, 2))


def test_take_checks_the_row_numbers(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(10.0).reshape(5, 2))
    source = open_points(tmp_path / "x.npy")
    assert source.take(torch.tensor([4, 0, 4])).tolist() == [[8, 9], [0, 1], [8, 9]]
    for rows in ([5], [-1], [], [0.5], [[1]], np.array([True, False, True, True, True])):
        with pytest.raises(InputError, match=r"x\.npy"):
            source.take(rows)


def test_column_chooses(tmp_path):
    a, b = np.zeros((3, 2), np.float32), np.ones((3, 2), np.float32)
    np.savez(tmp_path / "x.npz", a=a, b=b)
    save_file({"a": a, "b": b}, tmp_path / "x.safetensors")
    pq.write_table(pa.table({"a": list(a), "b": list(b)}), tmp_path / "x.parquet")
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["a"], file["b"] = a, b
    (tmp_path / "x.csv").write_text("a,b\n0,1\n0,1\n")
    for name in ("x.npz", "x.safetensors", "x.parquet", "x.h5", "x.csv"):
        assert (read_points(tmp_path / name, column="b") == 1).all()
        with pytest.raises(InputError, match=r"a.*b"):  # both are listed
            open_points(tmp_path / name, column="c")
        if name != "x.csv":
            with pytest.raises(InputError, match="column="):
                open_points(tmp_path / name)
    np.save(tmp_path / "x.npy", a)
    with pytest.raises(InputError, match="column="):
        open_points(tmp_path / "x.npy", column="a")


def test_pandas_numbered_names_are_not_a_point(tmp_path):
    (tmp_path / "x.csv").write_text("0,1,2\n0.5,1.5,2.5\n")
    assert read_points(tmp_path / "x.csv").tolist() == [[0.5, 1.5, 2.5]]
    (tmp_path / "x.csv").write_text(",0,1\n0,0.5,1.5\n1,2.5,3.5\n")
    assert read_points(tmp_path / "x.csv").tolist() == [[0.5, 1.5], [2.5, 3.5]]


def test_weights_or_points(tmp_path):
    path = tmp_path / "x.safetensors"
    matrix, vector = np.ones((4, 2), np.float32), np.ones(4, np.float32)
    for content, weights in [
        ({"anything": matrix}, False),
        ({"Embeddings": matrix, "ids": vector}, False),
        ({"embeddings": matrix, "lm_head.weight": matrix}, False),
        ({"embeddings": matrix, "x": matrix}, True),
        ({"embeddings": vector, "w": matrix}, True),
        ({"layer.0.weight": matrix, "layer.0.bias": vector}, True),
    ]:
        save_file(content, path)
        assert is_weights(path) == weights
        if weights:
            with pytest.raises(InputError, match="column="):
                open_points(path)
        else:
            assert open_points(path).n == 4
    assert not is_weights("x.npy")
    path.write_bytes(b"junk")
    with pytest.raises(InputError, match="damaged"):
        is_weights(path)


def test_labels_of_every_format(tmp_path):
    labels = ["cat", "dog", "3"]
    files = {
        "l.txt": "cat\ndog\n3\n\n",
        "l.csv": "cat\ndog\n3\n",
        "named.csv": "species\ncat\ndog\n3\n",
        "label.csv": "id,label\n1,cat\n2,dog\n3,3\n",
        "l.json": '["cat", "dog", 3]',
        "l.jsonl": '{"text": "a", "label": "cat"}\n{"label": "dog"}\n{"label": 3}\n',
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
        assert read_labels(tmp_path / name, 3) == labels
    np.save(tmp_path / "l.npy", np.array(labels))
    pq.write_table(pa.table({"label": labels, "x": [1, 2, 3]}), tmp_path / "l.parquet")
    assert read_labels(tmp_path / "l.npy", 3) == labels
    assert read_labels(tmp_path / "l.parquet", 3) == labels
    assert read_labels(tmp_path / "l.parquet", 3, column="x") == ["1", "2", "3"]
    assert read_labels(tmp_path / "label.csv", 3, column="id") == ["1", "2", "3"]
    np.save(tmp_path / "l.npy", np.array([4, 5]))
    assert read_labels(tmp_path / "l.npy", 2) == ["4", "5"]


def test_label_errors(tmp_path):
    (tmp_path / "l.txt").write_text("cat\ndog\n")
    with pytest.raises(InputError, match="holds 2 labels and there are 3 points"):
        read_labels(tmp_path / "l.txt", 3)
    (tmp_path / "l.csv").write_text("cat\ndog\ncat\n")  # no name above: one label too many
    with pytest.raises(InputError, match="holds 3 labels and there are 2 points"):
        read_labels(tmp_path / "l.csv", 2)
    (tmp_path / "l.txt").write_text("cat\n\ndog\n")
    with pytest.raises(InputError, match="line 2 is blank"):
        read_labels(tmp_path / "l.txt", 3)
    (tmp_path / "l.csv").write_text("id,species\n1,cat\n")
    with pytest.raises(InputError, match="choose column= from id, species"):
        read_labels(tmp_path / "l.csv", 1)
    (tmp_path / "l.json").write_text('["cat", null]')
    with pytest.raises(InputError, match="item 2 holds NoneType"):
        read_labels(tmp_path / "l.json", 2)
    np.save(tmp_path / "l.npy", np.ones((3, 2)))
    with pytest.raises(InputError, match="2 columns"):
        read_labels(tmp_path / "l.npy", 3)


def test_rows_of_a_shard_are_looked_for_in_that_shard_alone(tmp_path, monkeypatch):
    x = torch.arange(4000.0).reshape(1000, 4)
    lists = pa.FixedSizeListArray.from_arrays(pa.array(x.numpy().ravel()), 4)
    pq.write_table(pa.table({"x": lists}), tmp_path / "x.parquet", row_group_size=100)
    source = open_points(tmp_path / "x.parquet")
    asked, batches = [], type(source.rows).batches

    def watched(self, rows, start, stop):
        asked.append((start, stop))
        return batches(self, rows, start, stop)

    monkeypatch.setattr(type(source.rows), "batches", watched)
    assert torch.equal(source.slice(500, 700).take([3, 120]), x[[503, 620]])
    assert asked == [(503, 621)]
