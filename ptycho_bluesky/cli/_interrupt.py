"""Ctrl-C that asks first: work stops at its next step and keeps what it has."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from ptycho_bluesky.cli._output import say

__all__ = ["stop_on_interrupt"]


@contextmanager
def stop_on_interrupt(what: str) -> Iterator[Callable[[], bool]]:
    """Yield ``should_stop()``, which says yes after the first Ctrl-C; the second one interrupts at once.

    Parameters
    ----------
    what:
        What is kept, for the message.
    """
    asked = False

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        say(f"stopping at the next step; {what} is kept (Ctrl-C again to leave at once)")

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGINT, before)
