"""Which tensors of a model are adapted: by name, by pattern, by type, or all.

A module is named as in peft: by its full name, by the end of it (``query`` means every module
whose last part is ``query``), or by a shell pattern (``*.layer.[0-3].*.query``).
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize

from lowdim.errors import InputError

Targets = str | type[nn.Module] | Sequence[str | type[nn.Module]]

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
HEADS = ("classifier", "score", "lm_head", "qa_outputs", "head", "fc")
"""Last parts of the names that output layers go by."""


@dataclass(frozen=True)
class Target:
    """One tensor of a model that is adapted.

    Attributes
    ----------
    module_name : str
        Name of its module.
    module : torch.nn.Module
        The module.
    tensor : str
        Which parameter of the module: ``weight``, ``bias``, ...
    """

    module_name: str
    module: nn.Module = field(repr=False)
    tensor: str = "weight"

    @property
    def name(self) -> str:
        """Name of the parameter in the model."""
        return f"{self.module_name}.{self.tensor}" if self.module_name else self.tensor

    @property
    def kind(self) -> str:
        """``linear``, ``embedding``, ``convolution``, or ``other`` (a bias, a norm)."""
        if self.tensor != "weight":
            return "other"
        if isinstance(self.module, nn.Linear) or self.transposed:
            return "linear"
        if isinstance(self.module, nn.Embedding):
            return "embedding"
        return "convolution" if isinstance(self.module, CONVOLUTIONS) else "other"

    @property
    def transposed(self) -> bool:
        """Whether the module stores its weight as (in, out): transformers' Conv1D."""
        kind = parametrize.type_before_parametrizations(self.module)
        return self.tensor == "weight" and kind.__name__ == "Conv1D" and hasattr(self.module, "nf")

    @property
    def parameter(self) -> nn.Parameter:
        """The frozen parameter, also while an update is a parametrization of it."""
        if parametrize.is_parametrized(self.module, self.tensor):
            return self.module.get_parameter(f"parametrizations.{self.tensor}.original")
        return self.module.get_parameter(self.tensor)

    @property
    def weight(self) -> Tensor:
        """The frozen tensor, (out, in, *kernel) where it is a weight; shares memory."""
        stored = self.parameter.detach()
        return stored.T if self.transposed else stored

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of :attr:`weight`."""
        return tuple(self.weight.shape)


def find_targets(model: nn.Module, targets: Targets) -> list[Target]:
    """Which tensors of the model do these names, patterns or types mean?

    Parameters
    ----------
    model : torch.nn.Module
        Any.
    targets : str, type, or sequence of them
        Module names, ends of names, shell patterns or module types: their weights. ``"linear"``
        means every linear layer but an output head, ``"all"`` every parameter of the model.

    Returns
    -------
    list of Target
        In the order of the model, each once.

    Raises
    ------
    InputError
        A name that no module has (near ones are listed), or a module without a weight.
    """
    if targets == "all":
        return _every_parameter(model)
    if targets == "linear":
        every = [Target(name, module) for name, module in model.named_modules()]
        return [t for t in every if t.kind == "linear" and not is_head(t.module_name)]
    wanted = [targets] if isinstance(targets, (str, type)) else list(targets)
    modules = dict(model.named_modules(remove_duplicate=False))  # a module may have two names
    chosen: set[nn.Module] = set()
    for want in wanted:
        hits = {module for name, module in modules.items() if _means(want, name, module)}
        if not hits:
            raise InputError(f"no module of {type(model).__name__} is {_shown(want, modules)}")
        chosen |= hits
    found = [Target(name, module) for name, module in model.named_modules() if module in chosen]
    for target in found:
        if not isinstance(getattr(target.module, "weight", None), Tensor):
            raise InputError(
                f"{target.module_name} ({type(target.module).__name__}) has no weight of its own: "
                "name the layers inside it"
            )
    return found


def is_head(name: str) -> bool:
    """Whether a module goes by the name of an output layer."""
    return name.split(".")[-1] in HEADS


def _means(want: Any, name: str, module: nn.Module) -> bool:
    if isinstance(want, type):
        return isinstance(module, want)
    return name == want or name.endswith("." + want) or fnmatchcase(name, want)


def _every_parameter(model: nn.Module) -> list[Target]:
    """Every parameter under each of its names, so that tied ones are adapted everywhere."""
    return [
        Target(module_name, module, tensor)
        for module_name, module in model.named_modules()
        for tensor, _ in module.named_parameters(recurse=False)
    ]


def _shown(want: Any, modules: dict[str, nn.Module]) -> str:
    if isinstance(want, type):
        return f"of type {want.__name__}"
    known = sorted({n.split(".")[-1] for n in modules} | set(modules) - {""})
    close = difflib.get_close_matches(want, known, n=3)
    linear = {n.split(".")[-1] for n, m in modules.items() if Target(n, m).kind == "linear"}
    hint = f"did you mean {' or '.join(close)}?" if close else f"it has {', '.join(sorted(linear))}"
    return f"named {want!r}: {hint}"
