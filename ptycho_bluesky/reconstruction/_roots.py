"""Counts to amplitudes in one compiled pass, for frames that are read again every epoch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numpy as np

__all__ = ["write_roots"]

_F = TypeVar("_F", bound=Callable[..., Any])

cached: Callable[[_F], _F] = numba.njit(nogil=True, error_model="numpy", cache=True)


@cached
def write_roots(counts: Any, chosen: Any, bad: Any, half: int, value: Any, roots: Any) -> None:
    """Write square roots of the chosen frames of counts (K, N, N) to roots (n, N, N), float32.

    Row and column `half` come first: ``N // 2`` brings the zero frequency from the middle to the corner, 0 leaves it.
    At the places `bad` (m, 2) of a frame of `roots`, `value` stands.
    """
    size = counts.shape[1]
    rest = size - half
    for k in range(chosen.shape[0]):
        for i in range(size):
            source = counts[chosen[k], i + half if i < rest else i - rest]
            first, last = source[half:], source[:half]  # slices: LLVM makes SIMD of plain indices alone
            left, right = roots[k, i, :rest], roots[k, i, rest:]
            for j in range(rest):
                left[j] = np.sqrt(np.float32(first[j]))
            for j in range(half):
                right[j] = np.sqrt(np.float32(last[j]))
        for n in range(bad.shape[0]):
            roots[k, bad[n, 0], bad[n, 1]] = value
