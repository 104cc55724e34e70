"""Tasks of the benchmarks: what is trained on is never held out."""

from __future__ import annotations

from collections import Counter

import pytest

from benchmarks import inputs_tasks
from benchmarks.inputs import Unavailable
from benchmarks.inputs_tasks import _split, _texts


def test_doubles_go_and_so_does_what_is_labelled_in_two_ways():
    items = [("One.", "a"), ("one !", "a"), ("two", "a"), ("Two", "b"), ("three", "b")]
    split = _split("few", items, 1)
    kept = {_texts(item) for item in split.train + split.held_out}
    assert kept == {("one",), ("three",)}
    assert split.dropped == 3


def test_pairs_share_no_sentence_across_the_parts():
    items = [(f"s{i}", f"s{i + 1}", "ab"[i % 2]) for i in range(50)]
    split = _split("chain", items, 20)
    train = {text for item in split.train for text in _texts(item)}
    assert len(split.train) == 20
    assert split.held_out
    assert not train & {text for item in split.held_out for text in _texts(item)}
    assert len(split.held_out) + 20 + split.dropped == 50


def test_plain_texts_have_no_labels():
    split = _split("plain", [("x y",), ("X-Y",), ("z",)], 1)
    assert split.dropped == 1
    assert str(split) == "plain: train 1; held out 1; dropped 1"


@pytest.mark.slow
def test_real_tasks_have_the_counts_that_they_state():
    try:
        splits = [inputs_tasks.sst2(), inputs_tasks.mrpc(), inputs_tasks.rte()]
        splits.append(inputs_tasks.rotten_tomatoes())
    except Unavailable as error:
        pytest.skip(str(error))
    sizes = [len(split.train) + len(split.held_out) + split.dropped for split in splits]
    assert sizes == [872, 408, 277, 8002]
    for split in splits:
        shares = Counter(item[-1] for item in split.train)
        assert set(shares) == {"0", "1"}
        train = {text for item in split.train for text in _texts(item)}
        assert not train & {text for item in split.held_out for text in _texts(item)}
