"""What a runner can do. Heavy: imported by runners alone."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ptycho_bluesky.dispatch._sources import dataset_of
from ptycho_bluesky.dispatch._sparing import less_for_engine, sparing
from ptycho_bluesky.dispatch._spec import JobSpec, ReconstructionSource
from ptycho_bluesky.errors import DispatchError
from ptycho_bluesky.experiment import Reconstruction
from ptycho_bluesky.reconstruction import reconstruct

__all__ = ["FUNCTIONS", "Recipe"]

logger = logging.getLogger(__name__)

Recipe = Callable[[JobSpec, Callable[[], bool], Callable[[Any], None], Path], Reconstruction | Path | None]
"""(spec, should_stop, on_state, folder) -> the result, or a file in the folder that is it, or None where the job was
stopped before there was any."""


def _reconstruct(
    spec: JobSpec, should_stop: Callable[[], bool], on_state: Callable[[Any], None], folder: Path
) -> Reconstruction | None:
    if isinstance(spec.source, ReconstructionSource):
        raise DispatchError("a reconstruction cannot be reconstructed; give a run or a file")
    dataset = dataset_of(spec.source, should_stop)
    if dataset is None or should_stop():
        return None
    logger.info("%d frames of %s", len(dataset), dataset.name)

    def run(options: dict[str, Any]) -> Reconstruction:
        return reconstruct(
            dataset,
            spec.engine,
            options or None,
            device=spec.device,
            should_stop=should_stop,
            on_state=on_state,
            max_seconds=spec.max_seconds,
        )

    result = sparing(run, dict(spec.options), lambda options: less_for_engine(spec.engine, options))
    provenance = {**result.provenance, "raw_uid": spec.raw_uid, "job_id": spec.job_id, "source": dataset.source}
    return replace(result, provenance=provenance)


def _train(
    spec: JobSpec, should_stop: Callable[[], bool], on_state: Callable[[Any], None], folder: Path
) -> Path | None:
    from ptycho_bluesky.dispatch._train_recipe import train_model  # networks: a reconstruction does not wait for them

    return train_model(spec, should_stop, on_state, folder)


FUNCTIONS: dict[str, Recipe] = {"reconstruct": _reconstruct, "train": _train}
"""By the name in the spec; the same names as ``RECIPES``."""
