"""What can be attached to a model, asked before anything is changed."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from lowdim.adapt.method import Method, no_gradient
from lowdim.adapt.place import beside
from lowdim.adapt.record import Attached, Group, inside
from lowdim.adapt.targets import Target, find_targets, is_head
from lowdim.errors import InputError

FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def fitting(method: Method, targets: list[Target]) -> list[Target]:
    """The targets, or an error that names the first one that the method cannot adapt."""
    for target in targets:
        if target.kind not in method.kinds:
            raise InputError(
                f"{method.id} adapts {', '.join(sorted(method.kinds))} tensors and {target.name} "
                f"is of kind {target.kind}: leave it out"
            )
        if target.tensor not in dict(target.module.named_parameters(recurse=False)):
            raise InputError(
                f"{target.name} is no parameter but computed from others (weight_norm, a "
                "parametrization): remove that first"
            )
        if target.weight.dtype not in FLOATS:
            raise InputError(
                f"{target.name} is stored as {target.weight.dtype}: load the model unquantised, in "
                "16 or 32 bits"
            )
        if getattr(target.module, "max_norm", None) is not None:
            raise InputError(
                f"{target.module_name} has max_norm, which changes its weight in each forward "
                "pass: it cannot stay frozen"
            )
    if not targets:
        raise InputError(f"{method.id} finds nothing to adapt: name other targets")
    return targets


def gradient_of(method: Method, target: Target, gradients: Mapping[str, Tensor]) -> Tensor | None:
    """The gradient that is given for a target, or an error where it is needed or does not fit."""
    gradient = gradients.get(target.name)
    if gradient is None and method.uses_gradients:
        raise no_gradient(target)
    if gradient is not None and tuple(gradient.shape) != target.shape:
        raise InputError(
            f"the gradient of {target.name} has shape {tuple(gradient.shape)} and the tensor "
            f"{target.shape}: take it with lowdim.adapt.gradients from this model"
        )
    if gradient is not None and not bool(torch.isfinite(gradient).all()):
        raise InputError(f"the gradient of {target.name} holds NaN or Inf: check the data")
    return gradient


def check_apart(model: nn.Module, groups: list[Group], whole: list[str]) -> None:
    """Raise where a tensor has two adapters, trains whole beside one, or has no place for it."""
    uses = Counter(target.name for group in groups for target in group.targets)
    name, times = uses.most_common(1)[0]
    if times > 1:
        raise InputError(f"{name} is adapted twice: name each target once")
    owners: dict[int, int] = {}
    trained = {id(p) for module in whole for p in model.get_submodule(module).parameters()}
    for i, group in enumerate(groups):
        for target in group.targets:
            if owners.setdefault(id(target.parameter), i) != i:
                raise InputError(
                    f"{target.name} is tied to a tensor that another method adapts: give both one"
                )
            if id(target.parameter) in trained:
                raise InputError(
                    f"{target.name} is adapted and also={whole} trains it whole: choose one"
                )
        for target, adapter in group.distinct():
            if not (adapter.mergeable or beside(target, adapter)):
                raise InputError(
                    f"{target.name} belongs to a {type(target.module).__name__}, whose forward "
                    "pass may be another: an update that depends on the input fits a plain layer"
                )


def ties(model: nn.Module, groups: list[Group]) -> list[str]:
    """Parameters without adapter that are the same tensor as one that has one."""
    targets = [target for group in groups for target in group.targets]
    names, tensors = {t.name for t in targets}, {id(t.parameter) for t in targets}
    every = find_targets(model, "all")
    return [t.name for t in every if id(t.parameter) in tensors and t.name not in names]


def modules_of(model: nn.Module, names: Sequence[str]) -> list[str]:
    """Full names of the modules that these names or ends of names mean."""
    known = [name for name, _ in model.named_modules() if name]
    found = []
    for want in names:
        hits = [name for name in known if name == want or name.endswith("." + want)]
        if not hits:
            raise InputError(f"also={want!r}: {type(model).__name__} has no such module")
        found += [name for name in hits if name not in found]
    return found


def warn_of_head(model: nn.Module, record: Attached) -> None:
    """Say so where an output head was left out: a new one would stay as it was drawn."""
    trained = [*(target.module_name for target, _ in record.pairs()), *record.also]
    for name, module in model.named_modules():
        head = is_head(name) and name.split(".")[-1] != "lm_head" and list(module.parameters())
        if head and not inside(name, trained) and not any(inside(n, [name]) for n in trained):
            warnings.warn(
                f"{name} stays frozen: if it is new, train it with also=['{name}']", stacklevel=3
            )
