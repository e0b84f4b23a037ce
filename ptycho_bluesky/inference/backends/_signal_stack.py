"""The stack on which a thread handles signals, kept through calls of a library that puts its own in its place.

OpenVINO 2026.4 does so while it makes and first runs code for a CPU, and frees that stack afterwards: the next signal,
be it Ctrl-C, would end the process by a segmentation fault.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator

__all__ = ["kept_signal_stack"]


class _Stack(ctypes.Structure):
    """``stack_t`` of POSIX, as Linux lays it out."""

    _fields_ = (("start", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


_sigaltstack = getattr(ctypes.CDLL(None), "sigaltstack", None)


@contextlib.contextmanager
def kept_signal_stack() -> Iterator[None]:
    """Give the calling thread its stack for signals back when the block ends."""
    if _sigaltstack is None:
        yield
        return
    before = _Stack()
    _sigaltstack(None, ctypes.byref(before))
    try:
        yield
    finally:
        _sigaltstack(ctypes.byref(before), None)
