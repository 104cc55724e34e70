"""Attach adapters to a model, take them off, or merge them into its weights.

The model keeps its classes and its weights, trains in any loop, and is itself again, bit for bit,
after :func:`detach`. An adapter meets what its module is called with: where other code reads the
weight of an embedding or a linear layer directly (``h @ emb.weight.T``), that product is the
base's until the update is merged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from lowdim.adapt.check import (
    check_apart,
    fitting,
    gradient_of,
    modules_of,
    ties,
    warn_of_head,
)
from lowdim.adapt.method import Method
from lowdim.adapt.place import keep_once, place, remove
from lowdim.adapt.record import RECORD, Attached, Group, attached, check_bare, inside
from lowdim.adapt.targets import Target, Targets, find_targets
from lowdim.errors import InputError


def attach(
    model: nn.Module,
    method: Method | Mapping[str, Method],
    targets: Targets | None = None,
    *,
    also: Sequence[str] = (),
    gradients: Mapping[str, Tensor] | None = None,
    seed: int = 0,
) -> Attached:
    """Freeze a model and add an adapter to each target; only the adapters train.

    Parameters
    ----------
    model : torch.nn.Module
        Changed in place: every parameter is frozen but those of the adapters and of ``also``.
    method : Method or mapping of str to Method
        How to adapt; or one method for each target name or pattern, as an allocation gives; a
        full name then means its module alone.
        Targets of equal methods are adapted together.
    targets : str, type or sequence of them
        See :func:`find_targets`; not with a mapping. ``"all"`` and ``"linear"`` leave out what
        ``also`` trains.
    also : sequence of str
        Modules that train whole, such as a new classifier: full names or ends of names.
    gradients : mapping of str to Tensor, optional
        Gradient of the loss by each target's weight, by the name of the parameter, for methods
        that start from it: see :func:`lowdim.adapt.gradients`.
    seed : int
        Of the random parts, in [0, 2^64).

    Returns
    -------
    Attached
        The adapters, and ``n_trainable``.

    Raises
    ------
    InputError
        A model that has adapters already, an unknown target (near names are listed), one that the
        method cannot adapt, sizes that do not factor, a missing gradient, or a target that
        ``also`` trains. The model is then as it was.

    Warns
    -----
    UserWarning
        An output head stays frozen although nothing says it was trained.

    Notes
    -----
    Adapters compute in float32, on the device of their weight; in float64 where the weight is.
    Move or cast the model after it as ever: ``model.to("cuda")``, ``model.half()``, autocast. On
    several GPUs wrap it in DistributedDataParallel.
    """
    check_bare(model)
    groups = _groups(model, method, targets, modules_of(model, also))
    for group in groups:
        make_adapters(group, seed)
        for target, adapter in group.distinct():
            gradient = gradient_of(group.method, target, gradients or {})
            dtype = torch.promote_types(target.weight.dtype, torch.float32)
            adapter.to(dtype)  # before the start, so that what it takes is rounded only once
            with torch.no_grad():
                adapter.start(target.weight, gradient)
            adapter.to(dtype)
            for x in adapter.state_dict(keep_vars=True).values():
                x.data = x.data.contiguous()  # as a file will give it: sums in the same order
    record = install(model, groups, also, seed)
    warn_of_head(model, record)
    return record


def install(model: nn.Module, groups: list[Group], also: Sequence[str], seed: int) -> Attached:
    """Freeze a model and put finished adapters in their places."""
    whole = modules_of(model, also)
    check_apart(model, groups, whole)
    stored = model.state_dict(keep_vars=True)
    record = Attached(
        groups,
        whole,
        seed,
        ties(model, groups),
        {name: p.requires_grad for name, p in model.named_parameters(remove_duplicate=False)},
        {
            name: x.clone()
            for name, x in model.named_buffers()
            if name in stored and not inside(name, whole)
        },
    )
    model.requires_grad_(False)
    for target, adapter in record.pairs():
        record.hooks += place(target, adapter)
    record.hooks += keep_once(model, [adapter for _, adapter in record.distinct()])
    for name in whole:
        model.get_submodule(name).requires_grad_(True)
    setattr(model, RECORD, record)
    return record


def make_adapters(group: Group, seed: int) -> None:
    """Give a group its adapters, before any start from data; tensors that are tied share one."""
    first: dict[int, Target] = {}
    for target in group.targets:
        first.setdefault(id(target.parameter), target)
    made = dict(zip(first, group.method.build(list(first.values()), seed), strict=True))
    group.adapters = [made[id(t.parameter)] for t in group.targets]
    for target, adapter in group.distinct():
        adapter.to(target.weight.device)


def detach(model: nn.Module) -> nn.Module:
    """Take every adapter off: weights and buffers are those of the base, bit for bit.

    Modules that trained whole (``also``) keep what they learned; which parameters train is again
    as before :func:`attach`.
    """
    record = attached(model)
    _take_off(model, record)
    buffers = dict(model.named_buffers())
    for name, before in record.buffers_before.items():
        buffers[name].copy_(before)
    return model


def _take_off(model: nn.Module, record: Attached) -> None:
    for hook in record.hooks:
        hook.remove()
    for target, _ in record.pairs():
        remove(target)
    delattr(model, RECORD)
    adapted = {target.module for target, _ in record.pairs()}
    for name, trained in record.trained_before.items():
        parent, _, leaf = name.rpartition(".")
        module, parameter = model.get_submodule(parent), model.get_parameter(name)
        parameter.requires_grad_(trained)
        if module in adapted:  # a tensor that was parametrized came back behind the others:
            delattr(module, leaf)
            module.register_parameter(leaf, parameter)  # each in turn restores the old order


@torch.no_grad()
def merge(model: nn.Module) -> nn.Module:
    """Add every update to its weight and take the adapters off: a plain model, as fast as before.

    Raises
    ------
    InputError
        An update that is not one tensor (it depends on the input), one with NaN or Inf, or a
        tensor that is tied to one without adapter; the model is then as it was.

    Notes
    -----
    Each update is formed twice, to hold one at a time and still to change nothing on an error.
    """
    record = attached(model)
    if record.ties:
        raise InputError(
            f"{record.ties[0]} is tied to an adapted tensor and has no adapter: merging would "
            "change both; adapt both, or untie them before"
        )
    for target, adapter in record.distinct():
        if not adapter.mergeable:
            raise InputError(
                f"the update of {target.name} depends on the input: it cannot be merged into a "
                "weight"
            )
        if not bool(torch.isfinite(adapter.update(target.weight)).all()):
            raise InputError(f"the update of {target.name} is not finite: the training diverged")
    _take_off(model, record)
    for target, adapter in record.distinct():
        target.weight.add_(adapter.update(target.weight))
    return model


def _groups(
    model: nn.Module,
    method: Method | Mapping[str, Method],
    targets: Targets | None,
    whole: Sequence[str],
) -> list[Group]:
    if isinstance(method, Method):
        if targets is None:
            raise InputError("name the targets, e.g. targets=['query', 'value'] or 'linear'")
        found = find_targets(model, targets)
        if targets in ("all", "linear"):  # all but what trains whole
            found = [target for target in found if not inside(target.name, whole)]
        return [Group(method, fitting(method, found))]
    if targets is not None or not method:
        raise InputError("a mapping of targets to methods names the targets itself, at least one")
    groups: list[Group] = []
    for name, own in method.items():
        hits = find_targets(model, name)
        # a full name, as an allocation gives it, is that module alone and not also "x.name"
        found = fitting(own, [t for t in hits if t.module_name == name] or hits)
        same = [group for group in groups if group.method == own]
        if same:
            same[0].targets += found
        else:
            groups.append(Group(own, found))
    return groups
