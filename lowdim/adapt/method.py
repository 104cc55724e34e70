"""What an adaptation method is: options, a count, and an adapter for each tensor.

A method is a frozen dataclass of its options (`LSR(rank=2, terms=16)`), registered under
``adapt/<name>``. It makes an adapter of a tensor (:meth:`Method.adapter`) and knows how many
numbers train before anything is made (:meth:`Method.count`), so that :func:`at_budget` can choose
its size.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import zlib
from abc import ABC, abstractmethod
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from lowdim.adapt.adapter import Adapter
from lowdim.adapt.targets import Target
from lowdim.core import random
from lowdim.errors import InputError


@dataclass(frozen=True)
class Draws:
    """Random numbers of one adapter: by the seed, the tensor's name and the part drawn.

    The same on every device, and the same whichever other tensors are adapted.
    """

    seed: int
    name: str

    def stream(self, part: str) -> int:
        """The stream that a part is drawn from."""
        return zlib.crc32(f"{self.name}/{part}".encode())

    def normal(self, part: str, shape: Sequence[int], std: float = 1.0) -> Tensor:
        """Normals, float32."""
        return random.normal(shape, self.seed, self.stream(part)) * std

    def uniform(self, part: str, shape: Sequence[int], bound: float) -> Tensor:
        """Uniform between -bound and bound, float32."""
        drawn = random.uniform(shape, self.seed, self.stream(part))
        return ((2 * drawn - 1) * bound).float()


@dataclass(frozen=True)
class Method(ABC):
    """Options of a way to adapt, and how it makes adapters from them.

    Subclasses are frozen dataclasses with defaults for every option, values of JSON kinds.

    Attributes
    ----------
    kinds : frozenset of str
        Kinds of tensors that it can adapt, see :class:`Target`.
    size : str
        The whole-number option that its count grows with.
    uses_gradients : bool
        Whether its start rests on gradients of the weights.
    """

    kinds: ClassVar[frozenset[str]] = frozenset({"linear", "embedding", "convolution"})
    size: ClassVar[str] = "rank"
    uses_gradients: ClassVar[bool] = False

    @property
    def starts_at_base(self) -> bool:
        """Whether the adapted model's outputs are those of the base, bit for bit, at the start."""
        return True

    @abstractmethod
    def adapter(self, target: Target, draws: Draws) -> Adapter:
        """An adapter of one tensor, its random parts drawn."""

    @abstractmethod
    def count(self, shapes: Sequence[tuple[int, ...]]) -> int:
        """How many numbers train when tensors of these shapes are adapted together."""

    def build(self, targets: Sequence[Target], seed: int) -> list[Adapter]:
        """An adapter of each; a method whose adapters share parameters makes them here."""
        return [self.adapter(target, Draws(seed, target.name)) for target in targets]

    @property
    def id(self) -> str:
        """Name that it is registered under, without the room."""
        return method_name(type(self))

    def options(self) -> dict[str, Any]:
        """Its options, as JSON values."""
        return dataclasses.asdict(self)

    def resized(self, size: int) -> Self:
        """The same with another value of its size option."""
        return dataclasses.replace(self, **{self.size: size})


def at_budget(method: Method, shapes: Sequence[tuple[int, ...]], budget: int) -> Method:
    """Which size of this method trains the most numbers within ``budget``?

    Where the count stops growing (a rank beyond the tensors'), the smallest size that reaches it.

    Parameters
    ----------
    method : Method
        Its other options are kept.
    shapes : sequence of tuple of int
        Of the tensors that are adapted.
    budget : int
        Trained numbers in all.

    Raises
    ------
    InputError
        Even its smallest size trains more: names that count.
    """

    def count(size: int) -> int:
        return method.resized(size).count(shapes)

    if (least := count(1)) > budget:
        raise InputError(
            f"{method.id} trains {least:,} numbers on these {len(shapes)} tensors at its smallest "
            f"size, {method.size}=1: give a budget of that, or fewer targets"
        )
    high = 2
    while high <= budget and count(high) <= budget:  # each size trains at least one number
        high *= 2
    fits = bisect_right(range(1, high), budget, key=count)  # sizes 1, 2, ... within the budget
    return method.resized(bisect_left(range(1, fits + 1), count(fits), key=count) + 1)


def method_name(kind: type[Method]) -> str:
    """``lsr`` of the class that is registered as ``adapt/lsr``."""
    for name, known in adaptation_methods().items():
        if known is kind:
            return name
    raise InputError(f"{kind.__name__} is not registered: decorate it with @method('adapt/name')")


def adaptation_methods() -> Mapping[str, type[Method]]:
    """Every registered adaptation method, by name."""
    from lowdim.registry import methods

    return {
        m.name: m.function
        for m in methods("adapt")
        if isinstance(m.function, type) and issubclass(m.function, Method)
    }


def make_method(name: str, options: Mapping[str, Any]) -> Method:
    """The method of this name with these options, as read from a file or the command line.

    Raises
    ------
    InputError
        No such method (near names are listed), no such option, or a value of another kind.
    """
    known = adaptation_methods()
    if name not in known:
        close = difflib.get_close_matches(name, known, n=3)
        hint = f"did you mean {' or '.join(close)}? " if close else ""
        raise InputError(f"no adaptation method {name!r}: {hint}there are {', '.join(known)}")
    kinds = {f.name: str(f.type) for f in dataclasses.fields(known[name])}
    if unknown := set(options) - set(kinds):
        raise InputError(
            f"{name} has no option {min(unknown)!r}: it has {', '.join(sorted(kinds)) or 'none'}"
        )
    for option, value in options.items():
        accepted = PLAIN.get(kinds[option], (type(value),))
        if type(value) not in accepted:
            raise InputError(f"{name}: {option}={value!r} is no {kinds[option]}")
    return known[name](**{option: _frozen(value) for option, value in options.items()})


PLAIN: Mapping[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (float, int),
    "bool": (bool,),
    "str": (str,),
}
"""What values an option of this annotation takes; others are the method's to check."""


def _frozen(value: Any) -> Any:
    """JSON knows lists only: tuples again, which have a hash."""
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def check_size(name: str, value: Any, largest: int | None = None) -> None:
    """Raise unless an option is a whole number of at least 1, and at most ``largest``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(f"{name}={value!r}: give a whole number of at least 1")
    if largest is not None and value > largest:
        raise InputError(f"{name}={value}: at most {largest} is possible here")


def check_positive(name: str, value: float) -> None:
    """Raise unless an option is a finite number above 0."""
    if not 0 < value < math.inf:
        raise InputError(f"{name}={value!r}: give a number above 0")


def no_gradient(target: Target) -> InputError:
    """What to say where a method is given no gradient of a tensor."""
    return InputError(
        f"there is no gradient of {target.name}: make them with lowdim.adapt.gradients(model, "
        "loss, batches) and give them as gradients="
    )


def zeros(*shape: int) -> torch.nn.Parameter:
    """A parameter of zeros."""
    return torch.nn.Parameter(torch.zeros(*shape))
