"""Sparse autoencoders: the rules, the auxiliary losses, training, and planted features."""

import math

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from torch.nn.functional import normalize

from lowdim import datasets
from lowdim.errors import InputError, MemoryBudgetError
from lowdim.io.activations import embed
from lowdim.io.models import load_model
from lowdim.structure import SparseAutoencoder, evaluate_sae, train_sae
from lowdim.structure.sae import KINDS, BatchTopKSAE, GatedSAE, JumpReLUSAE, ReLUSAE, TopKSAE
from lowdim.structure.sae_train import geometric_median

OPTIONS = {"topk": {"k": 3}, "batchtopk": {"k": 3}, "gated": {}, "relu": {}}


def planted(n=4000, d=24, m=32, k=3, seed=0):
    """Points that are sums of k of m directions, and the directions."""
    g = torch.Generator().manual_seed(seed)
    directions = normalize(torch.randn(m, d, generator=g), dim=1)
    index = torch.rand(n, m, generator=g).topk(k, 1).indices
    codes = torch.zeros(n, m).scatter(1, index, torch.rand(n, k, generator=g) + 0.5)
    return codes @ directions, directions


def noise(n, d, seed=0, dtype=torch.float64):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def made(kind, d=8, m=20, seed=0):
    sae = KINDS[kind](d, m, seed=seed, **OPTIONS[kind]).double()
    with torch.no_grad():  # off its start, so that every part matters
        for i, weight in enumerate(sae.parameters()):
            weight += 0.1 * noise(1, weight.numel(), i).view(weight.shape)
        sae.normalize_decoder()
    return sae


def test_top_k_keeps_the_k_largest_of_each_row():
    sae, x = made("topk"), noise(30, 8)
    z, codes = sae.preactivate(x), sae.encode(x)
    assert torch.allclose(z, (x - sae.bias) @ sae.encoder + sae.encoder_bias)
    third = z.topk(3, dim=1).values[:, -1:]
    assert torch.equal(codes, torch.where(z >= third, z.relu(), 0))
    assert torch.allclose(sae(x)[0], codes @ sae.decoder + sae.bias)


def test_batch_top_k_counts_over_the_batch_and_then_by_a_threshold():
    sae, x = made("batchtopk"), noise(50, 8)
    with pytest.raises(InputError, match="train it first"):
        sae.eval().encode(x)
    codes = sae.train().encode(x).detach()
    assert int((codes > 0).sum()) == 150
    assert (codes > 0).sum(1).unique().numel() > 1
    assert float(codes[codes == 0].max()) < float(codes[codes > 0].min())
    assert float(sae.threshold) == pytest.approx(float(codes[codes > 0].min()))
    alone = torch.cat([sae.eval().encode(row[None]) for row in x])
    assert torch.allclose(alone, sae.encode(x))  # no company matters any more
    assert abs(int((alone > 0).sum()) - 150) <= 1


def test_gated_codes_and_loss_are_the_formulas_of_the_paper():
    sae, x = made("gated"), noise(30, 8)
    centered = x - sae.bias
    gates = centered @ sae.encoder + sae.encoder_bias
    magnitude = (centered @ (sae.encoder * sae.log_scale.exp()) + sae.magnitude_bias).relu()
    assert torch.allclose(sae.encode(x), (gates > 0) * magnitude)
    rebuilt = (gates > 0) * magnitude @ sae.decoder + sae.bias
    main = (x - rebuilt).square().sum(1).mean()
    l1 = sae.penalty * gates.relu().sum(1).mean()
    frozen = (x - gates.relu() @ sae.decoder - sae.bias).square().sum(1).mean()
    found = sae.loss(x)
    assert found.total.item() == pytest.approx((main + l1 + frozen).item())
    found.auxiliary.backward()
    assert sae.decoder.grad is None  # the frozen decoder is not moved
    assert float(sae.encoder.grad.abs().max()) > 0


def test_dead_features_are_asked_to_rebuild_what_is_left():
    sae, x = made("topk"), noise(200, 8)
    with torch.no_grad():
        sae.encoder_bias[5:] -= 50  # these never fire
    sae.dead_after = 300
    assert sae.loss(x).auxiliary.item() == 0  # 200 quiet inputs: not dead yet
    found = sae.loss(x)
    left = (x - sae(x)[0]).detach()
    assert bool((sae.quiet[5:] == 400).all())
    assert found.auxiliary.item() == pytest.approx(1 / 32)  # they give nothing: all is missed
    with torch.no_grad():
        sae.encoder_bias[5:] += 50
        sae.quiet[:5] = 0
        z = sae.preactivate(x)[:, 5:]
        kept = torch.where(z >= z.topk(4, dim=1).values[:, -1:], z.relu(), 0)
        expected = (left := x - sae(x)[0]) - kept @ sae.decoder[5:]
    sae.eval()
    ratio = expected.square().sum() / left.square().sum()
    found = sae.loss(x).auxiliary
    assert found.item() == pytest.approx(float(ratio) / 32)
    found.backward()
    assert bool((sae.decoder.grad[:5] == 0).all())  # the living are not moved by it


