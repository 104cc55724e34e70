"""Planted ranks, the product of weights and masks, forward = reverse, and sketches from below."""

import pytest
import torch
from torch import nn

from lowdim.errors import InputError, MemoryBudgetError
from lowdim.geometry import local_rank, local_rank_of, token_function
from tests.geometry.networks import inputs, mlp


@pytest.mark.parametrize("r", [1, 3, 5])
def test_deep_linear_network_has_its_planted_rank(r):
    g = torch.Generator().manual_seed(r)
    net = mlp(10, 12, 9, 4, activation=nn.Identity)
    with torch.no_grad():
        left, right = torch.randn(9, r, generator=g), torch.randn(r, 12, generator=g)
        net[2].weight.copy_(left @ right)
    found = local_rank(net, inputs(5, 10))
    assert found.ranks == (10, r, min(r, 4))
    assert found.bounds == (10, 9, 4)


def test_equals_the_product_of_weights_and_masks():
    net, x = mlp(6, 9, 7, 5, seed=1), inputs(30, 6)
    found = local_rank(net, x, eps=1e-8)
    for i, row in enumerate(x):
        jacobian, h = torch.eye(6).double(), row
        for layer, part in enumerate(p for p in net if isinstance(p, nn.Linear)):
            jacobian, h = part.weight @ jacobian, part(h)
            rank = int(torch.linalg.matrix_rank(jacobian, rtol=1e-8))
            assert found.per_input[layer, i] == rank
            jacobian, h = (h > 0)[:, None] * jacobian, h.relu()
    assert all(a >= b for a, b in zip(found.ranks, found.ranks[1:], strict=False))
    assert found.value == min(found.ranks)


def test_rank_is_bounded_by_every_layer_before():
    found = local_rank(mlp(12, 4, 20, 20, seed=2), inputs(20, 12))
    assert all(rank <= 4 for rank in found.ranks)
    assert (found.per_input[1] <= found.per_input[0]).all()


def test_wide_inputs_take_the_reverse_side():
    narrow, x = mlp(40, 3, 5), inputs(10, 40)  # 8 outputs in all: 8 pulls, not 40 pushes
    padded = nn.Sequential(narrow, nn.Linear(5, 50, dtype=torch.float64))  # 58 outputs: 40 pushes
    forward = local_rank(padded, x, eps=1e-9)
    assert local_rank(narrow, x, eps=1e-9).ranks == forward.ranks[:2]


def test_images_and_normalisation():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(32, 3)
    )
    found = local_rank(net, inputs(4, 1, 6, 6, dtype=torch.float32))
    assert found.layers == ("0", "4")
    assert found.bounds == (32, 3)
    assert net.training
    assert net[1].num_batches_tracked == 0


def test_sketch_never_counts_more():
    net, x = mlp(20, 16, 16, seed=3), inputs(25, 20)
    exact = local_rank(net, x, eps=0.05)
    for k in (4, 10, 20):
        sketch = local_rank(net, x, eps=0.05, sketch=k)
        assert (sketch.per_input <= exact.per_input).all()
        assert (sketch.per_input <= k).all()
        assert sketch.notes[0].startswith(f"at least: {k} of 20")
    assert (sketch.per_input == exact.per_input).all()
    absolute = [local_rank(net, x, eps=0.3, relative=False, sketch=k) for k in (10, 20)]
    assert (absolute[0].per_input <= absolute[1].per_input).all()


def test_scale_moves_an_absolute_threshold_only():
    net, x = mlp(8, 8, 8), inputs(10, 8)
    larger = nn.Sequential(*net, nn.Linear(8, 8, bias=False, dtype=torch.float64))
    with torch.no_grad():
        larger[-1].weight.copy_(100 * torch.eye(8))
    relative = local_rank(larger, x, eps=0.05)
    assert relative.ranks[-1] == relative.ranks[-2]
    absolute = local_rank(larger, x, eps=0.5, relative=False)
    assert absolute.ranks[-1] > absolute.ranks[-2]


def test_a_dead_layer_has_rank_zero():
    net = mlp(5, 4, 3)
    with torch.no_grad():
        net[0].bias.fill_(-1e3)
    assert local_rank(net, inputs(6, 5)).ranks == (4, 0)


def test_functions_and_half_precision():
    x = inputs(6, 4)
    flat = local_rank_of(lambda rows: {"sum": rows.sum(1, keepdim=True), "same": rows}, x)
    assert dict(zip(flat.layers, flat.ranks, strict=True)) == {"sum": 1, "same": 4}
    half = mlp(4, 4, dtype=torch.float16)
    assert local_rank(half, x).value == 4
    assert half[0].weight.dtype == torch.float16


@pytest.mark.parametrize("name", ["LlamaForCausalLM", "GPT2LMHeadModel"])
def test_hidden_states_of_one_token(tiny_folder, name):
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_folder(name)).double()
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    function, x = token_function(model, ids, position=3)
    states = model(ids, output_hidden_states=True).hidden_states
    for layer, h in function(x).items():
        assert torch.allclose(h[0], states[int(layer)][0, 3], atol=1e-10)
    exact = local_rank_of(function, x, eps=0.1)
    assert exact.layers == ("1", "2")
    assert all(4 < rank <= 32 for rank in exact.ranks)
    sketch = local_rank_of(function, x, eps=0.1, sketch=8)
    assert all(a <= b for a, b in zip(sketch.ranks, exact.ranks, strict=True))


def test_torch_transformer_layers_by_name():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    found = local_rank(layer, inputs(2, 3, 8, dtype=torch.float32), layers=["linear1", "norm2"])
    assert found.layers == ("linear1", "norm2")
    assert found.ranks[1] <= 3 * 7  # layer norm takes one direction of each token


def test_bad_input():
    net = mlp(4, 3)
    with pytest.raises(InputError, match="no layer 'x'"):
        local_rank(net, inputs(2, 4), layers=["x"])
    with pytest.raises(InputError, match="float32 resolves"):
        local_rank(mlp(4, 3, dtype=torch.float32), inputs(2, 4), eps=1e-9)
    with pytest.raises(InputError, match="sketch=9"):
        local_rank(net, inputs(2, 4), sketch=9)
    with pytest.raises(InputError, match="no layer with a weight"):
        local_rank(nn.ReLU(), inputs(2, 4))
    with pytest.raises(MemoryBudgetError, match="local_rank"):
        local_rank(net, inputs(2, 4), memory=10)
    assert not any(m._forward_hooks for m in net.modules())
