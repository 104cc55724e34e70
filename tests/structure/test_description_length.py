"""Description length: the closed form, a real arithmetic coder, and the width it chooses."""

import math
from collections import Counter

import pytest
import torch
from sklearn.datasets import load_digits
from torch.nn.functional import normalize

from lowdim.errors import InputError, MemoryBudgetError
from lowdim.structure import omp, sae_description_length, select_sae, train_sae
from lowdim.structure.sae import JumpReLUSAE, ReLUSAE, TopKSAE
from lowdim.structure.saelens import NormalizedSAE


class Pursuit(ReLUSAE):
    """An autoencoder whose encoder is matching pursuit: codes as good as the atoms allow."""

    def __init__(self, atoms, tolerance):
        super().__init__(atoms.shape[1], len(atoms))
        self.double()
        self.decoder.data = atoms
        self.tolerance = tolerance

    def encode(self, x):
        most = min(self.width, self.dim)
        return omp(x, self.decoder.T, most, tolerance=self.tolerance).dense(self.width)


def planted(n, d, m, k, seed=0):
    g = torch.Generator().manual_seed(seed)
    atoms = normalize(torch.randn(m, d, generator=g, dtype=torch.float64), dim=1)
    index = torch.rand(n, m, generator=g).topk(k, 1).indices
    values = torch.rand(n, k, generator=g, dtype=torch.float64) + 0.5
    codes = torch.zeros(n, m, dtype=torch.float64).scatter(1, index, values)
    return codes, atoms


def identity(codes, atoms):
    """An autoencoder that gives back non-negative codes of orthonormal atoms."""
    sae = ReLUSAE(atoms.shape[1], len(atoms)).double()
    sae.encoder.data, sae.decoder.data = atoms.T.contiguous(), atoms
    return sae


def encode(symbols, counts):
    """Bits of an arithmetic coder with 32-bit registers and static tables (Witten et al. 1987)."""
    low, high, pending, bits = 0, 2**32 - 1, 0, []
    ends = dict(zip(counts, torch.tensor(list(counts.values())).cumsum(0).tolist(), strict=True))
    total = sum(counts.values())

    def put(bit):
        nonlocal pending
        bits.extend([bit] + [1 - bit] * pending)
        pending = 0

    for symbol in symbols:
        span = high - low + 1
        end = ends[symbol]
        low, high = low + span * (end - counts[symbol]) // total, low + span * end // total - 1
        while True:
            if high < 2**31:
                put(0)
            elif low >= 2**31:
                put(1)
                low, high = low - 2**31, high - 2**31
            elif low >= 2**30 and high < 3 * 2**30:
                pending += 1
                low, high = low - 2**30, high - 2**30
            else:
                break
            low, high = 2 * low, 2 * high + 1
    pending += 1
    put(0 if low < 2**30 else 1)
    return bits


def decode(bits, counts, n):
    """The symbols back."""
    ends = dict(zip(counts, torch.tensor(list(counts.values())).cumsum(0).tolist(), strict=True))
    total, low, high, out = sum(counts.values()), 0, 2**32 - 1, []
    stream = iter(bits + [0] * 64)
    value = 0
    for _ in range(32):
        value = 2 * value + next(stream)
    for _ in range(n):
        span = high - low + 1
        at = ((value - low + 1) * total - 1) // span
        symbol = next(s for s, end in ends.items() if at < end)
        out.append(symbol)
        end = ends[symbol]
        low, high = low + span * (end - counts[symbol]) // total, low + span * end // total - 1
        while True:
            if high < 2**31:
                shift = 0
            elif low >= 2**31:
                shift = 2**31
            elif low >= 2**30 and high < 3 * 2**30:
                shift = 2**30
            else:
                break
            low, high, value = (2 * (v - shift) for v in (low, high, value))
            high, value = high + 1, value + next(stream)
    return out


