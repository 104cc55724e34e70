"""What the measures of a network share: a module at rest, its layers, and its derivatives.

Everything rests on one assumption: in eval mode an output row depends on its own input row alone,
so one Jacobian-vector product of a block of rows serves them all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from lowdim.core.points import as_points
from lowdim.errors import InputError

DIRECTIONS = 64  # derivatives taken at once: beyond it a pass is no cheaper per direction

Layers = dict[str, Tensor]


@contextmanager
def at_rest(module: nn.Module) -> Iterator[None]:
    """Run in eval mode and record nothing; every submodule gets its own flag back."""
    flags = [(part, part.training) for part in module.modules()]
    fast = torch.backends.mha.get_fastpath_enabled()
    module.eval()
    torch.backends.mha.set_fastpath_enabled(False)  # fused attention has no forward derivative
    try:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for part, training in flags:
            part.training = training


def as_inputs(x: Any, *, name: str = "x", min_rows: int = 1) -> Tensor:
    """Check (n, ...) float inputs of any shape as points are checked."""
    x = torch.as_tensor(x)
    flat = x.flatten(1) if x.ndim > 2 else x
    flat = as_points(flat, name=name, min_rows=min_rows)
    return flat.reshape(x.shape) if x.ndim > 2 else flat


def state_in(module: nn.Module, dtype: torch.dtype) -> dict[str, Tensor]:
    """Parameters and buffers, the floating ones in ``dtype``: the module itself is not changed."""
    named = [*module.named_parameters(), *module.named_buffers()]
    return {k: v.detach().to(dtype) if v.is_floating_point() else v for k, v in named}


def place_of(module: nn.Module, x: Tensor) -> tuple[torch.device, torch.dtype]:
    """Where the module computes, and in which precision it should: never below float32."""
    for parameter in module.parameters():
        if parameter.is_floating_point():
            return parameter.device, torch.promote_types(parameter.dtype, torch.float32)
    return x.device, x.dtype


def first_tensor(output: Any) -> Tensor:
    """The output itself, or the first entry of a tuple of outputs."""
    output = output if isinstance(output, Tensor) else output[0]
    if not isinstance(output, Tensor):
        raise InputError(f"a layer returns {type(output).__name__}: name layers that give tensors")
    return output


def weighted_layers(module: nn.Module) -> list[str]:
    """Names of the linear and convolutional layers, whose outputs are the pre-activations."""
    return [
        name
        for name, part in module.named_modules()
        if not isinstance(part, nn.Embedding)
        and not any(part.children())
        and getattr(getattr(part, "weight", None), "ndim", 0) >= 2
    ]


@contextmanager
def watched(
    module: nn.Module, layers: Sequence[str] | None = None, *, dtype: torch.dtype
) -> Iterator[Callable[[Tensor], tuple[Tensor, Layers]]]:
    """Yield a function from inputs to the output and the (rows, width) outputs of the layers.

    Layers come in the order in which they run; one that runs twice counts with its last output.
    The hooks are removed in the end, whatever happens.
    """
    parts = dict(module.named_modules())
    names = weighted_layers(module) if layers is None else list(layers)
    if unknown := [name for name in names if name not in parts]:
        raise InputError(f"no layer {unknown[0]!r}: names are those of module.named_modules()")
    if not names:
        raise InputError("the module has no layer with a weight matrix: name some, layers=[...]")
    seen: Layers = {}

    def keep(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(part: nn.Module, inputs: Any, output: Any) -> None:
            seen.pop(name, None)
            seen[name] = first_tensor(output).clone().flatten(1)  # the next layer may work in place

        return hook

    def function(x: Tensor) -> tuple[Tensor, Layers]:
        seen.clear()
        output = first_tensor(functional_call(module, state, (x,)))
        return output.flatten(1), {name or "output": value for name, value in seen.items()}

    state = state_in(module, dtype)
    handles = [parts[name].register_forward_hook(keep(name)) for name in names]
    try:
        with at_rest(module):
            yield function
    finally:
        for handle in handles:
            handle.remove()


def along(
    function: Callable[[Tensor], Any], x: Tensor, directions: Tensor, *, chunk: int = DIRECTIONS
) -> Any:
    """Derivatives of a function of rows along directions, by forward differentiation.

    Parameters
    ----------
    function : callable
        (b, ...) to a tensor (b, width), or a dict of such.
    x : Tensor
        (b, ...).
    directions : Tensor
        (c, 1, ...) the same for all rows, or (c, b, ...).

    Returns
    -------
    Tensor or dict of Tensor
        (c, b, width).
    """

    def derivative(direction: Tensor) -> Any:
        return jvp(function, (x,), (direction.expand_as(x).clone(),))[1]

    return vmap(derivative, chunk_size=chunk)(directions)


def basis_of(x: Tensor) -> Tensor:
    """(d, 1, ...) unit directions of the input space."""
    d = math.prod(x.shape[1:])
    return torch.eye(d, dtype=x.dtype, device=x.device).reshape(d, 1, *x.shape[1:])


def as_layers(found: Tensor | Mapping[str, Tensor] | Sequence[Tensor]) -> Layers:
    """Name what a function of rows returns, each flattened to (rows, width)."""
    if isinstance(found, Tensor):
        found = {"output": found}
    elif not isinstance(found, Mapping):
        found = {str(i): value for i, value in enumerate(found)}
    return {name: value.flatten(1) for name, value in found.items()}
