"""The contrastive form, and the three faults of its published code: each shown beside ours."""

import numpy as np
import pytest
import torch

from lowdim.datasets import strata
from lowdim.structure.experts import contrast, group_ids, squared_errors
from lowdim.structure.moe_contrastive import ContrastiveMoE


@pytest.fixture(scope="module")
def fitted():
    truth = strata(600, seed=2, noise=0.1, separation=2.0, dtype=torch.float32)
    model = ContrastiveMoE(4, epochs=8, batch_size=100).fit(truth.points, truth.labels)
    return truth, model


def faulty_loss(net, x, groups, sparsity, threshold):
    """As published: the gate picks an index, the head sees that code, nothing is rebuilt."""
    gates, codes = net.gate(x).exp(), net.experts(x)
    sizes = torch.tensor(sparsity).expand(len(x), -1).float()
    eligible = gates >= threshold * gates.amax(1, keepdim=True)
    index = torch.where(eligible, sizes, torch.inf).argmin(1)
    return contrast(net.head(codes[index, torch.arange(len(x))]), groups)


def without_gradient(net, loss):
    net.zero_grad()
    loss.backward()
    return {name for name, p in net.named_parameters() if p.grad is None or not bool(p.grad.any())}


def test_gate_and_dictionaries_learn_and_in_the_faulty_form_they_do_not(fitted):
    truth, model = fitted
    net, x, y = model._network, model._reduced(truth.points[:200]), truth.labels[:200]
    assert without_gradient(net, model._loss(net, x, y)[0]) == set()
    silent = without_gradient(net, faulty_loss(net, x, y, model.sparsity_, model.threshold))
    assert silent == {"gate.keys", "gate.weight", "gate.bias", "experts.atoms"}


def test_one_expert_a_point(fitted):
    truth, model = fitted
    gates = model.gates(truth.points)
    assert set(gates.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(gates.sum(1), torch.ones(600))
    soft = model.attention(truth.points)
    kept = soft >= 0.9 * soft.amax(1, keepdim=True)
    sparsity = torch.tensor(model.sparsity_)
    least = torch.where(kept, sparsity, 99).amin(1)
    assert torch.equal(sparsity[gates.argmax(1)], least)
    errors = squared_errors(
        model._reduced(truth.points), model._codes(model._reduced(truth.points)),
        model.dictionaries_,
    )  # fmt: skip
    chosen = errors.gather(1, gates.argmax(1)[:, None]).mean() * model.scale_**2
    lost = truth.points - model.chart_.reconstruct(model.chart_.project(truth.points))
    assert -model.score(truth.points) == pytest.approx(
        float(chosen + lost.square().sum(1).mean()), rel=1e-3
    )


def test_groups_come_out_apart(fitted):
    truth, model = fitted
    blind = ContrastiveMoE(4, contrastive=1e-9, epochs=8, batch_size=100)
    blind.fit(truth.points, truth.labels)

    def spread(found):
        x = found._reduced(truth.points)
        codes = (found.gates(truth.points).T[..., None] * found._codes(x)).sum(0)
        with torch.no_grad():
            return float(contrast(found._network.head(codes), truth.labels))

    assert spread(model) < 0.5 * spread(blind)


def test_labels_of_two_corpora_do_not_collide():
    """Pairs and joined ids give one model; the labels alone, as published, another."""
    truth = strata(300, (2, 3, 4, 5), 12, seed=3, noise=0.1, separation=3.0)
    labels, corpora = truth.labels % 2, truth.labels // 2
    options = {"epochs": 2, "batch_size": 60}
    pairs = ContrastiveMoE(4, **options).fit(truth.points, torch.stack([corpora, labels], 1))
    joined = ContrastiveMoE(4, **options).fit(truth.points, group_ids(labels, corpora))
    faulty = ContrastiveMoE(4, **options).fit(truth.points, labels)
    assert pairs.history_ == joined.history_
    assert faulty.history_ != joined.history_


def test_padding_does_not_leak_into_means(tiny_folder):
    """Texts of one batch are padded to its longest: a mean over all positions tells the batch."""
    from lowdim.io.activations import hidden_states
    from lowdim.io.models import load_model
    from tests.conftest import SENTENCES

    model = load_model(tiny_folder("BertModel"))
    short = sorted(SENTENCES, key=len)[:2]
    longest = max(SENTENCES, key=len)

    def faulty(texts):
        model.tokenizer.padding_side = "right"
        batch = model.tokenizer(texts, padding=True, return_tensors="pt")
        with torch.no_grad():
            return model.body(**batch).last_hidden_state.mean(1)

    def ours(texts):
        return hidden_states(model, texts, batch_tokens=10**4).layers[-1]

    for embed, leaks in ((faulty, True), (ours, False)):
        apart = embed(short)[0] - embed([*short, longest])[0]
        swapped = embed(short)[0] - embed(short[::-1])[1]
        assert (float(apart.abs().max()) > 1e-2) == leaks
        assert np.allclose(swapped.numpy(), 0, atol=1e-5)
