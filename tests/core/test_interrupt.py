"""An interrupt that a library turned into another error is an interrupt again."""

import os
import signal

import pytest

from lowdim.core.interrupt import interruptible


def press_inside_a_library():
    try:
        os.kill(os.getpid(), signal.SIGINT)
        signal.pause()
    except KeyboardInterrupt:
        raise ValueError("could not determine the shape") from None


def test_an_error_made_of_an_interrupt_is_one():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), interruptible():
        press_inside_a_library()
    assert signal.getsignal(signal.SIGINT) is before


def test_other_errors_stay_what_they_are():
    with pytest.raises(ValueError, match="own"), interruptible():
        raise ValueError("my own")
