from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowdim.core import memory
from lowdim.core.memory import budget, format_bytes, plan
from lowdim.errors import InputError, MemoryBudgetError


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("2GiB", 2 * 2**30), ("800MB", 800e6), ("1.5g", 1.5e9), ("64 KiB", 65536), ("512", 512),
        ("1tb", 1e12), ("3 mib ", 3 * 2**20), (".5k", 500), (1000, 1000), (2.5e3, 2500),
        ("100B", 100),
    ],
)  # fmt: skip
def test_budget_reads(text, count):
    assert budget(text) == count


@pytest.mark.parametrize(
    "text", ["", "GiB", "5i", "-1GB", "1 zb", "two", "1e9x", 0, -5, "0", "nan"]
)
def test_budget_refuses(text):
    with pytest.raises(InputError, match="memory="):
        budget(text)


def test_default_budget_is_a_quarter_of_what_is_free():
    assert 2**26 <= budget() <= psutil.virtual_memory().total // 4


def test_container_limit_is_honoured(monkeypatch):
    files = {"memory.max": str(8 * 2**30), "memory.current": str(6 * 2**30)}
    monkeypatch.setattr(Path, "read_text", lambda path: files[path.name])
    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: Free(64 * 2**30))
    assert budget() == 2**30 // 2
    files["memory.max"] = "max"
    assert budget() == 16 * 2**30
    files["memory.max"] = "0"  # already over: a little is still tried
    assert budget() == 2**26


class Free:
    def __init__(self, available: int) -> None:
        self.available = available


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (2**20, "1.0 MiB"), (3 * 2**30, "3.0 GiB"),
        (2**42, "4.0 TiB"),
    ],
)  # fmt: skip
def test_format_bytes(count, text):
    assert format_bytes(count) == text


@given(
    rows=st.integers(1, 10**9), per_row=st.integers(1, 10**7), fixed=st.integers(0, 10**9),
    available=st.integers(1, 10**10),
)  # fmt: skip
def test_plan_never_exceeds_the_budget(rows, per_row, fixed, available):
    try:
        block = plan("it", rows=rows, bytes_per_row=per_row, fixed=fixed, memory=available)
    except MemoryBudgetError:
        assert fixed + per_row > available
    else:
        assert 1 <= block <= rows
        assert fixed + block * per_row <= available
        assert block == rows or fixed + (block + 1) * per_row > available  # and wastes none


def test_plan_largest_and_message():
    assert plan("it", rows=100, bytes_per_row=1, memory=10**6, largest=7) == 7
    with pytest.raises(
        MemoryBudgetError, match=r"a search needs at least 1\.5 KiB and may use 1\.0"
    ):
        plan("a search", rows=5, bytes_per_row=512, fixed=1024, memory=1024)
