"""Bytes as faiss makes them, distortion as faiss trains it, bounds of theory, products by table."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from lowdim.errors import InputError
from lowdim.retrieval.code import Code, find_code
from lowdim.retrieval.codec import Codec
from lowdim.retrieval.k_means import k_means, nearest
from lowdim.retrieval.product_codes import (
    ProductCode,
    RotatedProductCode,
    _cut,
    _dealt,
    filled,
)
from lowdim.retrieval.residual_code import ResidualCode, residual_ids, residual_k_means


def falling(n=1500, m=24, seed=0, power=1.0):
    """Gaussian rows whose coordinates' variances fall, turned by a random rotation."""
    g = torch.Generator().manual_seed(seed)
    scale = torch.arange(1, m + 1) ** -power
    turn = torch.linalg.qr(torch.randn(m, m, generator=g))[0]
    return (torch.randn(n, m, generator=g) * scale) @ turn


def error(code: Code, z):
    return float((z - code.decode(code.encode(z))).square().sum(1).mean())


@pytest.fixture(scope="module")
def faiss():
    module = pytest.importorskip("faiss")
    module.omp_set_num_threads(1)
    return module


def test_nearest_is_brute_force_with_the_first_of_equals():
    x = torch.randn(700, 5, generator=torch.Generator().manual_seed(1))
    centroids = torch.cat([x[:9], x[:9]])  # each of them twice
    labels, half = nearest(x, centroids)
    distances = (x[:, None].double() - x[None, :9].double()).square().sum(2).sqrt()
    assert torch.equal(labels, distances.argmin(1))
    assert torch.allclose(2 * half.double(), distances.amin(1) ** 2, atol=1e-5)


def test_k_means_finds_separate_clusters_and_leaves_no_centroid_idle():
    centres = torch.eye(6) * 50
    x = centres.repeat(40, 1) + torch.randn(240, 6, generator=torch.Generator().manual_seed(0))
    start = x[:1].repeat(6, 1)  # all in one place: five have no rows
    found = k_means(x, start, iterations=20)
    assert len(nearest(x, found)[0].unique()) == 6
    assert len(nearest(centres, found)[0].unique()) >= 4  # clusters that have their own


def test_k_means_never_gets_worse():
    x = falling(600, 8)
    errors = [float(nearest(x, k_means(x, 20, iterations=i))[1].sum()) for i in range(8)]
    assert all(b <= a * (1 + 1e-5) for a, b in pairwise(errors))
    assert errors[-1] < 0.9 * errors[0]


@pytest.mark.parametrize(("m", "n_runs"), [(24, 6), (24, 24), (10, 3), (7, 1)])
def test_product_bytes_are_those_of_faiss(faiss, m, n_runs):
    z = falling(800, m)
    code = ProductCode.fit(z, size=n_runs)
    width = code.codebooks.shape[2]
    peer = faiss.ProductQuantizer(n_runs * width, n_runs, 8)
    faiss.copy_array_to_vector(code.codebooks.numpy().ravel(), peer.centroids)
    padded = _cut(z, n_runs).transpose(0, 1).reshape(len(z), -1).contiguous()
    codes, theirs = code.encode(z), torch.from_numpy(peer.compute_codes(padded.numpy()))
    assert (codes == theirs).float().mean() >= 0.999
    gap = (z - code.decode(codes)).square().sum(1) - (z - code.decode(theirs)).square().sum(1)
    assert gap.abs().max() < 1e-6  # those that differ are as near, but for rounding
    there = torch.from_numpy(peer.decode(codes.numpy()))[:, filled(m, n_runs).flatten()]
    assert torch.equal(code.decode(codes), there)


