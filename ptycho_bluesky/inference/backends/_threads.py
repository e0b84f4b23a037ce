"""Parts of a batch side by side."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

__all__ = ["Threads"]

CHUNK = 4
"""Frames at once for one thread: the activations of more leave the cache, and the rate falls."""

_T = TypeVar("_T")


class Threads:
    """Parts of a batch at the same time; with one thread, one after the other."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._pool = ThreadPoolExecutor(count, "network", torch.set_num_threads, (1,)) if count > 1 else None

    def over(self, work: Callable[[slice], _T], frames: int) -> list[_T]:
        """Return what `work` makes of each part of `frames` frames, in order."""
        size = max(1, min(CHUNK, -(-frames // self.count)))
        parts = [slice(k, min(k + size, frames)) for k in range(0, frames, size)]
        if self._pool is None or len(parts) < 2:
            return [work(part) for part in parts]
        return list(self._pool.map(work, parts))
