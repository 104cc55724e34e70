"""Attach adapters to a model, take them off, or merge them into its weights.

An adapter with a product of its own sits beside its module, whose output it adds to (a forward
hook): the weight is neither copied nor replaced. Any other is a parametrization of the weight, as
in torch: W + D is formed in each forward pass. Either way the model keeps its classes and its
weights, trains in any loop, and is itself again, bit for bit, after :func:`detach`.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils.hooks import RemovableHandle

from lowdim.adapt.adapter import Adapter, ProductAdapter
from lowdim.adapt.method import Method, no_gradient
from lowdim.adapt.targets import Target, Targets, find_targets, is_head
from lowdim.errors import InputError

BESIDE = "lowdim_adapter"
"""Name of the adapter among its module's children."""

RECORD = "lowdim_attached"
"""Where a model keeps what was attached to it."""


@dataclass
class Group:
    """Tensors that one method adapts together."""

    method: Method
    targets: list[Target]
    adapters: list[Adapter]


@dataclass
class Attached:
    """What was attached to a model.

    Attributes
    ----------
    groups : list of Group
        Methods, their targets and adapters.
    also : list of str
        Modules that train whole beside the adapters.
    seed : int
        Of all random parts.
    trained_before : dict of str to bool
        Which parameters trained before.
    buffers_before : dict of str to Tensor
        Persistent buffers of the base, which training may move (batch norms).
    hooks : list
        What puts the adapters beside their modules.
    """

    groups: list[Group]
    also: list[str]
    seed: int
    trained_before: dict[str, bool]
    buffers_before: dict[str, Tensor]
    hooks: list[RemovableHandle] = field(default_factory=list)

    def pairs(self) -> list[tuple[Target, Adapter]]:
        """Every target and its adapter."""
        return [pair for g in self.groups for pair in zip(g.targets, g.adapters, strict=True)]

    def adapter_parameters(self) -> list[nn.Parameter]:
        """Parameters of the adapters, shared ones once."""
        found = {id(p): p for _, adapter in self.pairs() for p in adapter.parameters()}
        return list(found.values())

    @property
    def n_trainable(self) -> int:
        """Numbers that the adapters train, shared ones once; ``also`` not counted."""
        return sum(p.numel() for p in self.adapter_parameters())


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
        How to adapt; or one method for each target name or pattern, as an allocation gives.
    targets : str, type or sequence of them
        See :func:`find_targets`; not with a mapping.
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
        method cannot adapt, sizes that do not factor, or a missing gradient. The model is then as
        it was.

    Warns
    -----
    UserWarning
        An output head stays frozen although nothing says it was trained.
    """
    groups = _groups(model, method, targets)
    for group in groups:
        make_adapters(group, seed)
        for target, adapter in zip(group.targets, group.adapters, strict=True):
            gradient = (gradients or {}).get(target.name)
            if group.method.uses_gradients and gradient is None:
                raise no_gradient(target)
            with torch.no_grad():
                adapter.start(target.weight, gradient)
    record = install(model, groups, also, seed)
    _warn_of_head(model, record)
    return record


def install(model: nn.Module, groups: list[Group], also: Sequence[str], seed: int) -> Attached:
    """Freeze a model and put finished adapters in their places."""
    if hasattr(model, RECORD):
        raise InputError("the model has adapters already: merge or detach them first")
    _check_apart(groups)
    record = Attached(
        groups,
        _modules(model, also),
        seed,
        {name: p.requires_grad for name, p in model.named_parameters()},
        {name: x.clone() for name, x in model.named_buffers() if name in model.state_dict()},
    )
    model.requires_grad_(False)
    for target, adapter in record.pairs():
        adapter.to(target.weight.device)
        _place(target, adapter, record.hooks)
    for name in record.also:
        model.get_submodule(name).requires_grad_(True)
    setattr(model, RECORD, record)
    return record


def make_adapters(group: Group, seed: int) -> None:
    """Give a group its adapters, before any start from data; tensors that are tied share one."""
    first: dict[int, Target] = {}
    for target in group.targets:
        first.setdefault(id(getattr(target.module, target.tensor)), target)
    made = dict(zip(first, group.method.build(list(first.values()), seed), strict=True))
    group.adapters = [made[id(getattr(t.module, t.tensor))] for t in group.targets]


def attached(model: nn.Module) -> Attached:
    """What is attached to a model.

    Raises
    ------
    InputError
        Nothing is.
    """
    found = getattr(model, RECORD, None)
    if found is None:
        raise InputError("the model has no adapters: attach or load some first")
    return found


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
        _remove(target)
    delattr(model, RECORD)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(record.trained_before.get(name, True))


@torch.no_grad()
def merge(model: nn.Module) -> nn.Module:
    """Add every update to its weight and take the adapters off: a plain model, as fast as before.

    Raises
    ------
    InputError
        An update that is not one tensor (it depends on the input), or one with NaN or Inf; the
        model is then as it was.
    """
    pairs = attached(model).pairs()
    deltas = [_finite(target, adapter) for target, adapter in pairs]
    _take_off(model, attached(model))
    done: set[int] = set()
    for (target, _), delta in zip(pairs, deltas, strict=True):
        stored = getattr(target.module, target.tensor)
        if id(stored) not in done:  # a tied tensor is one
            target.weight.add_(delta.to(target.weight))
            done.add(id(stored))
    return model


def _finite(target: Target, adapter: Adapter) -> Tensor:
    if not adapter.mergeable:
        raise InputError(
            f"the update of {target.name} depends on the input: it cannot be merged into a weight"
        )
    delta = adapter.delta().detach()
    if not bool(torch.isfinite(delta).all()):
        raise InputError(f"the update of {target.name} is not finite: the training diverged")
    return delta


def _groups(
    model: nn.Module, method: Method | Mapping[str, Method], targets: Targets | None
) -> list[Group]:
    if isinstance(method, Method):
        if targets is None:
            raise InputError("name the targets, e.g. targets=['query', 'value'] or 'linear'")
        return [Group(method, _fitting(method, find_targets(model, targets)), [])]
    if targets is not None or not method:
        raise InputError("a mapping of targets to methods names the targets itself, at least one")
    return [Group(m, _fitting(m, find_targets(model, name)), []) for name, m in method.items()]


def _fitting(method: Method, targets: list[Target]) -> list[Target]:
    for target in targets:
        if target.kind not in method.kinds:
            raise InputError(
                f"{method.id} adapts {', '.join(sorted(method.kinds))} tensors and {target.name} "
                f"is of kind {target.kind}: leave it out"
            )
    if not targets:
        raise InputError(f"{method.id} finds nothing to adapt: name other targets")
    return targets


def _check_apart(groups: list[Group]) -> None:
    names = [target.name for group in groups for target in group.targets]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise InputError(f"{min(twice)} is adapted twice: name each target once")


def _modules(model: nn.Module, names: Sequence[str]) -> list[str]:
    """Full names of the modules that these names or ends of names mean."""
    known = [name for name, _ in model.named_modules() if name]
    found = []
    for want in names:
        hits = [name for name in known if name == want or name.endswith("." + want)]
        if not hits:
            raise InputError(f"also={want!r}: {type(model).__name__} has no such module")
        found += hits
    return found


def _place(target: Target, adapter: Adapter, hooks: list[RemovableHandle]) -> None:
    if isinstance(adapter, ProductAdapter) and target.kind in ("linear", "embedding"):
        target.module.add_module(BESIDE, adapter)
        after = _add_rows if target.kind == "embedding" else _add_product
        hooks.append(target.module.register_forward_hook(after))
    else:
        update = _Sum(adapter, target.transposed)
        parametrize.register_parametrization(target.module, target.tensor, update)


def _remove(target: Target) -> None:
    module, tensor = target.module, target.tensor
    if parametrize.is_parametrized(module, tensor):
        parametrize.remove_parametrizations(module, tensor, leave_parametrized=False)
    else:
        delattr(module, BESIDE)


def _add_product(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
    """Forward hook of a linear layer: add the product of the update with the input."""
    adapter = module.get_submodule(BESIDE)
    dtype = next(adapter.parameters()).dtype
    return output + adapter(inputs[0].to(dtype)).to(output.dtype)


def _add_rows(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
    """Forward hook of an embedding: add the rows of the update."""
    adapter: ProductAdapter = module.get_submodule(BESIDE)  # type: ignore[assignment]
    return output + adapter.rows(inputs[0]).to(output.dtype)


class _Sum(nn.Module):
    """W + D, as a parametrization of W."""

    def __init__(self, adapter: Adapter, transposed: bool) -> None:
        super().__init__()
        self.adapter = adapter
        self.transposed = transposed

    def forward(self, weight: Tensor) -> Tensor:
        delta = self.adapter.delta().to(weight.dtype)
        return weight + (delta.T if self.transposed else delta)


def _warn_of_head(model: nn.Module, record: Attached) -> None:
    """Say so where an output head was left out: a new one would stay as it was drawn."""
    adapted = {target.module_name for target, _ in record.pairs()}
    heads = [
        name
        for name, module in model.named_modules()
        if is_head(name) and name.split(".")[-1] != "lm_head" and list(module.parameters())
    ]
    for head in heads:
        inside = any(n == head or n.startswith(head + ".") for n in (*adapted, *record.also))
        if not inside:
            warnings.warn(
                f"{head} stays frozen: if it is new, train it with also=['{head}']", stacklevel=3
            )
