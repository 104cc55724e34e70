import copy

import pytest
import torch
from torch import nn

from lowdim import adapt
from lowdim.adapt.inputs import Sample
from lowdim.adapt.strata_adapter import StrataLoRA, fit_gates, given_shares
from lowdim.adapt.strata_gate import HELD, Gate
from lowdim.core.random import normal
from lowdim.core.strata import Strata
from lowdim.errors import InputError
from lowdim.structure.dictionary_pieces import DictionaryPieces
from lowdim.structure.k_subspaces import KSubspaces
from lowdim.structure.low_rank_mixture import LowRankMixture


def run(model, batch):
    return model(batch)


class Attention(nn.Module):
    """Query and key see one tensor, out another."""

    def __init__(self, width):
        super().__init__()
        self.query, self.key, self.out = (nn.Linear(width, width) for _ in range(3))

    def forward(self, x, attention_mask=None):
        return x + self.out(torch.tanh(self.query(x)) * self.key(x))


def model(width=12, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(Attention(width), Attention(width))


def planted(n, k=3, width=12, seed=0):
    """Points on k affine planes of dimension 2, and which they are on."""
    labels = torch.arange(n) % k
    bases = torch.linalg.qr(normal((k, width, 2), seed)).Q
    centers = 4 * normal((k, width), seed, 1)
    coordinates = normal((n, 2), seed, 2)
    points = centers[labels] + (bases[labels] @ coordinates[..., None])[..., 0]
    return points + 0.05 * normal((n, width), seed, 3), labels


def filled(network):
    """Put numbers where training would."""
    for i, (_, adapter) in enumerate(adapt.attached(network).pairs()):
        adapter.b.data = 0.3 * normal(adapter.b.shape, 9, i)
    return network


@pytest.fixture
def batch():
    points, _ = planted(60)
    return points.view(4, 15, 12)


@pytest.fixture
def fitted(batch):
    network = model()
    adapt.attach(network, StrataLoRA(rank=2, pieces=3), ["query", "key", "out"])
    fit_gates(network, run, [batch])
    return network


def test_start_is_the_base_and_the_count_is_k_lora(batch, fitted):
    assert torch.equal(fitted(batch), model()(batch))
    assert adapt.attached(fitted).n_trainable == 6 * 3 * 2 * 24
    assert StrataLoRA(2, 3).count([(12, 12)] * 6) == 6 * 3 * 2 * 24


def test_each_token_gets_the_update_of_its_stratum(batch, fitted):
    adapter = filled(fitted)[0].query.lowdim_adapter
    update, labels = adapter(batch), adapter.gate(batch).argmax(-1)
    assert len(labels.unique()) == 3
    for k in range(3):
        b, a = adapter.stratum(k)
        own = batch[labels == k] @ a.T @ b.T
        torch.testing.assert_close(update[labels == k], own, rtol=1e-5, atol=1e-6)
        # and nothing else trains it
        (grad,) = torch.autograd.grad(update[labels != k].sum(), adapter.b, retain_graph=True)
        assert not grad[:, 2 * k : 2 * k + 2].any()


def test_one_stratum_is_lora_bit_for_bit(batch):
    network = model()
    adapt.attach(network, StrataLoRA(rank=3, pieces=1), ["query"])
    adapter = filled(network)[0].query.lowdim_adapter
    x = batch.requires_grad_()
    ours, lora = adapter(x), nn.functional.linear(x @ adapter.a.T, adapter.b)
    assert torch.equal(ours, lora)
    for p in (adapter.a, adapter.b, x):
        assert torch.equal(
            *(torch.autograd.grad(y.square().sum(), p, retain_graph=True)[0] for y in (ours, lora))
        )


def test_one_stratum_gives_what_peft_gives(batch):
    peft = pytest.importorskip("peft")
    network = model()
    adapt.attach(network, StrataLoRA(rank=3, pieces=1), ["query"])
    adapter = filled(network)[0].query.lowdim_adapter
    config = peft.LoraConfig(r=3, lora_alpha=3, target_modules=["0.query", "1.query"])
    other = peft.get_peft_model(model(), config)
    for block, ours in zip(other.base_model.model, network, strict=True):
        block.query.lora_A["default"].weight.data = ours.query.lowdim_adapter.a.data
        block.query.lora_B["default"].weight.data = ours.query.lowdim_adapter.b.data
    torch.testing.assert_close(network(batch), other(batch))
    assert adapter.n_trainable == 3 * 24


@pytest.mark.parametrize("finder", [KSubspaces, LowRankMixture])
def test_scores_are_the_log_likelihoods_of_the_finder(finder, monkeypatch):
    fits = []
    fit = finder.fit
    monkeypatch.setattr(finder, "fit", lambda self, x: fits.append(fit(self, x)) or fits[-1])
    points, labels = planted(900)
    gate = Gate(12, 3, 0.0).double()
    strata = gate.fit(points, finder(1, n_restarts=3), directions=8)
    pairs = torch.stack([labels, strata.labels]).unique(dim=1)
    assert pairs.shape == (2, 3)  # a planted plane is a piece

    fresh = planted(300, seed=0)[0].double() + normal((300, 12), 5)
    z = nn.functional.linear(fresh, gate.project, gate.shift)
    scores, expected = gate.scores(fresh), fits[0].model_.deviance(z) / -2
    torch.testing.assert_close(scores - scores[:, :1], expected - expected[:, :1])
    assert torch.equal(gate(fresh).argmax(-1), fits[0].predict(z))
    single = Gate(12, 3, 0.0)
    single.copy(gate.float())
    assert torch.equal(single(points).argmax(-1), strata.labels)


def test_gate_of_a_finder_without_a_density_goes_by_distance():
    points, _ = planted(600)
    gate = Gate(12, 3, 0.0)
    strata = gate.fit(points, DictionaryPieces(3, n_atoms=2, sparsity=2), directions=12)
    z = nn.functional.linear(points, gate.project, gate.shift)
    assert torch.equal(gate(points).argmax(-1), strata.assign(z))


def test_gate_taken_from_strata_of_the_inputs():
    points, labels = planted(600)
    strata = Strata.of_labels(points, labels, rank=2)
    gate = Gate(12, 3, 0.0)
    gate.take(strata)
    assert torch.equal(gate(points).argmax(-1), strata.assign(points))
    squared = strata.squared_distances(points)
    gap = gate.scores(points) + squared / 2
    assert float((gap - gap[:, :1]).abs().max()) < 1e-3
    with pytest.raises(InputError, match="2 pieces of a space of 12"):
        gate.take(Strata.of_labels(points, labels.clamp_max(1), rank=2))


def test_points_as_pieces_are_nearest_centres():
    centers = normal((4, 6), 0)
    labels = torch.arange(4)
    gate = Gate(6, 4, 0.0)
    gate.take(Strata.of_labels(centers, labels, rank=0))
    x = normal((50, 6), 1)
    assert torch.equal(gate(x).argmax(-1), torch.cdist(x, centers).argmin(1))


def test_soft_gate_is_a_posterior_and_passes_gradients():
    points, _ = planted(300)
    gate = Gate(12, 3, 1.0).double()
    gate.fit(points, LowRankMixture(3, n_restarts=2, min_noise=0.1), directions=6)
    x = planted(6)[0].double().requires_grad_()
    torch.testing.assert_close(gate(x).sum(-1), torch.ones(6).double())
    assert torch.autograd.gradcheck(gate.shares, (x,), atol=1e-6)
    hard = Gate(12, 3, 0.0).double()
    hard.copy(gate)
    gate.temperature = 1e-9
    assert torch.equal(hard(x.detach()), gate(x.detach()).round())


def test_layers_that_see_one_tensor_gate_it_once(batch, fitted, monkeypatch):
    calls = []
    shares = Gate.shares
    monkeypatch.setattr(Gate, "shares", lambda self, x: calls.append(1) or shares(self, x))
    fitted(batch)
    assert len(calls) == 4  # query with key, and out, of two blocks
    fitted(batch)
    assert len(calls) == 4 + 3  # the first tensor is known already
    batch.mul_(2)  # a tensor that was changed is not
    fitted(batch)
    assert len(calls) == 7 + 4
    with torch.inference_mode():
        x = batch.clone()
        fitted(x)
    assert not hasattr(x, HELD)
    assert len(calls) == 11 + 6


def test_files_round_trip(batch, fitted, tmp_path):
    adapt.save(filled(fitted), tmp_path)
    other = model()
    record = adapt.load(other, tmp_path)
    assert torch.equal(other(batch), fitted(batch))
    assert record.n_trainable == adapt.attached(fitted).n_trainable
    assert torch.equal(copy.deepcopy(fitted)(batch), fitted(batch))
    assert torch.equal(adapt.detach(other)(batch), model()(batch))


def test_no_merge_and_no_export(fitted, tmp_path):
    with pytest.raises(InputError, match="depends on the input"):
        adapt.merge(fitted)
    with pytest.raises(InputError, match="depends on the input"):
        adapt.to_lora(fitted, tmp_path)
    adapter = fitted[0].query.lowdim_adapter
    for ask in (adapter.delta, lambda: adapter.rows(torch.zeros(1))):
        with pytest.raises(InputError):
            ask()


def test_given_shares_go_round_the_gates(batch, fitted):
    adapter = filled(fitted)[0].query.lowdim_adapter
    shares = torch.eye(3)[torch.tensor([0, 2, 1, 1])]
    with given_shares(fitted, shares):
        update = adapter(batch)
        with pytest.raises(InputError, match="4 items were given for a batch of 2"):
            adapter(batch[:2])
    for text, k in enumerate([0, 2, 1, 1]):
        b, a = adapter.stratum(k)
        torch.testing.assert_close(update[text], batch[text] @ a.T @ b.T)
    assert not torch.equal(adapter(batch), update)


def test_strata_tell_apart_what_no_linear_map_can():
    # two parallel planes whose inputs have to turn opposite ways
    x = normal((400, 6), 0)
    side = (torch.arange(400) % 2)[:, None]
    x[:, 5] = 6.0 * side[:, 0]
    wanted = torch.where(side == 1, x[:, :2], -x[:, :2])
    errors = {}
    for k in (2, 1):  # rank 2, the largest
        network = nn.Sequential(nn.Linear(6, 2, bias=False))
        network[0].weight.data.zero_()
        adapt.attach(network, StrataLoRA(2, k), ["0"])
        if k > 1:
            fit_gates(network, run, [x], finder=KSubspaces(1, ranks=2))
        optimizer = torch.optim.Adam(adapt.attached(network).adapter_parameters(), 0.05)
        for _ in range(150):
            optimizer.zero_grad()
            loss = (network(x) - wanted).square().mean()
            loss.backward()
            optimizer.step()
        errors[k] = float(loss.detach())
    best = torch.linalg.lstsq(x, wanted).solution
    assert errors[2] < 0.02
    assert errors[1] > 0.9 * float((x @ best - wanted).square().mean()) > 0.5


def test_gates_are_fitted_to_the_base_without_padding():
    x = planted(60)[0].view(4, 15, 12)
    mask = (torch.arange(15) < 10).expand(4, 15).long()
    wild = torch.where(mask[..., None] == 1, x, 1e6)
    gates = []

    def masked(network, x):
        network(x, attention_mask=mask)

    for inputs in (x, wild):
        network = model()[0]
        adapt.attach(network, StrataLoRA(2, 3), ["query", "out"])
        filled(network)  # what the adapters do already changes nothing
        found = fit_gates(network, masked, [inputs])
        assert len(found["out.weight"].weights) == 40
        gates.append(network.out.lowdim_adapter.gate)
    assert gates[0].digest() == gates[1].digest()
    network = model()
    adapt.attach(network, StrataLoRA(2, 3), ["query"])
    with pytest.raises(InputError, match=r"no batch reaches 1\.query\.weight"):
        fit_gates(network, lambda m, b: m[0](b), [x])


def test_bad_input(batch):
    network = model()
    with pytest.raises(InputError, match="no adapters"):
        fit_gates(network, run, [batch])
    adapt.attach(network, adapt.SVFit(2), ["query"])
    with pytest.raises(InputError, match="attach StrataLoRA first"):
        fit_gates(network, run, [batch])
    for wrong in (StrataLoRA(rank=13), StrataLoRA(0), StrataLoRA(2, 0), StrataLoRA(2, 2, -1.0)):
        with pytest.raises(InputError):
            adapt.attach(model(), wrong, ["query"])
    other = nn.Sequential(nn.modules.linear.NonDynamicallyQuantizableLinear(4, 4))
    with pytest.raises(InputError, match="0 is a NonDynamicallyQuantizableLinear"):
        adapt.attach(other, StrataLoRA(), ["0"])
    network = model()
    adapt.attach(network, StrataLoRA(2, 3), ["query"])
    with pytest.raises(InputError, match="fit_gates"):
        network(batch)
    with pytest.raises(InputError, match="no batches"):
        fit_gates(network, run, [])
    with pytest.raises(InputError, match="n_pieces=3 for 2 points"):
        fit_gates(network, run, [batch[:1, :2]])
    with pytest.raises(InputError, match="nan"):
        fit_gates(network, run, [batch * torch.nan])
    fit_gates(network, run, [batch])
    assert torch.equal(network(batch), model()(batch))


def test_sample_is_uniform_and_does_not_depend_on_the_cuts():
    rows = torch.arange(1000.0)[:, None]
    found = []
    for cut in (1000, 7):
        sample = Sample(200, 3)
        for part in rows.split(cut):
            sample.take(part)
        found.append(sample.rows)
    assert torch.equal(*found)
    kept = found[0][:, 0]
    assert len(kept.unique()) == 200
    # mean of 200 of 1000 without replacement: standard error 18
    assert abs(float(kept.mean()) - 499.5) < 4 * 18.3


def test_compiled_gives_the_same(batch, fitted):
    compiled = torch.compile(filled(fitted), backend="eager")
    for x in (batch, 2 * batch):
        torch.testing.assert_close(compiled(x), fitted(x))
