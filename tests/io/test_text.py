"""Texts come back as they were written, whatever the format; a bad entry is named by its line."""

import csv
import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lowdim.errors import InputError, MemoryBudgetError
from lowdim.io.text import Texts, read_texts


def write_txt(path, texts, labels):
    path.write_bytes("\n".join(texts).encode())


def write_jsonl(path, texts, labels):
    lines = [json.dumps({"text": t, "label": k}) for t, k in zip(texts, labels, strict=True)]
    path.write_text("\r\n".join(lines) + "\n\n")


def write_jsonl_strings(path, texts, labels):
    path.write_bytes("\n".join(json.dumps(t, ensure_ascii=False) for t in texts).encode())


def write_json(path, texts, labels):
    path.write_text(json.dumps([{"text": t, "id": 3} for t in texts]))


def write_csv(path, texts, labels):
    buffer = io.StringIO()
    csv.writer(buffer).writerows([("label", "text"), *zip(labels, texts, strict=True)])
    path.write_bytes(b"\xef\xbb\xbf" + buffer.getvalue().encode())


def write_csv_alone(path, texts, labels):
    buffer = io.StringIO()
    csv.writer(buffer, quoting=csv.QUOTE_ALL).writerows([t] for t in texts)
    path.write_bytes(buffer.getvalue().encode())


def write_parquet(path, texts, labels):
    pq.write_table(pa.table({"n": range(len(texts)), "text": texts, "label": labels}), path)


def write_npy(path, texts, labels):
    np.save(path, np.array(texts))


LABELLED = {write_jsonl, write_csv, write_parquet}
FORMATS = [
    (write_txt, "x.txt"),
    (write_jsonl, "x.jsonl"),
    (write_jsonl_strings, "x.jsonl"),
    (write_json, "x.json"),
    (write_csv, "x.csv"),
    (write_csv_alone, "x.csv"),
    (write_parquet, "x.parquet"),
    (write_npy, "x.npy"),
]
# what all formats can hold: no line breaks, no NUL (which numpy strips and csv rejects)
TEXT = st.text(
    st.characters(exclude_characters="\r\n\0", exclude_categories=["Cs"]), min_size=1
).filter(lambda t: t.strip() and not t.startswith("\ufeff") and t != "text")


@pytest.mark.parametrize(
    ("write", "name"), FORMATS, ids=[write.__name__.removeprefix("write_") for write, _ in FORMATS]
)
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(texts=st.lists(TEXT, min_size=1, max_size=6))
def test_round_trip(tmp_path_factory, write, name, texts):
    path = tmp_path_factory.mktemp("texts") / name
    labels = [f"label {len(text)}" for text in texts]
    write(path, texts, labels)
    assert read_texts(path) == Texts(texts, labels if write in LABELLED else None)


def test_line_breaks_inside_quotes_and_strings(tmp_path):
    texts = ["two\nlines", 'a "quoted" word, and a comma', "\u2028 is no line end"]
    for write, name in (
        (write_jsonl, "x.jsonl"),
        (write_csv, "x.csv"),
        (write_parquet, "x.parquet"),
    ):
        write(tmp_path / name, texts, ["a", "b", "c"])
        assert read_texts(tmp_path / name) == Texts(texts, ["a", "b", "c"])


def test_column_and_length(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"body": "one", "label": 1}\n{"body": "two", "label": 2}')
    texts = read_texts(tmp_path / "x.jsonl", column="body")
    assert texts == Texts(["one", "two"], ["1", "2"])
    assert len(texts) == 2


def test_a_folder_of_parquet_parts_in_order(tmp_path):
    for part in (2, 1):
        pq.write_table(pa.table({"text": [f"part {part}"]}), tmp_path / f"{part}.parquet")
    assert read_texts(tmp_path).texts == ["part 1", "part 2"]


ERRORS = [
    ("x.txt", b"one\n\ntwo\n", "line 2 is blank"),
    ("x.txt", b"\n \n", "holds no texts"),
    ("x.txt", b"", "is empty"),
    ("x.txt", b"caf\xe9", "not UTF-8 at byte 3"),
    ("x.txt", "text".encode("utf-16"), "not UTF-8 at byte 0"),
    ("x.jsonl", b'{"text": "a"}\n{"text": ""}', "line 2 is blank"),
    ("x.jsonl", b'{"text": "a"}\n{"txt": "b"}', "line 2 has no field 'text'.* from txt"),
    ("x.jsonl", b'{"text": "a"}\n{"text": 3}', "line 2 holds int, not text"),
    ("x.jsonl", b'{"text": "a"}\n{"text"', "line 2 is not JSON"),
    ("x.jsonl", b'{"text": "a"}\n\n{"text": "b"}', "line 2 is not JSON"),
    ("x.jsonl", b'"\\ud800"', "line 1 holds half a surrogate pair"),
    ("x.jsonl", b"[" * 100_000, "line 1 is not JSON"),
    ("x.jsonl", b'{"text": "a", "label": "k"}\n{"text": "b"}', "some texts only: line 2"),
    ("x.jsonl", b'{"text": "a"}\n{"text": "b", "label": "k"}', "some texts only: line 2"),
    ("x.jsonl", b'{"text": "a", "label": [1]}', "line 1 holds list"),
    ("x.jsonl", b'{"text": "a", "label": NaN}', "line 1 holds float"),
    ("x.json", b'{"text": "a"}', "a JSON dict: give a list"),
    ("x.json", b'["a", null]', "item 2 holds NoneType"),
    ("x.json", b"[1" + b"0" * 5000 + b"]", "is not JSON"),
    ("x.csv", b"text,label\na,k\nb\n", "line 3 has 1 fields where line 1 has 2"),
    ("x.csv", b'text,label\n"a\n\nb",k\n,k\n', "line 5 is blank"),
    ("x.csv", b"a,b\nc,d\n", "line 2 has no field 'text'.* from a, b"),
    ("x.csv", b'text\n"open\n', "line 2 is not csv"),
    ("x.csv", b"text\na\n\nb\n", "line 3 is blank"),
    ("x.csv", b"text,text\na,b\n", "names two columns alike"),
    ("x.parquet", b"PAR1", "damaged"),
    ("x.pkl", b"\x80\x04K\x01.", "pickle"),
    ("x.docx", b"PK", "no format"),
]


@pytest.mark.parametrize(("name", "content", "reason"), ERRORS)
def test_errors_name_the_file_and_the_line(tmp_path, name, content, reason):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=reason) as error:
        read_texts(tmp_path / name)
    assert str(tmp_path / name) in str(error.value)
    assert "\n" not in str(error.value)


def test_parquet_without_the_column_or_with_a_null(tmp_path):
    pq.write_table(pa.table({"body": ["a"]}), tmp_path / "x.parquet")
    with pytest.raises(InputError, match=r"row 0 has no field 'text'.* from body"):
        read_texts(tmp_path / "x.parquet")
    pq.write_table(pa.table({"text": ["a", None]}), tmp_path / "x.parquet")
    with pytest.raises(InputError, match="row 1 holds NoneType"):
        read_texts(tmp_path / "x.parquet")


def test_missing_file_and_budget(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        read_texts(tmp_path / "x.txt")
    (tmp_path / "x.txt").write_text("word " * 1000)
    with pytest.raises(MemoryBudgetError, match=r"x\.txt needs at least 19\.5 KiB"):
        read_texts(tmp_path / "x.txt", memory=10_000)
