"""Runs the common battery on every registered method."""

from tests.battery import *  # noqa: F403
