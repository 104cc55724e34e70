"""Private PCA: what it draws, what it promises, and an audit that a broken mechanism fails."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import beta
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_digits

from lowdim.core.shards import Held
from lowdim.errors import InputError
from lowdim.registry import find
from lowdim.structure.bingham import Noise, bingham, sequential
from lowdim.structure.privacy_accounting import gaussian_delta, gaussian_noise, moment_sensitivity
from lowdim.structure.private_pca import (
    MECHANISMS,
    PrivatePCA,
    captured_energy,
    clipped_moment,
    gaussian_matrix,
    noise_sd,
    upper_triangle_matrix,
)

DELTA = {"gauss": 1e-6, "mod-sulq": 1e-6, "exponential": None, "exponential-gibbs": None}


def points(n=60, d=4, seed=0):
    g = torch.Generator().manual_seed(seed)
    scale = torch.logspace(0, -1, d).double()
    return 0.7 * torch.randn(n, d, generator=g).double() * scale


def breaks(a, b, events, epsilon, delta=0.0):
    """Whether some event is surely too frequent under ``a`` for an (epsilon, delta) promise.

    Clopper-Pearson bounds, so that a sound mechanism is called broken once in 10,000 runs.
    """
    level = 1e-4 / (2 * len(events))
    for event in events:
        hits, others = int(event(a).sum()), int(event(b).sum())
        low = beta.ppf(level, hits, len(a) - hits + 1) if hits else 0.0
        high = beta.ppf(1 - level, others + 1, len(b) - others) if others < len(b) else 1.0
        if low > math.exp(epsilon) * high + delta:
            return True
    return False


def bins(low, high, count):
    edges = torch.linspace(low, high, count + 1).tolist()
    return [lambda t, i=i: (t >= edges[i]) & (t < edges[i + 1]) for i in range(count)]


def test_audit_of_the_exponential_mechanism():
    """One row turned by a right angle; the histogram of the angle of the drawn direction."""
    epsilon, eta = 2.0, 1.0  # eta = epsilon / 2 is what the estimator uses, see below
    one, other = (torch.diag(torch.tensor(v).double()) for v in ((4.0, 1.0), (3.0, 2.0)))

    def angles(moment, eta, seed):
        v = bingham(eta * moment, 60_000, Noise(seed))
        return torch.atan2(v[:, 1], v[:, 0]).remainder(math.pi)

    events = bins(0, math.pi, 12)
    sound = angles(one, eta, 1), angles(other, eta, 2)
    broken = angles(one, 2 * eta, 3), angles(other, 2 * eta, 4)  # half the noise
    assert not breaks(*sound, events, epsilon)
    assert not breaks(*sound[::-1], events, epsilon)
    assert breaks(*broken, events, epsilon) or breaks(*broken[::-1], events, epsilon)


def test_audit_of_the_gaussian_mechanism():
    """One row in the place of an orthogonal one; the noisy matrix along their difference."""
    epsilon, delta = 0.5, 0.05
    sd = noise_sd(2, epsilon, delta)
    change = torch.diag(torch.tensor([1.0, -1.0])).double()
    e = gaussian_matrix(Noise(5).normal(40_000, 2, 2))
    along = (e * change).sum((1, 2)) / math.sqrt(2)
    assert float(along.std()) == pytest.approx(1, abs=0.02)  # variance 1 in every direction
    a, b = along.chunk(2)
    moved = moment_sensitivity(1, "replace")
    events = [lambda t, at=at: t > at for at in torch.linspace(0, 4, 9).tolist()]
    assert not breaks(moved + sd * a, sd * b, events, epsilon, delta)
    assert breaks(moved + sd / 2 * a, sd / 2 * b, events, epsilon, delta)


def test_the_estimator_draws_from_the_law_that_is_audited():
    x = points()
    moment = x.T @ x
    assert x.norm(dim=1).max() > 1  # some rows are clipped
    moment = clipped_moment(Held(x), 1.0)
    pure = PrivatePCA(1, epsilon=2.0, mechanism="exponential", random_state=3).fit(x)
    assert torch.allclose(pure.components_, bingham(moment, 1, Noise(3)), atol=1e-6)
    hidden = PrivatePCA(
        2, epsilon=2.0, mechanism="exponential", neighbors="add-remove", random_state=3
    ).fit(x)  # half of the budget each, and twice the exponent
    assert torch.allclose(hidden.components_.T, sequential(moment, 2, Noise(3)), atol=1e-6)
    for name, add in (("gauss", gaussian_matrix), ("mod-sulq", upper_triangle_matrix)):
        found = PrivatePCA(2, epsilon=1.0, delta=1e-6, mechanism=name, random_state=3).fit(x)
        noisy = moment + noise_sd(4, 1.0, 1e-6, name) * add(Noise(3).normal(4, 4))
        leading = torch.linalg.eigh(noisy).eigenvectors.flip(1)[:, :2]
        assert torch.allclose((found.components_ @ leading).abs(), torch.eye(2).double(), atol=1e-6)


def test_noise_of_equal_variance_in_every_direction_is_less_for_the_same_promise():
    normals = Noise(1).normal(20_000, 3, 3)
    e = gaussian_matrix(normals)
    assert torch.equal(e, e.mT)
    variance = e.var(0)
    assert torch.allclose(variance.diagonal(), torch.ones(3).double(), atol=0.05)
    assert torch.allclose(variance[0, 1:], torch.full((2,), 0.5).double(), atol=0.03)
    upper = upper_triangle_matrix(normals)
    assert torch.allclose(upper.var(0), torch.ones(3, 3).double(), atol=0.05)


@pytest.mark.parametrize("d", [1, 5, 100])
@pytest.mark.parametrize("epsilon", [0.01, 1.0, 10.0])
@pytest.mark.parametrize("delta", [1e-9, 1e-3])
def test_mod_sulq_keeps_its_promise_with_far_more_noise_than_needed(d, epsilon, delta):
    sd = noise_sd(d, epsilon, delta, "mod-sulq")
    assert gaussian_delta(sd / moment_sensitivity(1, "replace"), epsilon) <= delta
    assert sd >= noise_sd(d, epsilon, delta, "gauss")


def test_guarantee_says_what_was_met():
    x = points()
    gauss = PrivatePCA(2, epsilon=0.5, delta=1e-6).fit(x).guarantee_
    assert (gauss.epsilon, gauss.delta, gauss.exact, gauss.private) == (0.5, 1e-6, True, True)
    assert gauss.rho == pytest.approx(1 / (2 * gaussian_noise(0.5, 1e-6) ** 2))
    pure = PrivatePCA(2, epsilon=0.5, mechanism="exponential").fit(x).guarantee_
    assert (pure.delta, pure.exact) == (0.0, True)
    assert pure.rho == pytest.approx(2 * 0.25**2 / 8)
    assert "2 draws of epsilon=0.25 each" in pure.notes
    chain = PrivatePCA(2, epsilon=0.5, mechanism="exponential-gibbs", sweeps=3).fit(x).guarantee_
    assert not chain.exact
    assert str(chain).startswith("approximately")
    assert any("not pure privacy" in note for note in chain.notes)
    seeded = PrivatePCA(2, epsilon=0.5, delta=1e-6, random_state=0).fit(x).guarantee_
    assert str(seeded).startswith("not private: seeded")


def test_nothing_that_depends_on_the_data_is_kept_but_the_release():
    found = PrivatePCA(2, epsilon=1.0, delta=1e-6).fit(points())
    learned = {name for name in vars(found) if name.endswith("_")}
    assert learned == {"components_", "subspace_", "guarantee_", "n_features_in_"}
    assert found.subspace_.values is None
    assert found.subspace_.total is None
    assert torch.equal(found.subspace_.center, torch.zeros(4).double())


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_private_by_default_repeatable_by_seed(mechanism):
    x = points()
    model = PrivatePCA(2, epsilon=1.0, delta=DELTA[mechanism], mechanism=mechanism, sweeps=3)
    assert not torch.equal(clone(model).fit(x).components_, clone(model).fit(x).components_)
    model.set_params(random_state=7)
    first, second = clone(model).fit(x), clone(model).fit(x)
    assert torch.equal(first.components_, second.components_)
    gram = first.components_ @ first.components_.T
    assert torch.allclose(gram, torch.eye(2).double(), atol=1e-12)


@pytest.mark.parametrize("mechanism", ["gauss", "exponential", "exponential-gibbs"])
def test_with_many_rows_it_is_pca(mechanism):
    x = points(200_000, 6).float()
    model = PrivatePCA(3, epsilon=1.0, delta=DELTA[mechanism], mechanism=mechanism, sweeps=15)
    assert model.fit(x.numpy()).captured_energy(x.numpy()) > 0.999


def test_captured_energy_is_a_share_of_the_best():
    x = points(300, 5)
    vectors = torch.linalg.eigh(x.T @ x).eigenvectors.flip(1)
    assert captured_energy(x, vectors[:, :2]) == pytest.approx(1)
    kept = (x @ vectors[:, 3:]).square().sum() / (x @ vectors[:, :2]).square().sum()
    assert captured_energy(x, vectors[:, 3:]) == pytest.approx(float(kept))


@pytest.mark.parametrize("load", [load_breast_cancer, load_digits])
def test_on_real_data_the_later_analyses_capture_more(load):
    """At epsilon 0.1 the order of the published comparison, and the Gaussian mechanism first."""
    x = load().data
    x = x / np.linalg.norm(x, axis=1).max()

    def mean(mechanism, epsilon=0.1):
        runs = [
            PrivatePCA(
                1, epsilon=epsilon, delta=DELTA[mechanism] and 0.01, mechanism=mechanism,
                random_state=seed,
            ).fit(x).captured_energy(x)
            for seed in range(20)
        ]  # fmt: skip
        return np.mean(runs)

    gauss, pure, sulq = (mean(name) for name in ("gauss", "exponential", "mod-sulq"))
    assert gauss > pure > sulq
    assert mean("gauss", 1.0) > gauss


def test_what_comes_out_is_what_went_in(tmp_path):
    x = points(80, 5).float()
    model = PrivatePCA(2, epsilon=1.0, delta=1e-6, random_state=1)
    array, tensor = clone(model).fit(x.numpy()), clone(model).fit(x)
    assert isinstance(array.components_, np.ndarray)
    assert isinstance(array.transform(x.numpy()), np.ndarray)
    assert torch.allclose(tensor.components_, torch.from_numpy(array.components_))
    codes = tensor.transform(x)
    assert codes.dtype == torch.float32
    back = tensor.inverse_transform(codes)
    assert torch.allclose(tensor.transform(back), codes, atol=1e-5)
    np.save(tmp_path / "x.npy", x.numpy())
    streamed = clone(model).fit(tmp_path / "x.npy")
    assert torch.allclose(streamed.components_, tensor.components_, atol=1e-6)
    parts = [clipped_moment(Held(part), 1.0) for part in x.split(17)]
    assert torch.allclose(sum(parts), clipped_moment(Held(x), 1.0), atol=1e-12)


def test_long_rows_keep_their_direction_and_lose_their_length():
    x = torch.tensor([[3, 4], [0.3, 0.4], [0, 0], [0, 1e300]], dtype=torch.float64)
    before = x.clone()
    unit = torch.tensor([[0.6, 0.8], [0.3, 0.4], [0, 0], [0, 1]]).double()
    assert torch.allclose(clipped_moment(Held(x), 1.0), unit.T @ unit)
    assert torch.equal(x, before)
    assert torch.allclose(clipped_moment(Held(x[:3]), 10.0), x[:3].T @ x[:3])


def test_poor_data_and_mistakes():
    for x in (torch.zeros(5, 3), torch.ones(1, 3), torch.randn(4, 3).half()):
        for name, delta in DELTA.items():
            found = PrivatePCA(3, epsilon=1.0, delta=delta, mechanism=name, sweeps=2).fit(x)
            assert torch.isfinite(found.components_).all()
    x = torch.randn(20, 3)
    for options, message in (
        ({"n_components": 4, "delta": 0.1}, "from 1 to 3"),
        ({"n_components": 1}, "needs a delta"),
        ({"n_components": 1, "delta": 0.1, "mechanism": "exponential"}, "is pure"),
        ({"n_components": 1, "delta": 0.1, "mechanism": "laplace"}, "choose from gauss"),
        ({"n_components": 1, "delta": 0.1, "clip": 0}, "above zero"),
        ({"n_components": 1, "delta": 0.1, "neighbors": "rows"}, "choose from replace"),
        ({"n_components": 1, "mechanism": "exponential-gibbs", "sweeps": 0}, "sweeps=0"),
        ({"n_components": 1, "delta": 0.9, "mechanism": "mod-sulq", "clip": 1e-3}, None),
    ):
        model = PrivatePCA(**{"epsilon": 1.0} | options)
        if message is None:
            model.fit(x)
            continue
        with pytest.raises(InputError, match=message):
            model.fit(x)
    with pytest.raises(InputError, match="row 2"):
        PrivatePCA(1, epsilon=1.0, delta=0.1).fit(torch.tensor([[0.0], [1], [math.nan]]))
    with pytest.raises(InputError, match="not fitted"):
        PrivatePCA(1, epsilon=1.0, delta=0.1).transform(x)
    with pytest.raises(InputError, match="4 columns"):
        PrivatePCA(1, epsilon=1.0, delta=0.1).fit(x).transform(torch.ones(2, 4))
    with pytest.raises(InputError, match="no energy"):
        captured_energy(torch.zeros(3, 2), torch.eye(2))


def test_registered():
    assert find("structure/private-pca").function is PrivatePCA
