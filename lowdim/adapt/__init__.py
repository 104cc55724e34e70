"""Adapters of torch modules: train in the subspace the task needs, ship it anywhere."""

from lowdim.adapt.adapter import Adapter, LowRankAdapter, ProductAdapter
from lowdim.adapt.attach import Attached, attach, attached, detach, merge
from lowdim.adapt.export import Exported, to_lora
from lowdim.adapt.files import load, save
from lowdim.adapt.gradients import gradients
from lowdim.adapt.method import Draws, Method, adaptation_methods, at_budget, make_method
from lowdim.adapt.svfit import SVFit
from lowdim.adapt.targets import Target, find_targets

__all__ = [
    "Adapter",
    "Attached",
    "Draws",
    "Exported",
    "LowRankAdapter",
    "Method",
    "ProductAdapter",
    "SVFit",
    "Target",
    "adaptation_methods",
    "at_budget",
    "attach",
    "attached",
    "detach",
    "find_targets",
    "gradients",
    "load",
    "make_method",
    "merge",
    "save",
    "to_lora",
]
