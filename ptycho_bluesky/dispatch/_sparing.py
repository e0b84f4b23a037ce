"""When the memory does not suffice: the same again with less of it."""

from __future__ import annotations

import gc
import logging
import sys
from collections.abc import Callable
from typing import Any, TypeVar

from ptycho_bluesky.dispatch._faults import out_of_memory

__all__ = ["less_for_engine", "less_for_training", "sparing"]

logger = logging.getLogger(__name__)

Result = TypeVar("Result")
Options = dict[str, Any]

TRIES = 4
"""Attempts, each with half of the memory of the one before."""

FIRST_GB = 2.0
"""Amplitudes in memory at the second attempt, where no ``memory_gb`` was given; beyond it they are streamed."""

FIRST_BATCH = 32
"""Frames of a batch at the second attempt, where no size was given."""


def less_for_engine(engine: str, options: Options) -> Options | None:
    """Return an engine's options for about half of the memory: smaller batches, amplitudes streamed; None: no less."""
    from ptycho_bluesky.reconstruction import ENGINES  # engines load torch, which most jobs need not wait for here

    known = ENGINES[engine].options_type.model_fields if engine in ENGINES else {}
    less: Options = {}
    if "memory_gb" in known:
        given = options.get("memory_gb")
        less["memory_gb"] = FIRST_GB if given is None else given / 2
    for name in ("batch_size", "batch"):
        if name in known:
            given = options.get(name) or 2 * FIRST_BATCH
            less[name] = max(1, given // 2)
    return {**options, **less} if less else None


def less_for_training(options: Options) -> Options | None:
    """Return a training's options with half the batch; None where it is one frame already."""
    return None if options["batch"] <= 1 else {**options, "batch": options["batch"] // 2}


def sparing(run: Callable[[Options], Result], options: Options, less: Callable[[Options], Options | None]) -> Result:
    """Return ``run(options)``; where that runs out of memory, try again with less of it, a few times.

    Parameters
    ----------
    run:
        To be done; it is begun anew each time.
    options:
        Of the first attempt.
    less:
        Options that need less memory than those given, or None.
    """
    for _ in range(TRIES - 1):
        try:
            return run(options)
        except Exception as error:
            smaller = less(options) if out_of_memory(error) else None
            if smaller is None:
                raise
            said = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no more memory'}"
        # Not in the handler, whose traceback keeps the arrays of the failed attempt alive.
        changed = {key: value for key, value in smaller.items() if options.get(key) != value}
        logger.warning("out of memory (%s); it begins again with %s", said, changed)
        options = smaller
        gc.collect()
        if (torch := sys.modules.get("torch")) is not None and torch.cuda.is_available():
            torch.cuda.empty_cache()
    return run(options)
