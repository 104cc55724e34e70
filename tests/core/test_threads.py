"""Work on threads: one core each, nested or not, and nothing left behind."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest
import torch

from lowdim.core.blocked import on_threads

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)


def test_an_item_has_one_core_and_does_not_wait_for_threads_of_its_own():
    def inner(i):
        return i, torch.get_num_threads()

    def outer(i):
        return list(on_threads(inner, range(3), CPU))

    for _ in range(2):
        found = list(on_threads(outer, range(4), CPU))
        assert found == [[(i, 1) for i in range(3)]] * 4


def test_threads_are_kept():
    def names():
        return set(on_threads(lambda _: threading.current_thread().name, range(64), CPU))

    assert len(names() | names()) <= 2


def test_one_item_stays_where_it_is():
    found = list(on_threads(lambda _: threading.current_thread(), [0], CPU))
    assert found == [threading.current_thread()]


def test_an_error_comes_out_when_the_others_have_ended():
    done = []

    def work(i):
        if i == 1:
            raise ValueError("1")
        done.append(i)

    with pytest.raises(ValueError, match="1"):
        list(on_threads(work, range(100), CPU))
    ended = len(done)
    assert sum(on_threads(int, range(4), CPU)) == 6
    assert len(done) == ended


def test_a_user_who_stops_asking_leaves_nothing_running():
    running = []

    def work(i):
        running.append(i)
        return i

    for _ in on_threads(work, range(1000), CPU):
        break
    ended = len(running)
    assert sum(on_threads(int, range(4), CPU)) == 6
    assert len(running) == ended


FORKED = """
import os, torch
from lowdim.core.blocked import on_threads
torch.set_num_threads(2)
total = lambda: sum(on_threads(int, range(4), torch.device("cpu")))
assert total() == 6
child = os.fork()
if child == 0:
    os._exit(total())
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 6
"""


def test_a_forked_child_has_threads_of_its_own():
    subprocess.run([sys.executable, "-c", FORKED], check=True, timeout=120)
