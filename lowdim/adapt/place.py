"""Where an adapter sits: beside its module, whose output it adds to, or in the weight itself.

Beside a plain linear layer or embedding the update's product is added by a forward hook, and the
weight is neither copied nor replaced. Everywhere else the weight is parametrized as in torch, and
W + D is formed in each forward pass: for updates without a cheap product, for convolutions, and for
modules of other classes, whose forward may scale, shift or bypass what the weight is multiplied by.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils.hooks import RemovableHandle

from lowdim.adapt.adapter import Adapter, ProductAdapter
from lowdim.adapt.targets import Target

BESIDE = "lowdim_adapter"
"""Name of the adapter among its module's children."""


def beside(target: Target, adapter: Adapter) -> bool:
    """Whether an adapter sits beside its module, and not in the weight."""
    plain = type(target.module) in (nn.Linear, nn.Embedding) or target.transposed
    return isinstance(adapter, ProductAdapter) and plain and target.kind != "other"


def place(target: Target, adapter: Adapter) -> list[RemovableHandle]:
    """Put an adapter in its place; returns the hooks that removal has to undo."""
    if beside(target, adapter):
        target.module.add_module(BESIDE, adapter)
        after = _add_rows if target.kind == "embedding" else _add_product
        return [target.module.register_forward_hook(after, with_kwargs=True)]
    update = _Sum(adapter, target.transposed)
    parametrize.register_parametrization(target.module, target.tensor, update)
    return []


def remove(target: Target) -> None:
    """Take the adapter of a target away; its hooks are the caller's to remove."""
    module, tensor = target.module, target.tensor
    if parametrize.is_parametrized(module, tensor):
        kind = type(module)  # deep copies share it, and removal takes the tensor's property off it
        module.__class__ = type(kind.__name__, kind.__bases__, dict(vars(kind)))
        parametrize.remove_parametrizations(module, tensor, leave_parametrized=False)
    else:
        delattr(module, BESIDE)


def keep_once(model: nn.Module, adapters: Iterable[Adapter]) -> list[RemovableHandle]:
    """Leave what adapters share in the model's state dict once, as savers ask; returns the hooks.

    The Trainer's ``save_pretrained`` refuses one tensor under two names.
    """
    own = {id(x) for adapter in adapters for x in adapter.state_dict(keep_vars=True).values()}
    state = model.state_dict(keep_vars=True)
    first: dict[int, str] = {}
    for name, x in state.items():
        first.setdefault(id(x), name)
    doubles = [name for name, x in state.items() if id(x) in own and first[id(x)] != name]
    if not doubles:
        return []
    return [
        model._register_state_dict_hook(partial(_leave_out, doubles)),
        model.register_load_state_dict_post_hook(partial(_do_not_miss, doubles)),
    ]


def _leave_out(
    names: Sequence[str], module: nn.Module, state: dict[str, Any], prefix: str, _: Any
) -> None:
    for name in names:
        state.pop(prefix + name, None)


def _do_not_miss(names: Sequence[str], module: nn.Module, incompatible: Any) -> None:
    missing = incompatible.missing_keys
    missing[:] = [key for key in missing if not key.endswith(tuple(names))]


def _add_product(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor
) -> Tensor:
    """Forward hook of a linear layer: add the product of the update with the input."""
    adapter = _beside(module)
    (x,) = (*args, *kwargs.values())
    return output + adapter(x.to(adapter.dtype)).to(output.dtype)


def _add_rows(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor
) -> Tensor:
    """Forward hook of an embedding: add the rows of the update."""
    (index,) = (*args, *kwargs.values())
    return output + _beside(module).rows(index).to(output.dtype)


def _beside(module: nn.Module) -> ProductAdapter:
    adapter = module.get_submodule(BESIDE)
    assert isinstance(adapter, ProductAdapter)  # place puts no other there
    return adapter


class _Sum(nn.Module):
    """W + D, as a parametrization of W."""

    def __init__(self, adapter: Adapter, transposed: bool) -> None:
        super().__init__()
        self.adapter = adapter
        self.transposed = transposed

    def forward(self, weight: Tensor) -> Tensor:
        with torch.autocast(weight.device.type, enabled=False):  # a weight is no activation
            delta = self.adapter.update(weight.T if self.transposed else weight)
        return (weight + (delta.T if self.transposed else delta)).to(weight.dtype)