def test_bits_are_those_of_an_arithmetic_coder():
    codes, _ = planted(1500, 12, 12, 3)
    basis = torch.linalg.qr(torch.randn(12, 12, generator=torch.Generator().manual_seed(1)))[0]
    sae = identity(codes, basis.double())
    x = codes @ sae.decoder.detach()
    found = sae_description_length(sae, x, distortion=0.003)
    assert found.distortion <= 0.003
    levels = (sae.encode(x) / found.step).round().long()
    taken, adaptive = 0, 0.0
    for column in levels.T.tolist():
        counts = Counter(column)
        bits = encode(column, counts)
        assert decode(bits, counts, len(column)) == column  # it is a code
        taken += len(bits)
        seen = dict.fromkeys(counts, 0.5)
        for i, symbol in enumerate(column):  # the coder that learns its tables
            adaptive -= math.log2(seen[symbol] / (i + len(counts) / 2))
            seen[symbol] += 1
    assert taken / 1500 == pytest.approx(found.value, rel=0.01)
    assert adaptive / 1500 == pytest.approx(found.adaptive_bits, rel=1e-9)
    assert found.adaptive_bits > found.value


def test_one_feature_of_two_levels_has_the_binary_entropy():
    x = torch.zeros(1000, 3, dtype=torch.float64)
    x[:100, 1] = 5.0
    sae = identity(x, torch.eye(3, dtype=torch.float64))
    found = sae_description_length(sae, x, distortion=0.5)
    h = -(0.1 * math.log2(0.1) + 0.9 * math.log2(0.9))
    assert found.value == pytest.approx(h)
    assert found.distortion == pytest.approx(0, abs=1e-12)
    assert found.n == 1000


def test_uniform_values_have_the_rate_of_the_uniform_quantiser():
    """log2(range / step) bits, a little more for the two ends, and step^2 / 12 lost."""
    g = torch.Generator().manual_seed(0)
    x = torch.rand(200_000, 1, generator=g, dtype=torch.float64)
    sae = identity(x, torch.ones(1, 1, dtype=torch.float64))
    found = sae_description_length(sae, x, distortion=0.001)
    n = 1 / found.step  # levels, the first and the last of half the width
    assert found.value == pytest.approx(math.log2(n) + 1 / n, abs=0.002)
    assert found.distortion == pytest.approx(found.step**2 / 12 * 12, rel=0.02)  # variance 1/12
    assert 0.0008 < found.distortion <= 0.001  # the coarsest step that will do


def test_the_curve_pays_bits_for_distortion():
    codes, atoms = planted(2000, 16, 24, 3)
    found = sae_description_length(Pursuit(atoms, 1e-6), codes @ atoms, distortion=0.01)
    steps, bits = ([getattr(r, name) for r in found.curve] for name in ("step", "bits"))
    assert steps == sorted(steps, reverse=True)
    assert bits == sorted(bits)
    lost = [r.distortion for r in found.curve]
    assert lost[-1] < lost[0]
    assert (found.step, found.value) in zip(steps, bits, strict=True)


def test_lengths_of_decoder_rows_do_not_matter():
    codes, _ = planted(500, 8, 8, 2)
    plain = identity(codes, torch.eye(8, dtype=torch.float64))
    scaled = identity(codes, torch.eye(8, dtype=torch.float64))
    factors = torch.linspace(0.2, 5, 8).double()
    scaled.encoder.data = scaled.encoder / factors
    scaled.decoder.data = scaled.decoder * factors[:, None]
    one, two = (sae_description_length(s, codes, distortion=0.01) for s in (plain, scaled))
    assert one.value == pytest.approx(two.value)
    assert one.distortion == pytest.approx(two.distortion)


def test_the_planted_width_takes_the_fewest_bits():
    """Too narrow pays with more atoms a point; twins pay a bit for each choice between them."""
    codes, atoms = planted(3000, 20, 32, 3)
    x = codes @ atoms
    g = torch.Generator().manual_seed(3)

    def twins(copies):
        more = atoms.repeat(copies, 1)
        return normalize(more + 0.002 * torch.randn(more.shape, generator=g).double(), dim=1)

    basis = torch.linalg.qr(atoms[:20].T).Q.T.contiguous()
    dictionaries = {20: basis, 28: atoms[:28], 32: atoms, 64: twins(2), 128: twins(4)}
    saes = {m: Pursuit(rows, 0.03) for m, rows in dictionaries.items()}
    found = select_sae(saes, x, distortion=0.01)
    assert found.best == 32
    bits = {m: length.value for m, length in found.lengths.items()}
    assert bits[20] > bits[32] + 10
    assert bits[64] - bits[32] == pytest.approx(3, abs=0.6)  # one bit for each of three atoms
    assert bits[128] - bits[64] == pytest.approx(3, abs=0.6)
    assert bits[28] > bits[32] + 3
    assert min(found.lengths, key=lambda m: found.lengths[m].adaptive_bits) == 32


