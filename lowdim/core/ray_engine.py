"""Shards on the cores of a Ray cluster: bounded, in order, and again where a worker died.

What travels is the function, sent once, and a shard: for files their path and a range of rows,
so a file has to lie where every machine sees it under the same path.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property, partial
from typing import Any, TypeVar

import torch

from lowdim.core.engine import State, accumulate, merged
from lowdim.errors import InputError, LowdimError, require

Item = TypeVar("Item")
Result = TypeVar("Result")


class RayEngine:
    """Work on a Ray cluster, which is started on this machine when there is none.

    Parameters
    ----------
    address : str, optional
        Of a running cluster, ``"ray://host:10001"``. By default the one this process is connected
        to, else the one that ``RAY_ADDRESS`` names, else a new one on this machine.
    threads : int
        Cores a task uses.
    retries : int
        How many times a shard is tried again after its worker died.
    **options
        Passed to ``ray.init``, e.g. ``num_cpus=2``.
    """

    def __init__(
        self, address: str | None = None, *, threads: int = 1, retries: int = 3, **options: Any
    ) -> None:
        self.threads, self.retries = threads, retries
        self.ray = ray = require("ray", "ray")
        if not ray.is_initialized():
            quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
            try:
                ray.init(address=address, **quiet | options)
            except (ConnectionError, ValueError, RuntimeError) as error:
                where = f" at {address}" if address else ""
                raise InputError(f"no Ray cluster answers{where}: {first_line(error)}") from error
        self._run = ray.remote(num_cpus=threads, max_retries=retries)(_on_worker)

    @cached_property
    def _cores(self) -> list[float]:
        """Of each machine that has any."""
        machines = (node["Resources"] for node in self.ray.nodes() if node["Alive"])
        return [cores for machine in machines if (cores := machine.get("CPU", 0)) >= self.threads]

    @property
    def tasks(self) -> int:
        """Tasks at once on the machine with the most cores."""
        return int(max(self._cores, default=self.threads) // self.threads)

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Apply ``function`` to each item; results in order.

        At most two tasks a core are under way or waiting to be fetched.
        """
        ray, sent = self.ray, self.ray.put(function)
        most = 2 * max(1, int(sum(self._cores) // self.threads))
        pending: deque[Any] = deque()
        try:
            for item in items:
                if len(pending) == most:
                    yield self._get(pending.popleft())
                pending.append(self._run.remote(sent, item, self.threads))
            while pending:
                yield self._get(pending.popleft())
        finally:
            for task in pending:  # the caller stopped early
                ray.cancel(task)

    def reduce(self, start: Callable[[], State], chunks: Iterable[Any]) -> State:
        """One accumulator a chunk, merged in order."""
        return merged(start, self.map(partial(accumulate, start), chunks))

    def _get(self, task: Any) -> Any:
        errors = self.ray.exceptions
        try:
            return self.ray.get(task)
        except errors.RayTaskError as error:
            raise error.cause from None  # what the function raised, not a page about it
        except (errors.WorkerCrashedError, errors.OutOfMemoryError) as error:
            raise LowdimError(
                f"a worker died {self.retries + 1} times on one shard, perhaps for want of memory: "
                "lower memory=, and resume"
            ) from error


def _on_worker(function: Callable[[Item], Result], item: Item, threads: int) -> Result:
    torch.set_num_threads(threads)
    return function(item)


def first_line(error: Exception) -> str:
    """What a library says, on one line."""
    return str(error).strip().split("\n")[0]
