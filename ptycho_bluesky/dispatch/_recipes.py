"""What a runner can do. Heavy: imported by runners alone."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from ptycho_bluesky.dispatch._energy import metered
from ptycho_bluesky.dispatch._folder import JobFolder
from ptycho_bluesky.dispatch._growing import RunFeed
from ptycho_bluesky.dispatch._partial import PartialImages
from ptycho_bluesky.dispatch._sources import dataset_of
from ptycho_bluesky.dispatch._sparing import less_for_engine, sparing
from ptycho_bluesky.dispatch._spec import JobSpec, ReconstructionSource, TiledSource
from ptycho_bluesky.dispatch._whereabouts import whereabouts
from ptycho_bluesky.errors import DispatchError
from ptycho_bluesky.experiment import Reconstruction
from ptycho_bluesky.reconstruction import reconstruct

__all__ = ["FUNCTIONS", "Recipe", "whole"]

logger = logging.getLogger(__name__)

Recipe = Callable[[JobSpec, Callable[[], bool], Callable[[Any], None], Path], Reconstruction | Path | None]
"""(spec, should_stop, on_state, folder) -> the result, or a file in the folder that is it, or None where the job was
stopped before there was any."""


def _reconstruct(
    spec: JobSpec, should_stop: Callable[[], bool], on_state: Callable[[Any], None], folder: Path
) -> Reconstruction | None:
    if isinstance(spec.source, ReconstructionSource):
        raise DispatchError("a reconstruction cannot be reconstructed; give a run or a file")
    growing = isinstance(spec.source, TiledSource) and spec.source.grow
    with metered() as energy, PartialImages(JobFolder(folder), spec) as partial:
        made = (_grown if growing else whole)(spec, should_stop, partial.beside(on_state), folder)
    if made is None:
        return None
    result, source = made
    told = {"raw_uid": spec.raw_uid, "job_id": spec.job_id, "source": source}
    provenance = {**result.provenance, **told, "job": {**whereabouts(JobFolder(folder)), "energy_j": energy.joules()}}
    return replace(result, provenance=provenance)


def whole(
    spec: JobSpec, should_stop: Callable[[], bool], on_state: Callable[[Any], None], folder: Path
) -> tuple[Reconstruction, dict[str, Any]] | None:
    """Return the result of a dataset that is complete, and where that came from."""
    if isinstance(spec.source, ReconstructionSource):
        return None
    dataset = dataset_of(spec.source, should_stop)
    if dataset is None or should_stop():
        return None
    logger.info("%d frames of %s", len(dataset), dataset.name)

    def run(options: dict[str, Any]) -> Reconstruction:
        if spec.ranks > 1:
            from ptycho_bluesky.dispatch._on_ranks import reconstruct_on_ranks  # 0.3 s that few jobs need

            return reconstruct_on_ranks(spec, dataset, options, should_stop, on_state, folder)
        return reconstruct(
            dataset,
            spec.engine,
            options or None,
            device=spec.device,
            should_stop=should_stop,
            on_state=on_state,
            max_seconds=spec.max_seconds,
        )

    return sparing(run, dict(spec.options), lambda options: less_for_engine(spec.engine, options)), dataset.source


def _grown(
    spec: JobSpec, should_stop: Callable[[], bool], on_state: Callable[[Any], None], folder: Path
) -> tuple[Reconstruction, dict[str, Any]] | None:
    """Return the result of a run that is still being measured, and where that came from."""
    with RunFeed(cast(TiledSource, spec.source), should_stop, spec.max_seconds) as feed:
        growing = feed.dataset()
        if growing is None:
            return None

        def run(options: dict[str, Any]) -> Reconstruction:
            tools: dict[str, Any] = {"should_stop": feed.should_stop, "on_state": on_state}
            return reconstruct(growing, spec.engine, options or None, device=spec.device, **tools)

        result = sparing(run, dict(spec.options), lambda options: less_for_engine(spec.engine, options))
        feed.check()
        return result, growing.snapshot().source


def _train(
    spec: JobSpec, should_stop: Callable[[], bool], on_state: Callable[[Any], None], folder: Path
) -> Path | None:
    from ptycho_bluesky.dispatch._train_recipe import train_model  # networks: a reconstruction does not wait for them

    return train_model(spec, should_stop, on_state, folder)


def _check(
    spec: JobSpec, should_stop: Callable[[], bool], on_state: Callable[[Any], None], folder: Path
) -> Path | None:
    from ptycho_bluesky.dispatch._check_recipe import check_place

    return check_place(spec, should_stop, on_state, folder)


FUNCTIONS: dict[str, Recipe] = {"reconstruct": _reconstruct, "train": _train, "check": _check}
"""By the name in the spec; the same names as ``RECIPES``."""