def test_relu_and_jump():
    relu, jump, x = made("relu"), JumpReLUSAE(8, 20).double(), noise(30, 8)
    l1 = relu.encode(x).sum(1).mean()
    assert relu.loss(x).auxiliary.item() == pytest.approx(0.2 * l1.item())
    jump.threshold += 0.7
    z = jump.preactivate(x)
    assert torch.equal(jump.encode(x), torch.where(z > 0.7, z, 0))


@pytest.mark.parametrize("kind", KINDS)
def test_rescaling_is_the_same_network_in_other_units(kind):
    sae, x = made(kind), noise(40, 8)
    sae.train().encode(x)
    sae.eval()
    rebuilt, codes = (t.detach().clone() for t in sae(x))
    sae.rescale(7.0)
    again = sae(7 * x)
    assert torch.allclose(again[0], 7 * rebuilt)
    assert torch.allclose(again[1], 7 * codes)


def test_the_projected_gradient_does_not_change_lengths():
    sae, x = made("relu"), noise(30, 8)
    sae.loss(x).total.backward()
    whole = sae.decoder.grad.clone()
    sae.project_gradient()
    assert (sae.decoder.grad * sae.decoder).sum(1).abs().max().item() < 1e-12
    across = whole - sae.decoder.grad
    assert torch.allclose(across, (across * sae.decoder).sum(1, keepdim=True) * sae.decoder)


def test_the_geometric_median_has_no_pull():
    x = noise(101, 3) + 5
    x[:20] += 1000  # the mean moves by 200, this does not
    middle = geometric_median(x, n_iter=1000)
    assert float(normalize(x - middle).sum(0).norm()) < 1e-3
    assert float((middle - 5).norm()) < 1
    line = torch.tensor([[0.0], [1], [2], [3], [50]])
    assert float(geometric_median(line, n_iter=1000)) == pytest.approx(2, abs=1e-2)


def test_planted_features_are_found_and_lengths_stay_one():
    x, directions = planted()
    sae = TopKSAE(24, 32, 3)
    found = train_sae(sae, 100 * x + 30, epochs=24, batch_size=128, lr=8e-3)
    assert found.explained_variance > 0.85
    assert found.l0 == pytest.approx(3, abs=0.05)
    assert found.losses[-1] < found.losses[0] / 3
    lengths = torch.linalg.vector_norm(sae.decoder, dim=1)
    assert torch.allclose(lengths, torch.ones(32), atol=1e-5)
    best = (sae.decoder.detach() @ directions.T).amax(0)
    assert float((best > 0.95).float().mean()) > 0.6  # by chance none is


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_learns(kind):
    x, _ = planted(n=1500)
    sae = KINDS[kind](24, 32, **OPTIONS[kind])
    found = train_sae(sae, x, epochs=8, batch_size=64, lr=5e-3)
    assert found.explained_variance > 0.6
    assert found.n == 1500
    assert evaluate_sae(sae, x).explained_variance == found.explained_variance


def test_gates_free_magnitudes_from_shrinkage():
    """The claim of Rajamanoharan et al. 2024: more explained by fewer features."""
    x, _ = planted()
    gated, relu = (
        train_sae(sae, x, epochs=15, batch_size=128, lr=5e-3)
        for sae in (GatedSAE(24, 32, penalty=0.4), ReLUSAE(24, 32, penalty=0.2))
    )
    assert gated.l0 < relu.l0
    assert gated.explained_variance > relu.explained_variance


def test_evaluation_is_its_definition():
    sae, x = made("topk"), noise(300, 8) + 100
    rebuilt, codes = sae(x)
    found = evaluate_sae(sae, x)
    variance = (x - x.mean(0)).square().sum()
    expected = 1 - ((x - rebuilt).square().sum() / variance).item()
    assert found.explained_variance == pytest.approx(expected)
    assert found.l0 == pytest.approx(float((codes > 0).sum(1).double().mean()))
    assert found.dead_fraction == pytest.approx(float((codes == 0).all(0).double().mean()))


