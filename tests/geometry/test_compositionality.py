"""How many sentences a coupling leaves, that its slots move together, and what gzip sees."""

import pytest

from lowdim.errors import InputError
from lowdim.geometry import coupled_grammar, gzip_complexity, shuffled_words
from lowdim.geometry.compositionality import SLOTS


def indices(sentence):
    """Which of its ten words each slot shows."""
    words = sentence.replace(".", "").split()
    found, place = [], 0
    for slot in SLOTS:
        while words[place] not in slot:
            place += 1
        found.append(slot.index(words[place]))
        place += 1
    return found


@pytest.mark.parametrize("k", [1, 2, 3, 4, 6])
def test_coupled_slots_move_together_and_all_sentences_differ(k):
    sentences = coupled_grammar(k, 100)
    assert len(set(sentences)) == 100
    rows = [indices(s) for s in sentences]
    for row in rows:
        assert all(len(set(row[i : i + k])) == 1 for i in range(0, 12, k))
    free = [[row[i] for i in range(0, 12, k)] for row in rows]
    assert all(len({row[i] for row in free}) > 5 for i in range(12 // k))  # none is stuck


def test_a_coupling_leaves_so_many_and_no_more():
    assert len(set(coupled_grammar(6, 100))) == 100
    with pytest.raises(InputError, match="there are 100 different"):
        coupled_grammar(6, 101)
    with pytest.raises(InputError, match="divisor of 12"):
        coupled_grammar(5)
    assert coupled_grammar(1, 5, seed=1) != coupled_grammar(1, 5, seed=2)
    assert coupled_grammar(1, 5) == coupled_grammar(1, 5)


def test_shuffling_keeps_the_words():
    texts = coupled_grammar(2, 20)
    for text, shuffled in zip(texts, shuffled_words(texts), strict=True):
        assert sorted(shuffled.split()) == sorted(text.split())
        assert shuffled != text


def test_gzip_sees_coupling_and_repetition():
    sizes = [gzip_complexity(coupled_grammar(k, 400)) for k in (1, 2, 3, 4)]
    assert sizes == sorted(sizes, reverse=True)
    assert gzip_complexity(["same line"] * 1000) < 0.2
    with pytest.raises(InputError):
        gzip_complexity([])
