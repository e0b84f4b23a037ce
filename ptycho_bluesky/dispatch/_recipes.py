"""What a runner can do. Heavy: imported by runners alone."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ptycho_bluesky.catalog import connect, dataset_from_run, find_run, resend_backups
from ptycho_bluesky.dispatch._spec import JobSpec, TiledSource
from ptycho_bluesky.errors import CatalogError
from ptycho_bluesky.experiment import PtychoDataset, Reconstruction
from ptycho_bluesky.formats import load_dataset
from ptycho_bluesky.reconstruction import reconstruct

__all__ = ["FUNCTIONS", "Recipe"]

logger = logging.getLogger(__name__)

Recipe = Callable[[JobSpec, Callable[[], bool], Callable[[Any], None]], Reconstruction | None]
"""(spec, should_stop, on_state) -> result, or None where it was stopped before there was any."""


def _arrived(client: Any, source: TiledSource, should_stop: Callable[[], bool]) -> Any:
    """Return the run when all of it has arrived in Tiled: the writer may still be sending it, or may have failed to."""
    deadline, resent = time.monotonic() + source.wait_s, 0.0
    while not should_stop():
        run = find_run(client, source.uid)
        if run is not None and run.metadata.get("stop"):
            return run
        if time.monotonic() - resent > 5.0:
            resent = time.monotonic()
            if resend_backups(client, source.uid):
                logger.info("run %s came from its journal", source.uid)
                continue
        if time.monotonic() > deadline:
            what = "is not in Tiled" if run is None else "has no stop document in Tiled"
            raise CatalogError(
                f"run {source.uid} {what} after {source.wait_s:.0f} s; check that the RunEngine has "
                "tiled_writer(client) of the same Tiled server, then retry the job"
            )
        time.sleep(0.2)
    return None


def _from_tiled(source: TiledSource, should_stop: Callable[[], bool]) -> PtychoDataset | None:
    client = connect()
    run = _arrived(client, source, should_stop)
    return None if run is None else dataset_from_run(run)


def _reconstruct(
    spec: JobSpec, should_stop: Callable[[], bool], on_state: Callable[[Any], None]
) -> Reconstruction | None:
    source = spec.source
    if isinstance(source, TiledSource):
        dataset = _from_tiled(source, should_stop)
    else:
        dataset = load_dataset(source.path, **source.options)  # type: ignore[arg-type]
    if dataset is None or should_stop():
        return None
    options = spec.options or None
    logger.info("%d frames of %s", len(dataset), dataset.name)
    result = reconstruct(
        dataset,
        spec.engine,
        options,
        device=spec.device,
        should_stop=should_stop,
        on_state=on_state,
        max_seconds=spec.max_seconds,
    )
    provenance = {**result.provenance, "raw_uid": spec.raw_uid, "job_id": spec.job_id, "source": dataset.source}
    return replace(result, provenance=provenance)


FUNCTIONS: dict[str, Recipe] = {"reconstruct": _reconstruct}
"""By the name in the spec; the same names as ``RECIPES``."""