def test_a_stopped_run_goes_on_to_the_same_weights(tmp_path):
    x, _ = planted(n=700)

    def fresh():
        return BatchTopKSAE(24, 32, 3)

    whole = fresh()
    expected = train_sae(whole, x, epochs=4, batch_size=64)

    class Stop(Exception):
        pass

    class Progress:
        def task(self, what):
            def advance(done, total):
                if done > 0.6 * total:
                    raise Stop

            return advance

    with pytest.raises(Stop):
        train_sae(fresh(), x, epochs=4, batch_size=64, out=tmp_path, progress=Progress())
    again = fresh().eval()  # the mode is no part of the start
    found = train_sae(again, x, epochs=4, batch_size=64, out=tmp_path, resume=True)
    assert found == expected
    for a, b in zip(whole.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_a_file_is_trained_on_as_its_points(tmp_path):
    x, _ = planted(n=500)
    np.save(tmp_path / "x.npy", x.numpy())
    one, two = TopKSAE(24, 32, 3), TopKSAE(24, 32, 3)
    assert train_sae(one, x, epochs=1) == train_sae(two, tmp_path / "x.npy", epochs=1)
    assert torch.equal(one.decoder, two.decoder)


def test_a_loss_that_explodes_stops_with_its_step():
    x, _ = planted(n=300)
    with pytest.raises(InputError, match=r"the loss is (nan|inf) at step \d+ of \d+: lower lr"):
        train_sae(ReLUSAE(24, 32), x, lr=1e30)


def test_mistakes_are_named():
    x, _ = planted(n=100)
    bad = x.clone()
    bad[7, 3] = math.nan
    for call, words in (
        (lambda: train_sae(TopKSAE(24, 32, 3), bad), "row 7"),
        (lambda: train_sae(TopKSAE(9, 32, 3), x), "takes 9"),
        (lambda: train_sae(TopKSAE(24, 32, 3), torch.ones(50, 24)), "none varies"),
        (lambda: train_sae(TopKSAE(24, 32, 3), x, epochs=0), "above zero"),
        (lambda: train_sae(TopKSAE(24, 32, 3), x, resume=True), "out="),
        (lambda: TopKSAE(24, 32, 33), "from 1 to 32"),
        (lambda: GatedSAE(0, 32), "at least 1"),
        (lambda: GatedSAE(24, 32, penalty=-1), "penalty"),
        (lambda: SparseAutoencoder(n_features=4.5).fit(x), "integers"),
        (lambda: SparseAutoencoder().score(x), "not fitted"),
        (lambda: SparseAutoencoder(kind="dense").fit(x), "topk"),
        (lambda: SparseAutoencoder().transform(x), "not fitted"),
    ):
        with pytest.raises(InputError, match=words):
            call()
    with pytest.raises(MemoryBudgetError, match="training"):
        train_sae(TopKSAE(24, 32, 3), x, memory=1000)


@pytest.mark.parametrize("kind", KINDS)
def test_the_estimator_keeps_the_scikit_learn_contract(kind):
    x = planted(n=300)[0].double().numpy()
    estimator = SparseAutoencoder(n_features=40, kind=kind, k=4, epochs=2, batch_size=64)
    again = clone(estimator).fit(x)
    codes = estimator.fit(x).transform(x)
    assert codes.shape == (300, 40)
    assert isinstance(codes, np.ndarray)
    assert bool((codes >= 0).all())
    assert np.array_equal(again.transform(x), codes)
    rebuilt = estimator.inverse_transform(codes)
    assert rebuilt.shape == x.shape
    expected = 1 - ((x - rebuilt) ** 2).sum() / ((x - x.mean(0)) ** 2).sum()
    assert estimator.score(x) == pytest.approx(expected, rel=1e-4)
    assert isinstance(estimator.transform(torch.from_numpy(x)), torch.Tensor)
    with pytest.raises(InputError, match="23 columns"):
        estimator.transform(x[:, :23])


def test_digits_are_described_better_than_by_as_many_principal_components():
    x = load_digits().data
    train, test = x[:1400], x[1400:]
    sae = SparseAutoencoder(n_features=128, k=6, epochs=60, batch_size=128, lr=5e-3).fit(train)
    pca = PCA(6).fit(train)
    left = ((test - pca.inverse_transform(pca.transform(test))) ** 2).sum()
    linear = 1 - left / ((test - test.mean(0)) ** 2).sum()
    assert sae.score(test) > linear + 0.05


@pytest.fixture(scope="module")
def sentences(minilm_folder):
    """(2000, 384) unit vectors that MiniLM makes of the bundled glosses."""
    return embed(load_model(minilm_folder), datasets.glosses().texts)


@pytest.mark.parametrize("kind", ["topk", "batchtopk"])
def test_sentence_embeddings_are_described_better_than_by_principal_components(kind, sentences):
    """On sentences not trained on, 16 of 256 features against the 16 best for all at once."""
    train, test = sentences[:1600], sentences[1600:]
    sae = SparseAutoencoder(n_features=256, kind=kind, k=16, batch_size=256, lr=3e-3, epochs=5)
    sae.fit(train)
    pca = PCA(16).fit(train.numpy())
    rebuilt = pca.inverse_transform(pca.transform(test.numpy()))
    left = (test - torch.from_numpy(rebuilt)).square().sum()
    linear = 1 - float(left / (test - test.mean(0)).square().sum())
    assert sae.score(test) > linear + 0.1
    assert sae.quality_.l0 == pytest.approx(16, rel=0.1)
