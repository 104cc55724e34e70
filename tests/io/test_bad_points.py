"""Every bad file of points gives one sentence that names it, before memory is spent on it."""

import io
import json
import math
import os
import struct
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lowdim.errors import InputError, LowdimError, MemoryBudgetError
from lowdim.io.points import open_points, read_labels, read_points
from tests.io.test_points import FORMATS, each_format, in_tmp_path, write_hdf5_chunked

h5py = pytest.importorskip("h5py")


@each_format
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_the_bad_row_of_the_file_is_named(tmp_path, write, name, bad):
    x = np.ones((300, 2), np.float32)
    x[217, 1] = bad
    write(tmp_path / name, x)
    source = open_points(tmp_path / name)
    with pytest.raises(InputError, match=r"row 217, column 1"):
        list(source.chunks(memory=4096))
    with pytest.raises(InputError, match=r"row 217, column 1"):
        source.take([5, 217, 3])
    assert torch.equal(source.take([216, 5]), torch.ones(2, 2, dtype=source.dtype))


@each_format
@in_tmp_path
@given(data=st.data())
def test_damaged_files_give_an_error_of_ours_or_numbers(tmp_path_factory, write, name, data):
    path = tmp_path_factory.mktemp("damaged") / name
    write(path, np.arange(40, dtype=np.float32).reshape(10, 4))
    target = path / "part-1.parquet" if path.is_dir() else path
    content = bytearray(target.read_bytes())
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content))) :]
    for _ in range(data.draw(st.integers(1, 4)) if content else 0):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    target.write_bytes(bytes(content))
    try:
        source = open_points(path)
        shape = source.read(memory="64MiB").shape
    except LowdimError as error:
        message = str(error)
    else:
        message = path.name
        assert shape == (source.n, source.dim)
    assert path.name in message
    assert len(message) < 800


def test_hdf5_with_a_number_format_that_cannot_be(tmp_path):
    path = tmp_path / "x.hdf5"
    write_hdf5_chunked(path, np.arange(40, dtype=np.float32).reshape(10, 4))
    content = path.read_bytes()
    bits = content.index(bytes([23, 8, 0, 23, 127]))  # where exponent and mantissa lie, and bias
    refused = 0
    for place in range(bits - 8, bits + 8):
        path.write_bytes(content[:place] + b"\x01" + content[place + 1 :])
        try:
            open_points(path).read()
        except InputError as error:
            refused += "x.hdf5 is damaged" in str(error)
    assert refused


CSV_ERRORS = {
    "1,2\n\n3\n": "line 3 has 1 values where the first line has 2",
    "a,b\n1,2\n3,4,5\n": "line 3 has 3 values",
    "a,b\n1,2\n\n3,cat\n": "line 4 holds 'cat' in column b",
    "1,2\n3,cat\n": "line 2 holds 'cat' in column 1",
    ",a,b\n0,1,2\n1,3,cat\n": "line 3 holds 'cat' in column b",
    "1,2\n" * 50_000 + "1,cat\n": "line 50001 holds 'cat'",
    "1,cat\n2,3\n": "line 1 mixes numbers and text",
    ",2\n3,4\n": "line 1 mixes numbers and text",
    "a,b\n": "0 rows",
    "a,a\n1,2\n": "names two columns alike",
    "\n\n": "is empty",
    "1,2\n3,\n": "nan at row 1, column 1",
}


@pytest.mark.parametrize("text", CSV_ERRORS, ids=lambda text: repr(text[-12:]))
def test_csv_errors_name_the_line(tmp_path, text):
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(InputError, match=r"x\.csv") as error:
        read_points(tmp_path / "x.csv")
    assert CSV_ERRORS[text] in str(error.value)


