"""Strips between the two directions of a transform: rows of one, columns of the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba

from ptycho_bluesky.transforms._fft import FASTMATH
from ptycho_bluesky.transforms._lanes import LANES, transpose

__all__ = ["from_waves", "to_waves"]

_F = TypeVar("_F", bound=Callable[..., Any])
jit: Callable[[_F], _F] = numba.njit(
    nogil=True, error_model="numpy", fastmath=FASTMATH, no_cpython_wrapper=True, no_cfunc_wrapper=True
)


@jit
def to_waves(strip: Any, waves: Any, m: int, s: int) -> None:
    """Write strip s of mode m, transposed, to waves (strips, M, rows, 2, 16)."""
    for b in range(waves.shape[0]):
        for plane in range(2):
            transpose(strip, (b * LANES, plane, 0), 2 * LANES, waves, (b, m, s * LANES, plane, 0), 2 * LANES)


@jit
def from_waves(waves: Any, m: int, s: int, strip: Any) -> None:
    """Undo :func:`to_waves`."""
    for b in range(waves.shape[0]):
        for plane in range(2):
            transpose(waves, (b, m, s * LANES, plane, 0), 2 * LANES, strip, (b * LANES, plane, 0), 2 * LANES)
