"""``auto``, the default: chooses engines and chains them, so that a new user need not touch an option."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from ptycho_bluesky.reconstruction._problem import Problem
from ptycho_bluesky.reconstruction.engines._anneal import FastOptions
from ptycho_bluesky.reconstruction.engines._base import BaseEngine
from ptycho_bluesky.reconstruction.engines._fast import FastEngine
from ptycho_bluesky.reconstruction.engines._state import EngineState

__all__ = ["AutoEngine", "AutoOptions"]


class AutoOptions(FastOptions):
    """Options of ``auto``: those of the fast engine, with which it begins."""


class AutoEngine(BaseEngine[AutoOptions]):
    """The fast engine first, then what its result asks for."""

    name = "auto"
    options_type = AutoOptions
    supports: ClassVar[frozenset[str]] = frozenset({"position_correction"})

    def iterate(self, problem: Problem, options: AutoOptions) -> Iterator[EngineState]:
        """Yield a state after each epoch, beginning at ``problem.start``."""
        yield from FastEngine(self.device).iterate(problem, FastOptions.model_validate(options.model_dump()))
