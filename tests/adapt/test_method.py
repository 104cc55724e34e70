"""Methods by name and options, their size within a budget, and their random numbers."""

from __future__ import annotations

import pytest
import torch

from lowdim import adapt
from lowdim.adapt import Draws, adaptation_methods, at_budget, make_method
from lowdim.adapt.method import check_size
from lowdim.errors import InputError

SHAPES = [(12, 16), (16, 12), (24, 16)]


@pytest.mark.parametrize("name", sorted(adaptation_methods()))
def test_docs_and_defaults(name):
    kind = adaptation_methods()[name]
    question, notes = kind.__doc__.split("\n")[0], kind.__doc__.partition("Notes\n")[2]
    assert question.endswith("?")
    assert "Trust it" in notes
    made = kind()
    assert made.id == name
    assert kind.size in made.options()
    assert make_method(name, made.options()) == made


@pytest.mark.parametrize("name", sorted(set(adaptation_methods()) - {"atlas", "textual-subspace"}))
def test_a_budget_is_used_and_never_passed(name):
    method = adaptation_methods()[name]()
    for budget in (100, 333, 480):
        if method.resized(1).count(SHAPES) > budget:
            with pytest.raises(InputError, match="at its smallest size"):
                at_budget(method, SHAPES, budget)
            continue
        found = at_budget(method, SHAPES, budget)
        count = found.count(SHAPES)
        assert count <= budget
        size = getattr(found, found.size)
        above = found.resized(size + 1).count(SHAPES)
        assert above > budget or above == count
        assert size == 1 or found.resized(size - 1).count(SHAPES) < count


def test_a_size_that_trains_nothing_more_is_not_taken():
    assert at_budget(adapt.SVFit(), SHAPES, 10**6).rank == 16  # the largest smaller side


def test_a_budget_below_the_smallest_size_says_what_that_trains():
    with pytest.raises(InputError, match="svfit trains 3 numbers on these 3 tensors"):
        at_budget(adapt.SVFit(), SHAPES, 2)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("svfti", {}, r"did you mean svfit\?"),
        ("zzzz", {}, r"there are .*lora-ga.*svfit"),
        ("svfit", {"rnak": 3}, "no option 'rnak': it has rank"),
        ("svfit", {"rank": "3"}, "rank='3' is no int"),
        ("svfit", {"rank": True}, "rank=True is no int"),
        ("svfit", {"rank": 2.0}, "rank=2.0 is no int"),
        ("lora-ga", {"alpha": "x"}, "alpha='x' is no float"),
    ],
)
def test_names_and_options_that_are_not_there(name, options, said):
    with pytest.raises(InputError, match=said):
        make_method(name, options)


def test_a_whole_number_is_a_float_and_a_list_is_a_tuple():
    assert make_method("lora-ga", {"alpha": 8}).alpha == 8
    assert make_method("lsr", {"splits": [[2, 3]]}) == adapt.LSR(splits=((2, 3),))


def test_an_unregistered_method_says_how_to_register():
    class Mine(adapt.SVFit):
        """Mine?"""

    with pytest.raises(InputError, match="Mine is not registered"):
        _ = Mine().id


def test_draws_depend_on_seed_tensor_and_part_alone():
    first = Draws(3, "layer.weight")
    x = first.normal("a", (50, 40))
    assert torch.equal(x, Draws(3, "layer.weight").normal("a", (50, 40)))
    for other in (Draws(4, "layer.weight"), Draws(3, "layer.bias")):
        assert not torch.equal(x, other.normal("a", (50, 40)))
    assert not torch.equal(x, first.normal("b", (50, 40)))
    assert torch.equal(first.normal("a", (50, 40), std=0.5), x * 0.5)
    assert abs(float(x.std()) - 1) < 0.05
    u = first.uniform("a", (2000,), bound=0.25)
    assert u.dtype == torch.float32
    assert float(u.abs().max()) <= 0.25
    assert abs(float(u.var()) - 0.25**2 / 3) < 0.002


def test_sizes():
    check_size("rank", 3, 3)
    for bad in (0, -1, 2.0, True, "2"):
        with pytest.raises(InputError, match=r"rank=.*whole number"):
            check_size("rank", bad)
    with pytest.raises(InputError, match="rank=4: at most 3"):
        check_size("rank", 4, 3)
