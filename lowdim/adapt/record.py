"""What is attached to a model, and where it keeps it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lowdim.adapt.adapter import Adapter
from lowdim.adapt.method import Method
from lowdim.adapt.targets import Target
from lowdim.errors import InputError

RECORD = "lowdim_attached"
"""Where a model keeps what was attached to it."""


@dataclass
class Group:
    """Tensors that one method adapts together."""

    method: Method
    targets: list[Target]
    adapters: list[Adapter] = field(default_factory=list, repr=False)

    def distinct(self) -> list[tuple[Target, Adapter]]:
        """Each adapter once, with the first of the targets that share it (tied tensors)."""
        first: dict[int, tuple[Target, Adapter]] = {}
        for target, adapter in zip(self.targets, self.adapters, strict=True):
            first.setdefault(id(adapter), (target, adapter))
        return list(first.values())


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
    ties : list of str
        Parameters without adapter that are tied to an adapted one.
    trained_before : dict of str to bool
        Which parameters trained before.
    buffers_before : dict of str to Tensor
        Persistent buffers of the base, which training may move (batch norms).
    hooks : list
        What adds the adapters' products, and keeps what they share once in the state dict.
    """

    groups: list[Group]
    also: list[str]
    seed: int
    ties: list[str] = field(repr=False)
    trained_before: dict[str, bool] = field(repr=False)
    buffers_before: dict[str, Tensor] = field(repr=False)
    hooks: list[RemovableHandle] = field(default_factory=list, repr=False)

    def pairs(self) -> list[tuple[Target, Adapter]]:
        """Every target and its adapter."""
        return [pair for g in self.groups for pair in zip(g.targets, g.adapters, strict=True)]

    def distinct(self) -> list[tuple[Target, Adapter]]:
        """Every adapter once, with the first of its targets."""
        return [pair for group in self.groups for pair in group.distinct()]

    def adapter_parameters(self) -> list[nn.Parameter]:
        """Parameters of the adapters, shared ones once."""
        found = {id(p): p for _, adapter in self.pairs() for p in adapter.parameters()}
        return list(found.values())

    @property
    def n_trainable(self) -> int:
        """Numbers that the adapters train, shared ones once; ``also`` not counted."""
        return sum(p.numel() for p in self.adapter_parameters())


def check_bare(model: nn.Module) -> None:
    """Raise where a model, or a module inside it, has adapters."""
    if any(isinstance(module, Adapter) for module in model.modules()):
        raise InputError("the model has adapters already: merge or detach them first")


def attached(model: nn.Module) -> Attached:
    """What is attached to a model.

    Raises
    ------
    InputError
        Nothing is.
    """
    record = vars(model).get(RECORD)
    if record is None:
        if any(RECORD in vars(module) for module in model.modules()):
            raise InputError(
                f"the adapters belong to a module inside this {type(model).__name__}: give that one"
            )
        raise InputError("the model has no adapters: attach or load some first")
    return record


def base_buffers(model: nn.Module) -> dict[str, Tensor]:
    """Buffers of the base, outside ``also``, before training; of the type that they have now."""
    now, before = dict(model.named_buffers()), attached(model).buffers_before
    return {name: x.to(now[name]) for name, x in before.items()}


def moved_buffers(model: nn.Module) -> dict[str, Tensor]:
    """Those of :func:`base_buffers` that training has moved, as they are now."""
    now = dict(model.named_buffers())
    return {name: now[name] for name, x in base_buffers(model).items() if not x.equal(now[name])}


def inside(name: str, modules: Iterable[str]) -> bool:
    """Whether a parameter, buffer or module lies in one of these modules, or is one."""
    return any(name == module or name.startswith(module + ".") for module in modules)
