"""The paper's likelihood, closed forms, scikit-dimension and DADApy, and honest intervals."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import optimize, special

from lowdim.core.neighbors import Neighbors
from lowdim.errors import InputError
from lowdim.geometry import gride
from lowdim.geometry.gride import of_ratios, solve
from tests.geometry.manifolds import coverage, cube, flat_torus, known, normal

PEERS = Path(__file__).parents[2] / ".peers" / "bin" / "python"


def of(x, k=32):
    return gride(Neighbors.of_points(x, k), k=k)


def log_likelihood(d, mu, n1, n2):
    """As in the paper: mu has density d (mu^d - 1)^(n2-n1-1) / (B(n2-n1, n1) mu^((n2-1)d+1))."""
    density = np.log(d) + (n2 - n1 - 1) * np.log(mu**d - 1) - ((n2 - 1) * d + 1) * np.log(mu)
    return density.sum() - len(mu) * special.betaln(n2 - n1, n1)


@pytest.mark.parametrize(("n1", "n2"), [(1, 2), (1, 9), (2, 4), (3, 5), (16, 32)])
@pytest.mark.parametrize("d", [0.7, 3, 40])
def test_maximises_the_papers_likelihood(n1, n2, d):
    v = np.random.default_rng(n1).beta(n1, n2 - n1, 300)
    mu = v ** (-1 / d)
    best = optimize.minimize_scalar(
        lambda log_d: -log_likelihood(np.exp(log_d), mu, n1, n2),
        bracket=(np.log(d) - 0.1, np.log(d) + 0.1),
    )
    found, influence = solve(torch.from_numpy(mu).log(), n1, n2)
    assert found == pytest.approx(np.exp(best.x), rel=1e-6)
    assert float(influence.mean()) == pytest.approx(0, abs=1e-9 * d)


@pytest.mark.parametrize("d", [1, 6])
def test_influence_is_the_derivative(d):
    """One more weight on a row moves the estimate by its influence over n."""
    log_mu = torch.from_numpy(np.random.default_rng(0).beta(4, 4, 4000)).log() / -d
    value, influence = solve(log_mu, 4, 8)
    for row in (0, 1, 2):
        more, _ = solve(torch.cat([log_mu, log_mu[row : row + 1]]), 4, 8)
        assert (more - value) * 4001 == pytest.approx(float(influence[row]), rel=0.01, abs=1e-3)


def test_first_scale_is_the_closed_form_of_two_nn():
    found = Neighbors.of_points(normal(500, 4), 2)
    log_mu = (found.distances[:, 1] / found.distances[:, 0]).log()
    assert gride(found, k=2).value == pytest.approx(1 / float(log_mu.mean()), rel=1e-12)
    assert gride(found, k=2).n1 == (1,)


def test_reads_the_first_k_columns_of_a_longer_search():
    x = normal(300, 4)
    assert gride(Neighbors.of_points(x, 64)).value == pytest.approx(of(x).value, rel=1e-12)


@pytest.mark.parametrize(("n", "d"), [(400, 2), (500, 12)])
def test_agrees_with_scikit_dimension(n, d):
    """Theirs has n - 1 in place of n before log d, which moves d by less than 1/n."""
    skdim = pytest.importorskip("skdim")
    if not hasattr(skdim.id, "GRIDE"):
        pytest.skip("this scikit-dimension has no GRIDE")
    x = cube(n, d)
    found = of(x)
    oracle = skdim.id.GRIDE(multiscale=True, range_max=32).fit(x.numpy())
    assert found.n1 == tuple(oracle.scales_.tolist())
    assert found.dimensions == pytest.approx(oracle.dimension_scales_.tolist(), rel=1.1 / n)
    assert found.dimensions[0] == pytest.approx(oracle.dimension_scales_[0] * n / (n - 1), rel=1e-6)
    outer = found.distances[1:]  # theirs is the mean of r_(2 n1) alone
    assert all(a < b for a, b in zip(outer, oracle.radius_scales_[1:], strict=True))


def test_agrees_with_dadapy(tmp_path):
    if not PEERS.exists():
        pytest.skip("no separate environment with DADApy")
    x = cube(400, 3)
    np.save(tmp_path / "x.npy", x.numpy())
    code = (
        "import json, sys, numpy as np\nfrom dadapy import Data\n"
        "d = Data(np.load(sys.argv[1]), verbose=False)\n"
        "found = d.return_id_scaling_gride(range_max=32)\n"
        "print(json.dumps([np.asarray(a).tolist() for a in found]))"
    )
    ran = subprocess.run(
        [str(PEERS), "-c", code, str(tmp_path / "x.npy")], capture_output=True, text=True
    )
    if "No module named 'dadapy'" in ran.stderr:
        pytest.skip("no DADApy there")
    assert ran.returncode == 0, ran.stderr
    dimensions, _, distances = json.loads(ran.stdout.splitlines()[-1])
    found = of(x)
    assert found.dimensions == pytest.approx(dimensions, rel=3e-3)  # they too use n - 1
    assert found.distances == pytest.approx(distances, rel=1e-6)


@pytest.mark.parametrize(("d", "n"), [(1, 500), (2, 500), (5, 500)])
def test_intervals_hold_the_truth_at_every_scale_and_at_the_one_read(d, n):
    """Nominal 95%; of 60 draws of a 95% interval 52 or more hold it in 99.7% of runs."""
    nearby = [flat_torus(n, d, 32, seed) for seed in range(60)]
    hits, _ = coverage([gride(found) for found in nearby], d)
    assert hits >= 52 / 60
    for n1 in (1, 4, 16):
        found = [of_ratios(near.distances, n1, 2 * n1, near) for near in nearby]
        hits, claimed = coverage(found, d)
        assert hits >= 51 / 60
        assert 0.7 < claimed < 1.6


@known(affine=3)
def test_finds_known_dimensions(x, d):
    assert of(x).value == pytest.approx(d, rel=0.1)


def test_noise_lifts_the_small_scales_only():
    x = torch.cat([cube(2000, 2), torch.zeros(2000, 8).double()], 1) + 0.005 * normal(2000, 10)
    found = of(x, 128)
    assert found.dimensions[0] > 2.5
    assert found.dimensions[-1] == pytest.approx(2, rel=0.1)
    assert found.scale >= 8
    assert list(found.distances) == sorted(found.distances)


def test_value_is_read_after_the_flattest_step():
    found = of(normal(600, 8))
    logs = np.log(found.dimensions)
    step = int(np.abs(np.diff(logs)).argmin())
    assert found.value == found.dimensions[step + 1]
    assert found.scale == found.n1[step + 1]
    assert found.standard_error == found.standard_errors[step + 1]
    assert found.to_dict()["n1"] == [1, 2, 4, 8, 16]


def test_ties_are_a_limit_and_are_noted():
    log_mu = torch.cat([torch.full((50,), 1e-9), normal(950, 1)[:, 0].abs()]).double()
    tied = torch.where(log_mu < 1e-6, 0, log_mu)
    assert solve(tied, 2, 4)[0] == pytest.approx(solve(log_mu, 2, 4)[0], rel=1e-6)
    whole = (cube(500, 3) * 15).round().unique(dim=0)
    assert "r_1 = r_2: rounded data" in of(whole, 2).notes[0]


def test_bad_input():
    x = normal(60, 3)
    with pytest.raises(InputError, match="k=1"):
        of(x, 1)
    with pytest.raises(InputError, match="equals another row"):
        of(torch.cat([x, x[:1]]))
    with pytest.raises(InputError, match="grid"):
        of(torch.eye(40))