def test_residual_bytes_are_those_of_faiss(faiss):
    z = falling(3000, 12)
    code = ResidualCode.fit(z, size=3)
    z = z[:500]
    peer = faiss.ResidualQuantizer(12, 3, 8)
    peer.max_beam_size = 5
    faiss.copy_array_to_vector(code.codebooks.numpy().ravel(), peer.codebooks)
    peer.is_trained = True
    codes = code.encode(z)
    same = codes == torch.from_numpy(peer.compute_codes(z.numpy()))
    assert same.all(1).float().mean() >= 0.995  # nearly equal sums may be told apart by rounding
    there = torch.from_numpy(peer.decode(codes.numpy()))
    assert torch.allclose(code.decode(codes), there, atol=1e-5)


def test_codebooks_are_as_good_as_those_of_faiss(faiss):
    z, fresh = falling(2000, 16).split([1500, 500])
    product, residual = faiss.ProductQuantizer(16, 4, 8), faiss.ResidualQuantizer(16, 2, 8)
    for peer in (product, residual):
        peer.train(z.numpy())
    for code, peer in (
        (ProductCode.fit(z, size=4), product),
        (ResidualCode.fit(z, size=2), residual),
    ):
        theirs = torch.from_numpy(peer.decode(peer.compute_codes(fresh.numpy())))
        assert error(code, fresh) < 1.04 * float((fresh - theirs).square().sum(1).mean())


def test_rotation_is_orthogonal_and_better_than_none():
    z = falling(2000, 16, power=1.5)
    code = RotatedProductCode.fit(z, size=4)
    turn = code.rotation
    assert torch.allclose(turn @ turn.T, torch.eye(16), atol=1e-5)
    principal = z @ torch.linalg.svd(z, full_matrices=False)[2].T  # the worst order for runs
    assert error(code, z) < 0.6 * error(ProductCode.fit(principal, size=4), principal)


def test_rotation_is_not_worse_than_that_of_faiss(faiss):
    z = falling(2000, 16, power=1.5)
    turn = faiss.OPQMatrix(16, 4)
    turn.niter = 10
    turn.train(z.numpy())
    product = faiss.ProductQuantizer(16, 4, 8)
    turned = turn.apply(z.numpy())
    product.train(turned)
    theirs = ((turned - product.decode(product.compute_codes(turned))) ** 2).sum(1).mean()
    assert error(RotatedProductCode.fit(z, size=4), z) < 1.02 * theirs


def test_directions_are_dealt_evenly():
    scale = torch.tensor([8.0, 4.0, 2.0, 1.0, 0.5, 0.25, 0.125, 0.0625])
    z = torch.randn(4000, 8, generator=torch.Generator().manual_seed(0)) * scale
    variances = (z @ _dealt(z, 2)).var(0).reshape(2, 4)
    products = variances.log().sum(1)
    assert abs(float(products[0] - products[1])) < math.log(4)  # in order they differ by 4 log 256
    few = _dealt(torch.cat([z, z[:, :2]], 1), 5)  # rank 8 of 10, 5 runs of 2
    assert torch.allclose(few @ few.T, torch.eye(10), atol=1e-5)


def test_reconstruction_error_of_a_gaussian_is_above_the_rate_distortion_bound():
    z = torch.randn(6000, 2, generator=torch.Generator().manual_seed(0))
    train, fresh = z[:5000], z[5000:]
    for size in (1, 2):  # 8 bits a vector, 16 bits
        bound = 2 * 2.0 ** (-2 * 8 * size / 2)  # D = m sigma^2 2^(-2 R / m)
        found = error(ProductCode.fit(train, size=size), fresh)
        assert bound < found < 3 * size**4 * bound


def test_residual_levels_shrink_the_error_and_the_beam_helps():
    z = falling(1000, 12)
    codebooks = residual_k_means(z, 4, 32, beam=4, seed=0)

    def left(levels, beam):
        ids = residual_ids(z, codebooks[:levels], beam=beam)
        return float((z - codebooks[torch.arange(levels), ids].sum(1)).square().sum())

    errors = [left(i, 4) for i in (1, 2, 3, 4)]
    assert errors == sorted(errors, reverse=True)
    assert left(4, 4) < left(4, 1)
    greedy = torch.stack([nearest(z, codebooks[0])[0]], 1)
    assert torch.equal(residual_ids(z, codebooks[:1], beam=1), greedy)


