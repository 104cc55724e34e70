"""Ctrl-C stays Ctrl-C, also where it strikes inside a C library that makes another error of it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def interruptible() -> Iterator[None]:
    """Within, an error that follows an interrupt is passed on as ``KeyboardInterrupt``.

    Reading a tensor, for one, reports an interrupt as a ``ValueError``. For the main thread only,
    as signals are; the handler that was there comes back afterwards.
    """
    pressed = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        pressed = True
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, note)
    try:
        yield
    except Exception as error:
        if pressed:
            raise KeyboardInterrupt from error
        raise
    finally:
        signal.signal(signal.SIGINT, before)
