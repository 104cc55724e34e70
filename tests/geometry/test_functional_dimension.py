"""Known dimensions of small networks, and what must and must not change them."""

import copy

import pytest
import torch
from torch import nn

from lowdim.errors import InputError, MemoryBudgetError
from lowdim.geometry import functional_dimension
from lowdim.geometry.functional_dimension import wide_inputs
from tests.geometry.networks import inputs, mlp


@pytest.mark.parametrize("seed", range(8))
def test_one_hidden_layer_reaches_the_bound(seed):
    found = functional_dimension(mlp(2, 4, 1, seed=seed))
    assert (found.value, found.parameters, found.bound, found.deficiency) == (13, 17, 13, 0)
    assert found.gap > 1e6


def test_a_dead_neuron_costs_its_parameters():
    net = mlp(2, 4, 1)
    with torch.no_grad():
        net[0].weight[1] = 0
        net[0].bias[1] = -1
    # of its 4 parameters 3 count in a live network; a dead one's move nothing near here
    assert functional_dimension(net).deficiency == 3


def test_an_always_on_neuron_is_a_hidden_symmetry():
    """On inputs where two neurons are always on they are one linear map: dimensions go missing."""
    net = mlp(2, 4, 1)
    with torch.no_grad():
        net[0].bias[:2] = 1e3
    inside = functional_dimension(net, inputs(4000, 2))
    assert inside.value < functional_dimension(net, 1e4 * inputs(4000, 2)).value


def test_rescaling_a_neuron_changes_nothing():
    net = mlp(2, 4, 4, 1, seed=1)
    scaled = copy.deepcopy(net)
    with torch.no_grad():
        scaled[0].weight[2] *= 7
        scaled[0].bias[2] *= 7
        scaled[2].weight[:, 2] /= 7
    x = wide_inputs(net, 2000)
    assert torch.allclose(net(x), scaled(x))
    assert functional_dimension(scaled, x).value == functional_dimension(net, x).value


def test_more_inputs_never_lower_it_and_blocks_do_not_matter():
    net = mlp(2, 4, 4, 1, seed=2)
    x = wide_inputs(net, 2000)
    values = [functional_dimension(net, x[:m]).value for m in (5, 20, 100, 500, 2000)]
    assert values == sorted(values)
    assert values[0] == 5
    assert functional_dimension(net, x, memory="300KiB").value == values[-1]


def test_deeper_networks_stay_within_the_bound():
    found = [functional_dimension(mlp(2, 4, 4, 1, seed=s)) for s in range(8)]
    assert all(f.value <= f.bound == 29 for f in found)
    assert any(f.value == 29 for f in found)
    assert any(f.deficiency > 0 for f in found)


def test_a_linear_network_has_the_dimension_of_its_matrices():
    """Rank-2 maps of 5 to 4 inputs, factored: r (m + n - r)."""
    net = mlp(5, 2, 4, activation=nn.Identity, bias=False)
    assert functional_dimension(net).value == 2 * (5 + 4 - 2)


def test_convolution_and_unknown_modules():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(12, 1)).double()
    found = functional_dimension(net, 3 * inputs(800, 1, 3, 3))
    assert found.bound == found.parameters - 3
    assert found.value <= found.bound
    tanh = functional_dimension(mlp(2, 3, 1, activation=nn.Tanh))
    assert tanh.bound == tanh.value == 13  # no scaling symmetry: every parameter counts
    assert "give hidden=" in tanh.notes[-1]


def test_few_inputs_and_bad_input():
    net = mlp(2, 4, 1)
    assert (
        "3 inputs give 3 gradients for 17 parameters"
        in functional_dimension(net, inputs(3, 2)).notes
    )
    with pytest.raises(InputError, match="no parameters"):
        functional_dimension(nn.ReLU(), inputs(3, 2))
    with pytest.raises(InputError, match="begins with Conv2d"):
        functional_dimension(nn.Sequential(nn.Conv2d(1, 1, 1)))
    with pytest.raises(MemoryBudgetError, match="functional_dimension"):
        functional_dimension(net, memory="5KiB")