@pytest.mark.parametrize("name", ["pq4", "opq4", "rq4", "pq5"])
@pytest.mark.parametrize("n_queries", [1, 7, 40])
def test_products_are_those_of_the_decoded(name, n_queries):
    z = falling(300, 12)
    kind, size = find_code(name)
    code = kind.fit(z, size=size)
    codes, q = code.encode(z), falling(n_queries, 12, seed=3)
    decoded, shift = code.decode(codes), falling(1, 12, seed=4)[0]
    found = code.products(q, shift)(codes)
    assert torch.allclose(found[:-1], q @ decoded.T, atol=1e-5)
    assert torch.allclose(found[-1], (decoded + shift).square().sum(1), atol=1e-5)


@pytest.mark.parametrize("metric", ["cosine", "dot", "euclidean"])
@pytest.mark.parametrize("reduction", ["none", "pca"])
def test_search_ranks_as_the_decoded_vectors(metric, reduction):
    x, q = falling(400, 16) + 0.1, falling(5, 16, seed=2)
    codec = Codec("opq6", reduction=reduction, metric=metric).fit(x)
    codes = codec.encode(x)
    one = torch.cat([codec.search(codes, row[None], 9)[1] for row in q])  # by table
    decoded = codec.decode(codes)
    if metric == "cosine":
        decoded = torch.nn.functional.normalize(decoded)
        q = torch.nn.functional.normalize(q)
    truth = -torch.cdist(q, decoded) if metric == "euclidean" else q @ decoded.T
    assert torch.allclose(one, truth.topk(9).values, atol=2e-4)


@pytest.mark.parametrize("name", ["pq2", "opq2", "rq2"])
def test_seed_decides_and_input_stays(name):
    z = falling(500, 8)
    before = z.clone()
    kind, size = find_code(name)
    a, b = kind.fit(z, size=size, seed=5), kind.fit(z, size=size, seed=5)
    other = kind.fit(z, size=size, seed=6)
    assert torch.equal(z, before)
    assert all(torch.equal(t, b.tensors()[n]) for n, t in a.tensors().items())
    assert not torch.equal(a.codebooks, other.codebooks)
    assert a.bytes_per_vector == a.encode(z).shape[1] == 2
    assert a.dims == 8


@pytest.mark.parametrize("name", ["pq2", "opq2", "rq2"])
def test_equal_vectors_and_constant_columns_are_coded_exactly(name):
    kind, size = find_code(name)
    equal = torch.full((300, 4), 0.25)
    code = kind.fit(equal, size=size)
    assert torch.allclose(code.decode(code.encode(equal)), equal, atol=1e-6)
    few = torch.zeros(300, 4)  # 3 distinct rows, 2 constant columns
    few[:, 1] = torch.arange(300) % 3
    code = kind.fit(few, size=size)
    assert torch.allclose(code.decode(code.encode(few)), few, atol=1e-5)


@pytest.mark.parametrize("name", ["pq2", "opq2", "rq2"])
def test_too_few_vectors_are_refused_with_the_number(name):
    kind, size = find_code(name)
    with pytest.raises(InputError, match=r"255 vectors.* 256"):
        kind.fit(torch.randn(255, 4), size=size)
    assert kind.fit(torch.randn(256, 4), size=size).bytes_per_vector == 2


def test_sizes_that_cannot_be_are_refused():
    with pytest.raises(InputError, match="9 bytes a vector: give 1 to 8"):
        ProductCode.fit(torch.randn(300, 8), size=9)
    with pytest.raises(InputError, match="0 bytes"):
        ResidualCode.fit(torch.randn(300, 8), size=0)


def test_overhead_is_what_the_arrays_hold():
    code = RotatedProductCode.fit(falling(300, 10), size=4)
    assert code.codebooks.shape == (4, 256, 3)
    assert code.overhead == 4 * (4 * 256 * 3 + 100)
    assert np.array_equal(filled(10, 4).sum(1), [3, 3, 2, 2])
