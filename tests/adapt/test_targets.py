"""Which tensors names, patterns and types mean."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lowdim.adapt import find_targets
from lowdim.errors import InputError
from tests.adapt.sample import NAMES, Zoo


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.query, self.value = nn.Linear(4, 6), nn.Linear(4, 4)
        self.norm = nn.LayerNorm(4)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.ModuleList(Block() for _ in range(3))
        self.lm_head = nn.Linear(4, 9)


def names(found):
    return [target.name for target in found]


def test_ends_of_names_full_names_patterns_and_types():
    net = Net()
    queries = [f"layer.{i}.query.weight" for i in range(3)]
    assert names(find_targets(net, "query")) == queries
    assert names(find_targets(net, ["layer.1.query", "layer.2.value"])) == [
        "layer.1.query.weight",
        "layer.2.value.weight",
    ]
    assert names(find_targets(net, "layer.[0-1].query")) == queries[:2]
    assert names(find_targets(net, "*query")) == queries
    assert names(find_targets(net, nn.LayerNorm)) == [f"layer.{i}.norm.weight" for i in range(3)]


def test_each_is_found_once_in_the_order_of_the_model():
    net = Net()
    found = names(find_targets(net, ["value", "query", "*.query", nn.Linear]))
    assert len(found) == len(set(found)) == 7
    assert found == [n for n, p in net.named_parameters() if p.ndim == 2]


def test_linear_leaves_out_heads_and_all_is_all():
    net = Net()
    assert len(find_targets(net, "linear")) == 6
    every = find_targets(net, "all")
    assert names(every) == [name for name, _ in net.named_parameters()]
    assert {t.kind for t in every} == {"linear", "other"}


def test_kinds_and_shapes_of_each_layer():
    zoo = Zoo()
    found = {t.module_name: t for t in find_targets(zoo, list(NAMES))}
    assert {name: t.kind for name, t in found.items()} == NAMES
    assert found["c_fc"].transposed
    assert found["c_fc"].shape == (16, 12)
    assert zoo.c_fc.weight.shape == (12, 16)
    assert found["plane"].shape == (8, 12, 3, 3)
    assert found["emb"].shape == (24, 16)


def test_transformers_conv1d_is_linear():
    transformers = pytest.importorskip("transformers")
    layer = transformers.pytorch_utils.Conv1D(6, 4)
    (target,) = find_targets(nn.Sequential(layer), "0")
    assert (target.kind, target.shape) == ("linear", (6, 4))
    x = torch.randn(3, 4)
    torch.testing.assert_close(x @ target.weight.T + layer.bias, layer(x))


def test_a_module_with_two_names_goes_by_either():
    net = Net()
    net.same = net.layer[0]
    for name in ("same.query", "layer.0.query"):
        assert names(find_targets(net, name)) == ["layer.0.query.weight"]


def test_tied_tensors_are_found_under_each_name():
    net = Net()
    net.emb = nn.Embedding(9, 4)
    net.emb.weight = net.lm_head.weight
    assert {"lm_head.weight", "emb.weight"} <= set(names(find_targets(net, "all")))


def test_the_model_itself_can_be_the_target():
    (target,) = find_targets(nn.Linear(3, 2), nn.Linear)
    assert target.name == "weight"


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ("qeury", r"named 'qeury': did you mean query\?"),
        ("layer.1.quer", r"did you mean layer\.1\.query"),
        ("zzz", r"it has lm_head, query, value"),
        (nn.Conv2d, "of type Conv2d"),
        ("layer", "has no weight of its own"),
    ],
)
def test_what_is_not_there_is_said_with_what_is_near(wanted, said):
    with pytest.raises(InputError, match=said):
        find_targets(Net(), wanted)
