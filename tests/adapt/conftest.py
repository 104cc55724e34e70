"""Every registered adaptation method, with options that a small model asks for."""

from __future__ import annotations

import pytest
import torch

from lowdim.adapt import adaptation_methods, task_vector
from tests.adapt.sample import zoo

OPTIONS = {
    "atlas": {"parts": 2},
    "flora": {"rank": 2},
    "lora-ga": {"rank": 2},
    "lora-sb": {"rank": 2},
    "lsr": {"terms": 3},
    "mos": {"rank": 2, "shards": 2},
    "random-subspace": {"dim": 40},
    "shared-parameters": {"numbers": 100},
    "sltrain": {"rank": 2, "density": 0.05},
    "svfit": {"rank": 4},
    "textual-subspace": {"tokens": (3, 5), "rank": 3},
}


@pytest.fixture(params=sorted(adaptation_methods()))
def method(request, tmp_path):
    options = dict(OPTIONS.get(request.param, {}))
    if request.param == "atlas":
        options["vectors"] = [str(vector) for vector in task_vectors(tmp_path)]
    return adaptation_methods()[request.param](**options)


def task_vectors(folder):
    """Two updates of the zoo."""
    base = zoo()
    for seed in (1, 2):
        other = zoo()
        torch.manual_seed(seed)
        for parameter in other.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
        task_vector(base, other, folder / f"vector{seed}.safetensors")
    return sorted(folder.glob("vector*.safetensors"))