def header(shape, descr="<f4", **more):
    fields = {"descr": descr, "fortran_order": False, "shape": shape} | more
    text = repr(fields).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def tensors(head, data=b"", length=None):
    text = head if isinstance(head, bytes) else json.dumps(head).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(shape, start, end, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def zipped(content, name="x.npy", **change):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return buffer.getvalue()


def pickled():
    buffer = io.BytesIO()
    np.save(buffer, np.array([[1], "a"], dtype=object), allow_pickle=True)
    return buffer.getvalue()


HOSTILE = {
    "more-than-it-holds.npy": (header((1000, 1000)) + bytes(400), "truncated"),
    "less-than-it-holds.npy": (header((1, 2)) + bytes(400), "written wrongly"),
    "huge.npy": (header((2**62, 2**62)) + bytes(400), "truncated"),
    "negative.npy": (header((-3, 2)) + bytes(400), "shape"),
    "three-dims.npy": (header((2, 2, 2)) + bytes(32), "shape"),
    "no-rows.npy": (header((0, 2)), "shape"),
    "objects.npy": (pickled(), "pickle"),
    "text.npy": (header((2, 1), "<U4") + bytes(32), "dtype"),
    "complex.npy": (header((2, 1), "<c8") + bytes(16), "complex"),
    "records.npy": (header((2,), [("a", "<f4")]) + bytes(8), "dtype"),
    "nested.npy": (header((2,), "(" * 900 + ")" * 900) + bytes(8), "npy"),
    "pickle-inside.npy": (b"\x80\x04K\x01.", "not an .npy file"),
    "version.npy": (b"\x93NUMPY\x09\x00" + bytes(20), "not an .npy file"),
    "objects.npz": (zipped(pickled()), "pickle"),
    "more-than-it-holds.npz": (zipped(header((10**9, 100))), "truncated"),
    "no-arrays.npz": (zipped(b"text", "x.txt"), "holds 0 arrays"),
    "not-a-zip.npz": (b"hello world", "damaged"),
    "length.safetensors": (tensors(b"{}", length=2**60), "damaged"),
    "overlap.safetensors": (
        tensors({"a": tensor([2, 2], 0, 16), "b": tensor([2, 2], 8, 24)}, bytes(24)),
        "damaged",
    ),
    "outside.safetensors": (tensors({"a": tensor([2, 2], 0, 16)}, bytes(8)), "damaged"),
    "negative.safetensors": (tensors({"a": tensor([-2, 2], 0, 16)}, bytes(16)), "damaged"),
    "huge.safetensors": (tensors({"a": tensor([2**62, 8], 0, 16)}, bytes(16)), "damaged"),
    "none.safetensors": (tensors({}), "holds 0 arrays"),
    "cube.safetensors": (tensors({"a": tensor([2, 2, 2], 0, 32)}, bytes(32)), "shape"),
    "no-rows.safetensors": (tensors({"a": tensor([0, 2], 0, 0)}), "shape"),
    "dim.fvecs": (struct.pack("<i", -1) + bytes(12), "dimension -1"),
    "large-dim.fvecs": (struct.pack("<i", 2**31 - 1) + bytes(12), "dimension"),
    "size.fvecs": (struct.pack("<i", 2) + bytes(9), "17 bytes|13 bytes"),
    "rows.fvecs": (
        struct.pack("<iffiff", 2, 0, 0, 3, 0, 0),
        "row 1 declares 3 values where row 0 declares 2",
    ),
    "short.bvecs": (b"\x01", "dimension"),
    "x.h5": (b"\x89HDF\r\n\x1a\n" + bytes(100), "damaged"),
    "x.parquet": (b"PAR1 no table PAR1", "damaged"),
    "x.csv.gz": (b"\x1f\x8b nothing", "damaged"),
}
for empty in ("npy", "npz", "safetensors", "parquet", "csv", "csv.gz", "fvecs", "bvecs", "h5"):
    HOSTILE[f"empty.{empty}"] = (b"", "is empty")
for pickle in ("pkl", "pickle", "pt", "pth", "bin", "joblib", "ckpt"):
    HOSTILE[f"x.{pickle}"] = (b"\x80\x04K\x01.", "export the points as .npy")
for unknown in ("x.xlsx", "x", "x.txt", "x.tar.gz"):
    HOSTILE[unknown] = (b"1,2", "of no format")


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused_in_one_sentence(tmp_path, name):
    content, reason = HOSTILE[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=reason) as error:
        read_points(tmp_path / name)
    assert name in str(error.value)
    assert "\n" not in str(error.value)


def test_paths_that_are_no_file(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        open_points(tmp_path / "missing.npy")
    with pytest.raises(InputError, match="is a folder without"):
        open_points(tmp_path)
    os.mkfifo(tmp_path / "x.npy")
    with pytest.raises(InputError, match="not a regular file"):
        open_points(tmp_path / "x.npy")


def test_a_zip_bomb_is_refused_by_its_size(tmp_path):
    n = 20_000_000  # 80 MB of zeros in 80 kB
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", header((n, 1)) + bytes(4 * n))
    assert (tmp_path / "x.npz").stat().st_size < 100_000
    source = open_points(tmp_path / "x.npz")
    with pytest.raises(MemoryBudgetError):
        source.read(memory="32MiB")
    assert max(len(chunk) for chunk in source.chunks(memory="1MiB")) * 4 <= 2**20


def test_truncated_files(tmp_path):
    x = np.ones((100, 8), np.float32)
    for write, name in FORMATS:
        if name not in ("parts", "x.csv"):
            (tmp_path / name).unlink(missing_ok=True)
            write(tmp_path / name, x)
            content = (tmp_path / name).read_bytes()
            (tmp_path / name).write_bytes(content[: len(content) * 2 // 3])
            with pytest.raises(InputError, match=name):
                read_points(tmp_path / name)


def test_parquet_rows_of_other_lengths_and_nulls(tmp_path):
    for rows, reason in [
        ([[1.0, 2.0], [3.0]], "row 1 holds 1 values, and row 0 holds 2"),
        ([[1.0, 2.0], None], "row 1 holds null, and row 0 holds 2"),
        ([[1.0, 2.0], [3.0, None]], "nan at row 1, column 1"),
        ([[], []], "0 columns"),
    ]:
        table = pa.table({"v": pa.array(rows, pa.list_(pa.float32()))})
        pq.write_table(table, tmp_path / "x.parquet")
        with pytest.raises(InputError, match=reason):
            read_points(tmp_path / "x.parquet")
    pq.write_table(pa.table({"t": ["a", "b"]}), tmp_path / "x.parquet")
    with pytest.raises(InputError, match=r"t \(string\)"):
        open_points(tmp_path / "x.parquet")


def test_parquet_parts_must_agree(tmp_path):
    pq.write_table(pa.table({"a": [1.0]}), tmp_path / "1.parquet")
    pq.write_table(pa.table({"b": [1.0]}), tmp_path / "2.parquet")
    with pytest.raises(InputError, match=r"2\.parquet has other columns"):
        open_points(tmp_path)


def test_hdf5_that_was_not_written_or_lies_elsewhere(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("x", (10**9, 100), "f4")
    with pytest.raises(InputError, match="declares"):
        open_points(tmp_path / "x.h5")
    (tmp_path / "secret").write_bytes(bytes(400))
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("x", (10, 10), "f4", external=str(tmp_path / "secret"))
    with pytest.raises(InputError, match="in other files"):
        open_points(tmp_path / "x.h5")


def test_a_file_that_changes_while_it_is_read(tmp_path):
    (tmp_path / "x.csv").write_text("1,2\n3,4\n")
    source = open_points(tmp_path / "x.csv")
    for text in ("1,2\n", "1,2\n3,4\n5,6\n"):
        (tmp_path / "x.csv").write_text(text)
        with pytest.raises(InputError, match="has changed"):
            source.read()


def test_labels_in_a_pickle_are_refused(tmp_path):
    (tmp_path / "l.npy").write_bytes(pickled())
    with pytest.raises(InputError, match="pickle"):
        read_labels(tmp_path / "l.npy", 2)
