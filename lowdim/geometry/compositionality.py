"""Texts of known freedom: a grammar whose slots can be tied together, and its controls.

Lee et al. 2025: sentences of one template, each slot filled from its own small vocabulary. Tying k
neighbouring slots, so that one draw fills them all, leaves a k-th of the choices and changes
neither words nor length. Shuffling the words of each sentence keeps the words and takes the
meaning. Their claim: nonlinear dimension follows the choices, linear dimension the size of the
text when it is compressed. The template and the words here are our own.
"""

from __future__ import annotations

import gzip
from collections.abc import Sequence

import torch

from lowdim.core.random import choice, integers, permutation
from lowdim.errors import InputError

TEMPLATE = "The {} {} {} {} the {} {} {} {} and then {} the {} {} {}."
SLOTS = tuple(
    words.split()
    for words in (
        "kind brave clever honest gentle proud quiet lazy cheerful stubborn",
        "Spanish Kenyan Danish Chinese Peruvian Turkish Irish Korean Greek Canadian",
        "doctor farmer teacher sailor baker lawyer painter driver singer builder",
        "feeds chases paints finds washes carries follows photographs frightens admires",
        "tiny small large huge narrow tall short long wide giant",
        "smooth rough soft fluffy scaly wet dry sticky dusty shiny",
        "red blue green yellow black white brown grey orange purple",
        "dog cat horse rabbit lion snake goat camel parrot turtle",
        "repairs sells borrows hides opens buys breaks polishes steals moves",
        "old new ancient modern antique recent broken sturdy cheap precious",
        "wooden iron golden glass paper leather plastic silver stone copper",
        "chair lamp clock table mirror bottle door wheel basket drum",
    )
)
DISTINCT = 9  # slots that one draw without replacement can number: 10^9 is below 2^31


def coupled_grammar(k: int, n: int = 1_000, *, seed: int = 0) -> list[str]:
    """``n`` different sentences in which each ``k`` neighbouring slots are one choice of ten.

    Parameters
    ----------
    k : int
        1, 2, 3, 4, 6 or 12: it divides the 12 slots, so a sentence holds 12/k free choices.
    n : int
        How many; at most 10^(12/k).
    """
    if k < 1 or len(SLOTS) % k:
        raise InputError(f"k={k}: choose a divisor of {len(SLOTS)}, the number of slots")
    groups, base = len(SLOTS) // k, len(SLOTS[0])
    if not 1 <= n <= base**groups:
        raise InputError(f"n={n}: with k={k} there are {base**groups:,} different sentences")
    first = min(groups, DISTINCT)
    number = choice(base**first, n, seed=seed)  # different numbers: different sentences
    digits = torch.stack([number // base**i % base for i in range(first)], 1)  # (n, first)
    rest = integers((n, groups - first), base, seed) if groups > first else digits[:, :0]
    drawn = torch.cat([digits, rest], 1).repeat_interleave(k, 1)  # (n, 12)
    return [
        TEMPLATE.format(*(words[i] for words, i in zip(SLOTS, row, strict=True)))
        for row in drawn.tolist()
    ]


def shuffled_words(texts: Sequence[str], *, seed: int = 0) -> list[str]:
    """Put the words of each text in random order: the same words, no syntax."""
    found = []
    for i, text in enumerate(texts):
        words = text.split()
        found.append(" ".join(words[j] for j in permutation(len(words), seed, i).tolist()))
    return found


def gzip_complexity(texts: Sequence[str]) -> float:
    """How many bits does a letter of these texts cost when they are compressed together?

    gzip at its best level on the texts joined by line breaks, over their characters: an upper
    bound on how regular their surface is. It sees repetition within 32 KiB only.
    """
    joined = "\n".join(texts)
    if not joined:
        raise InputError("there is no text to compress: give at least one that is not empty")
    size = len(gzip.compress(joined.encode("utf-8", "surrogatepass"), 9, mtime=0))
    return 8 * size / len(joined)