def learned(x, m, k, seed=0):
    """Atoms by alternating pursuit and least squares (the method of optimal directions)."""
    g = torch.Generator().manual_seed(seed)
    atoms = normalize(x[torch.randperm(len(x), generator=g)[:m]], dim=1)
    for _ in range(30):
        codes = omp(x, atoms.T, k).dense(m)
        gram = codes.T @ codes + 1e-6 * torch.eye(m)
        fresh = normalize(x[torch.randint(len(x), (m,), generator=g)], dim=1)
        used = (codes != 0).any(0)[:, None]
        atoms = torch.where(used, normalize(torch.linalg.solve(gram, codes.T @ x), dim=1), fresh)
    return atoms


def test_learned_dictionaries_have_a_best_width_between():
    """Of 32 planted atoms: 24 cannot hold them, 48 find them all, 128 split them."""
    codes, atoms = planted(4000, 20, 32, 3)
    x = codes @ atoms
    saes = {m: Pursuit(learned(x[:2000], m, 3), 0.05) for m in (24, 48, 128)}
    found = select_sae(saes, x[2000:], distortion=0.01)
    assert found.best == 48
    cosines = saes[48].decoder.detach() @ atoms.T
    assert bool((cosines.abs().amax(0) > 0.99).all())
    truth = sae_description_length(Pursuit(atoms, 0.05), x[2000:], distortion=0.01)
    assert truth.value < found.lengths[48].value < found.lengths[128].value - 5


def test_what_cannot_be_reached_is_infinite():
    codes, _ = planted(300, 8, 8, 2)
    half = JumpReLUSAE(8, 4).double()
    half.encoder.data, half.decoder.data = torch.eye(8)[:, :4].double(), torch.eye(8)[:4].double()
    found = sae_description_length(half, codes, distortion=0.1)
    assert math.isinf(found.value)
    assert found.distortion > 0.1
    assert "before anything is quantised" in found.notes[0]
    with pytest.raises(InputError, match="the least is"):
        select_sae({4: half}, codes, distortion=0.1)


def test_a_small_budget_gives_the_same_bits():
    codes, atoms = planted(3000, 16, 24, 3)
    sae, x = Pursuit(atoms, 0.05), codes @ atoms
    whole = sae_description_length(sae, x, distortion=0.02)
    small = sae_description_length(sae, x, distortion=0.02, memory="600kB")
    assert small.value == pytest.approx(whole.value, rel=1e-12)
    with pytest.raises(MemoryBudgetError, match="activations in use"):
        sae_description_length(sae, x, distortion=0.02, memory="100kB")


def test_digits_bits_fall_with_the_distortion_allowed():
    x = torch.from_numpy(load_digits().data).float()
    sae = TopKSAE(64, 96, 8)
    quality = train_sae(sae, x[:1400], epochs=30, batch_size=128, lr=5e-3)
    lost = 1 - quality.explained_variance
    found = [
        sae_description_length(sae, x[1400:], distortion=min(lost + more, 0.9))
        for more in (0.1, 0.2, 0.4)
    ]
    bits = [f.value for f in found]
    assert bits == sorted(bits, reverse=True)
    assert 5 < bits[-1] < bits[0] < 8 * (7 + math.log2(96))  # L0 (bits + log2 width)


def test_mistakes_are_named():
    codes, atoms = planted(50, 8, 8, 2)
    sae, x = Pursuit(atoms, 0.1), codes @ atoms
    bad = x.clone()
    bad[9, 1] = math.nan
    for call, words in (
        (lambda: sae_description_length(sae, bad, distortion=0.1), "row 9"),
        (lambda: sae_description_length(sae, x[:, :5], distortion=0.1), "5 columns"),
        (lambda: sae_description_length(sae, x, distortion=0.0), "distortion"),
        (lambda: sae_description_length(sae, x[:1], distortion=0.1), "all equal"),
        (
            lambda: sae_description_length(NormalizedSAE(sae, "layer_norm"), x, distortion=0.1),
            "codes alone",
        ),
    ):
        with pytest.raises(InputError, match=words):
            call()
