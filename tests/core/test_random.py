import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lowdim.core import random
from lowdim.errors import InputError


def words(text: str) -> torch.Tensor:
    return torch.tensor([int(word, 16) for word in text.split()])


@pytest.mark.parametrize(
    ("counter", "key", "output"),
    [  # kat_vectors of Random123
        ("0 0 0 0", "0 0", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff " * 4, "ffffffff " * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            "243f6a88 85a308d3 13198a2e 03707344",
            "a4093822 299f31d0",
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_philox_published_answers(counter, key, output):
    assert torch.equal(random.philox(words(counter), words(key)), words(output))


def test_philox_agrees_with_python_integers_and_broadcasts():
    counter = torch.from_numpy(np.random.default_rng(0).integers(0, 2**32, (50, 4)))
    key = torch.tensor([0xDEADBEEF, 0x12345678])

    def reference(c, k):
        for _ in range(10):
            p0, p1 = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57
            c = [p1 >> 32 ^ c[1] ^ k[0], p1 % 2**32, p0 >> 32 ^ c[3] ^ k[1], p0 % 2**32]
            k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
        return c

    expected = [reference(c, key.tolist()) for c in counter.tolist()]
    assert random.philox(counter, key).tolist() == expected


def test_stream_format_has_not_changed():
    # written down once from version 1: files store the seed and not the numbers
    assert random.VERSION == 1
    first = random.philox(words("0 0 2 0"), words("7 0"))
    k = (int(first[0]) << 20) | (int(first[1]) >> 12)
    assert float(random.uniform(1, 7, stream=2)) == (2 * k + 1) / 2**53
    second_kind = random.philox(words("0 0 2 1"), words("7 0"))
    k = (int(second_kind[2]) << 20) | (int(second_kind[3]) >> 12)
    p = torch.tensor([(2 * k + 1) / 2**53], dtype=torch.float64)
    assert random.normal(2, 7, stream=2)[1] == random.ndtri(p)[0].float()
    bits = int(random.philox(words("1 0 2 2"), words("7 0"))[1])  # word 5 holds signs 160 to 191
    expected = [2.0 * (bits >> i & 1) - 1 for i in range(32)]
    assert random.signs(192, 7, stream=2)[160:].tolist() == expected


DRAWS = {
    "uniform": random.uniform,
    "normal": random.normal,
    "signs": random.signs,
    "integers": lambda shape, seed, *a, **k: random.integers(shape, 1000, seed, *a, **k),
}


@pytest.mark.parametrize("name", DRAWS)
@given(
    count=st.integers(0, 300), start=st.integers(0, 2**40), cut=st.integers(0, 300),
    seed=st.integers(0, 2**64 - 1), stream=st.integers(0, 2**32 - 1),
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_pieces_equal_the_whole(name, count, start, cut, seed, stream):
    draw, cut = DRAWS[name], min(cut, count)
    whole = draw(count, seed, stream, start)
    pieces = [draw(cut, seed, stream, start), draw(count - cut, seed, stream, start + cut)]
    assert torch.equal(whole, torch.cat(pieces))


@pytest.mark.parametrize("name", DRAWS)
def test_block_size_and_threads_do_not_matter(name, monkeypatch):
    whole = DRAWS[name]((300, 401), 3)
    threads = torch.get_num_threads()
    torch.set_num_threads(2 if threads == 1 else 1)
    monkeypatch.setattr(random, "BLOCK", 1001)
    try:
        assert torch.equal(whole, DRAWS[name]((300, 401), 3))
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("name", DRAWS)
def test_seeds_streams_and_kinds_differ(name):
    draws = [DRAWS[name](64, *key) for key in ((0, 0), (1, 0), (2**32, 0), (0, 1), (0, 0, 64))]
    for i, a in enumerate(draws):
        assert not any(torch.equal(a, b) for b in draws[:i])
    normals = random.normal(10_000, 0, dtype=torch.float64)
    quantiles = random.ndtri(random.uniform(10_000, 0))
    assert abs(float(torch.corrcoef(torch.stack([normals, quantiles]))[0, 1])) < 0.04


def test_ndtri_against_scipy():
    tails = 10.0 ** np.linspace(-15.9, -1e-6, 20_001)
    p = np.concatenate([tails, 1 - tails[tails < 0.5], np.linspace(0.001, 0.999, 20_001)])
    ours = random.ndtri(torch.from_numpy(p)).numpy()
    np.testing.assert_allclose(ours, scipy.special.ndtri(p), rtol=3e-15, atol=1e-16)


def test_ndtri_is_odd_and_finite_at_the_ends():
    p = torch.tensor([2.0**-53, 0.01, 0.5, 0.99, 1 - 2.0**-53], dtype=torch.float64)
    z = random.ndtri(p)
    assert torch.isfinite(z).all()
    assert z[2] == 0
    assert z[0] == -z[4]
    assert 8.2 < float(z[4]) < 8.22


def test_log_against_numpy():
    x = np.concatenate([10.0 ** np.linspace(-300, 300, 5001), np.linspace(0.5, 2, 5001)])
    ours = random._log(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(ours, np.log(x), rtol=1e-15, atol=1e-17)


def test_distributions():
    z = random.normal(100_000, 11, dtype=torch.float64).numpy()
    assert scipy.stats.kstest(z, "norm").pvalue > 0.01
    for power, moment in ((1, 0), (2, 1), (3, 0), (4, 3)):
        noise = np.sqrt(scipy.stats.norm.moment(2 * power) - moment**2) / np.sqrt(len(z))
        assert abs((z**power).mean() - moment) < 4 * noise
    assert scipy.stats.kstest(random.uniform(100_000, 11).numpy(), "uniform").pvalue > 0.01
    assert abs(float(random.signs(100_000, 11).mean())) < 4 / np.sqrt(100_000)
    counts = torch.bincount(random.integers(70_000, 7, 11), minlength=7)
    assert len(counts) == 7
    assert scipy.stats.chisquare(counts.numpy()).pvalue > 0.01


def test_neighbouring_values_are_uncorrelated():
    z = random.normal(100_001, 5, dtype=torch.float64)
    for lag in (1, 2, 3, 4):
        assert abs(float((z[:-lag] * z[lag:]).mean())) < 4 / np.sqrt(100_000)
    other = random.normal(100_001, 6, dtype=torch.float64)
    assert abs(float((z * other).mean())) < 4 / np.sqrt(100_000)


@given(n=st.integers(1, 400), seed=st.integers(0, 1000), data=st.data())
@settings(max_examples=60, deadline=None)
def test_choice_is_without_replacement(n, seed, data):
    size = data.draw(st.integers(0, n))
    drawn = random.choice(n, size, seed)
    assert len(drawn) == size == len(drawn.unique())
    assert size == 0 or 0 <= int(drawn.min()) <= int(drawn.max()) < n
    assert torch.equal(random.permutation(n, seed).sort().values, torch.arange(n))


def test_choice_and_permutation_are_fair():
    small = torch.cat([random.choice(10, 3, seed) for seed in range(2000)])
    large = torch.cat([random.choice(10, 8, seed) for seed in range(2000)])
    first = torch.stack([random.permutation(10, seed)[0] for seed in range(2000)])
    for drawn in (small, large, first):
        counts = torch.bincount(drawn, minlength=10).numpy()
        assert scipy.stats.chisquare(counts).pvalue > 0.001


def test_dtype_and_shape():
    assert random.uniform((2, 3), 0).dtype == torch.float64
    assert random.normal((2, 3), 0).dtype == torch.float32
    assert random.normal((2, 3), 0).shape == (2, 3)
    double = random.normal(1000, 0, dtype=torch.float64)
    assert torch.equal(double.float(), random.normal(1000, 0))  # rounded once
    assert set(random.signs(100, 0, dtype=torch.int8).tolist()) == {-1, 1}


@pytest.mark.parametrize(
    "call",
    [
        lambda: random.normal(3, -1),
        lambda: random.normal(3, 2**64),
        lambda: random.normal(3, 0, stream=2**32),
        lambda: random.normal(3, 0, start=-1),
        lambda: random.normal((-1,), 0),
        lambda: random.integers(3, 0, 0),
        lambda: random.integers(3, 2**31 + 1, 0),
        lambda: random.choice(3, 4, 0),
        lambda: random.choice(3, -1, 0),
    ],
)
def test_bad_arguments(call):
    with pytest.raises(InputError):
        call()
