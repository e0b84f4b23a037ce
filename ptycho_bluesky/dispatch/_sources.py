"""Where a job's frames and reconstruction come from. Heavy: imported by runners alone."""

from __future__ import annotations

import logging
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ptycho_bluesky.catalog import connect, dataset_from_run, find_reconstructions, find_run, resend_backups
from ptycho_bluesky.dispatch._folder import JobFolder
from ptycho_bluesky.dispatch._ledger import Ledger
from ptycho_bluesky.dispatch._spec import FileSource, JobSpec, ReconstructionSource, TiledSource
from ptycho_bluesky.errors import CatalogError, DispatchError
from ptycho_bluesky.experiment import PtychoDataset, Reconstruction
from ptycho_bluesky.formats import identify, load_dataset, read_reconstruction

__all__ = ["Lesson", "dataset_of", "lesson_of"]

logger = logging.getLogger(__name__)


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


def dataset_of(source: TiledSource | FileSource, should_stop: Callable[[], bool]) -> PtychoDataset | None:
    """Return the dataset of a run or a file; None where it was told to stop before the run had arrived."""
    if isinstance(source, FileSource):
        return load_dataset(source.path, **source.options)  # type: ignore[arg-type]
    client = connect()
    run = _arrived(client, source, should_stop)
    if run is None:
        client.context.close()
        return None
    return _dataset(run, client)


def _dataset(run: Any, client: Any) -> PtychoDataset:
    """Return the dataset of a run, whose client is closed when its frames, read while they are needed, are gone."""
    dataset = dataset_from_run(run)
    weakref.finalize(dataset.frames, client.context.close)
    return dataset


@dataclass(frozen=True)
class Lesson:
    """What a training learns from: a probe, and what else is known of its beam."""

    probe: npt.NDArray[np.complex64]
    """(modes, H, W)."""

    where: str
    """Job, run or file, for the model's record."""

    dataset: PtychoDataset | None = None
    reconstruction: Reconstruction | None = None


def lesson_of(spec: JobSpec, reconstruction: str | None, should_stop: Callable[[], bool]) -> Lesson | None:
    """Return what a training job learns from; None where it was told to stop.

    Parameters
    ----------
    spec:
        Of the training. A file is a result, or frames with a probe or with `reconstruction`; a run is taken with its
        latest reconstruction; a reconstruction with the frames that it was made of, where they can be had.
    reconstruction:
        Result file of the dataset.
    should_stop:
        Asked while waiting for a run.

    Raises
    ------
    PtychoError
        When there is none, or no probe.
    """
    source = spec.source
    if isinstance(source, ReconstructionSource):
        return _of_job(source.job_id, should_stop)
    if isinstance(source, FileSource) and identify(Path(source.path)).result:
        result = read_reconstruction(Path(source.path))
        return Lesson(result.probe, source.path, None, result)
    dataset = dataset_of(source, should_stop)
    if dataset is None:
        return None
    result_of = None if reconstruction is None else read_reconstruction(Path(reconstruction))
    where = source.path if isinstance(source, FileSource) else source.uid
    if result_of is None and isinstance(source, TiledSource):
        client = connect()
        with client.context:
            found = find_reconstructions(client, source.uid)
            if found:
                result_of, where = found[-1].to_reconstruction(), str(found[-1].metadata["job_id"])
    probe = dataset.probe if result_of is None else result_of.probe
    if probe is None:
        raise DispatchError(f"{where} has no probe and no reconstruction is known of it; reconstruct it first")
    return Lesson(probe, where, dataset, result_of)


def _of_job(job_id: str, should_stop: Callable[[], bool]) -> Lesson | None:
    """Return the reconstruction of a job: from its folder, or from the catalogue."""
    folder = JobFolder(Ledger().folder / job_id)
    if folder.spec_file.exists() and (folder.result_file.exists() or not folder.status().registered):
        if not folder.result_file.exists():
            raise DispatchError(f"job {job_id} is {folder.status().state} and has no result; wait for it, or retry it")
        source = folder.spec().source
        result = read_reconstruction(folder.result_file)
        dataset = None if isinstance(source, ReconstructionSource) else dataset_of(source, should_stop)
        return None if should_stop() else Lesson(result.probe, job_id, dataset, result)
    client = connect()
    try:
        node = client["processed/ptychography"][job_id]
    except KeyError:
        raise CatalogError(f"job {job_id} is neither in {Ledger().folder} nor in the catalogue; give another") from None
    result = node.to_reconstruction()
    uid = node.metadata.get("raw_uid")
    run = None if uid is None else find_run(client, uid)
    if run is None:
        logger.warning("the frames of reconstruction %s are not in the catalogue; its probe alone is used", job_id)
        client.context.close()
    return Lesson(result.probe, job_id, None if run is None else _dataset(run, client), result)
