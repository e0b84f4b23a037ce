"""Engines: generators that yield a usable reconstruction after each epoch, written once on the kernel set."""

from typing import Any

from ptycho_bluesky.reconstruction.engines._anneal import FastOptions
from ptycho_bluesky.reconstruction.engines._auto import AutoEngine, AutoOptions
from ptycho_bluesky.reconstruction.engines._autodiff import AutodiffEngine, AutodiffOptions, LearningRates
from ptycho_bluesky.reconstruction.engines._base import BaseEngine
from ptycho_bluesky.reconstruction.engines._fast import FastEngine
from ptycho_bluesky.reconstruction.engines._lsqml import LsqmlEngine, LsqmlOptions
from ptycho_bluesky.reconstruction.engines._ml import MlEngine, MlOptions
from ptycho_bluesky.reconstruction.engines._options import EngineOptions
from ptycho_bluesky.reconstruction.engines._projections import (
    DifferenceMapEngine,
    DifferenceMapOptions,
    RaarEngine,
    RaarOptions,
)
from ptycho_bluesky.reconstruction.engines._state import Engine, EngineState

__all__ = [
    "ENGINES",
    "AutoEngine",
    "AutoOptions",
    "AutodiffEngine",
    "AutodiffOptions",
    "BaseEngine",
    "DifferenceMapEngine",
    "DifferenceMapOptions",
    "Engine",
    "EngineOptions",
    "EngineState",
    "FastEngine",
    "FastOptions",
    "LearningRates",
    "LsqmlEngine",
    "LsqmlOptions",
    "MlEngine",
    "MlOptions",
    "RaarEngine",
    "RaarOptions",
]

ENGINES: dict[str, type[BaseEngine[Any]]] = {
    engine.name: engine
    for engine in (
        AutoEngine,
        FastEngine,
        DifferenceMapEngine,
        RaarEngine,
        LsqmlEngine,
        MlEngine,
        AutodiffEngine,
    )
}
"""Engines by name."""
