"""Adapters of torch modules: train in the subspace the task needs, ship it anywhere."""

from lowdim.adapt.adapter import Adapter, LowRankAdapter, ProductAdapter
from lowdim.adapt.allocation import Allocation, suggest, suggest_by_inputs
from lowdim.adapt.atlas import ATLAS, task_vector
from lowdim.adapt.attach import Attached, attach, attached, detach, merge
from lowdim.adapt.bora import BoRA
from lowdim.adapt.compare import Contender, compare
from lowdim.adapt.comparison import Comparison
from lowdim.adapt.export import Exported, to_lora
from lowdim.adapt.files import load, save
from lowdim.adapt.fit import Fit, fit
from lowdim.adapt.flora import FLoRA, Tucker, hosvd
from lowdim.adapt.generalization import generalization_bound, quantized
from lowdim.adapt.gradients import gradients
from lowdim.adapt.intrinsic_dimension import IntrinsicDimension, intrinsic_dimension
from lowdim.adapt.lora_ga import LoRAGA
from lowdim.adapt.lora_sb import LoRASB, captured_share
from lowdim.adapt.lsr import LSR
from lowdim.adapt.method import Draws, Method, adaptation_methods, at_budget, make_method
from lowdim.adapt.module_task import ModuleTask, module_task
from lowdim.adapt.mos import MoS, StackedRank, stacked_rank
from lowdim.adapt.separation import KroneckerSum, nearest_lsr, separation_spectrum
from lowdim.adapt.shared_parameters import SharedParameters
from lowdim.adapt.sltrain import SLTrain
from lowdim.adapt.start import start
from lowdim.adapt.strata_adapter import StrataLoRA, fit_gates, given_shares
from lowdim.adapt.subspace import RandomSubspace
from lowdim.adapt.svfit import SVFit, ValueMoves, svfit_by_energy, value_moves
from lowdim.adapt.targets import Target, find_targets
from lowdim.adapt.task import Score, Task
from lowdim.adapt.text_tasks import CausalLM, TextClassification, causal_lm, text_classification
from lowdim.adapt.textual_subspace import TextualSubspace

__all__ = [
    "ATLAS",
    "LSR",
    "Adapter",
    "Allocation",
    "Attached",
    "BoRA",
    "CausalLM",
    "Comparison",
    "Contender",
    "Draws",
    "Exported",
    "FLoRA",
    "Fit",
    "IntrinsicDimension",
    "KroneckerSum",
    "LoRAGA",
    "LoRASB",
    "LowRankAdapter",
    "Method",
    "MoS",
    "ModuleTask",
    "ProductAdapter",
    "RandomSubspace",
    "SLTrain",
    "SVFit",
    "Score",
    "SharedParameters",
    "StackedRank",
    "StrataLoRA",
    "Target",
    "Task",
    "TextClassification",
    "TextualSubspace",
    "Tucker",
    "ValueMoves",
    "adaptation_methods",
    "at_budget",
    "attach",
    "attached",
    "captured_share",
    "causal_lm",
    "compare",
    "detach",
    "find_targets",
    "fit",
    "fit_gates",
    "generalization_bound",
    "given_shares",
    "gradients",
    "hosvd",
    "intrinsic_dimension",
    "load",
    "make_method",
    "merge",
    "module_task",
    "nearest_lsr",
    "quantized",
    "save",
    "separation_spectrum",
    "stacked_rank",
    "start",
    "suggest",
    "suggest_by_inputs",
    "svfit_by_energy",
    "task_vector",
    "text_classification",
    "to_lora",
    "value_moves",
]
