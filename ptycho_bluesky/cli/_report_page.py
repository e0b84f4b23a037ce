"""What a report says beside the result: of the run that was measured, and of the job that reconstructed it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptycho_bluesky.errors import CatalogError, DispatchError, FormatError
from ptycho_bluesky.experiment import PtychographyMetadata, Reconstruction

__all__ = ["Subject", "subject_of"]

Rows = list[tuple[str, str]]

QUICK_S = 60.0
"""Reconstructions that took no longer are repeated for two halves of the data without being asked."""


@dataclass(frozen=True)
class Subject:
    """What is reported on."""

    result: Reconstruction
    title: str
    sections: Sequence[tuple[str, Rows]]
    data: str | None
    """File or uid of what it was made from; None where that is not known."""

    @property
    def quick(self) -> bool:
        """Whether the reconstruction took so little time that it may be repeated."""
        seconds = self.result.provenance.get("seconds")
        return self.data is not None and isinstance(seconds, int | float) and seconds <= QUICK_S


def subject_of(source: str) -> Subject:
    """Return what a job, or the run with a reconstruction, says of itself.

    Parameters
    ----------
    source:
        Id of a job, or uid of a run, or the beginning of either.

    Raises
    ------
    FormatError
        When it is neither.
    CatalogError
        When the run has no finished reconstruction.
    """
    try:
        return _of_job(source)
    except DispatchError as no_job:
        return _of_run(source, str(no_job))


def _of_job(source: str) -> Subject:
    from ptycho_bluesky.dispatch import FileSource, Ledger, TiledSource
    from ptycho_bluesky.formats import read_reconstruction

    job = Ledger().job(source)
    status, spec = job.status(), job.spec()
    if spec.recipe != "reconstruct" or status.state != "done":
        why = status.reason or "wait for it, or see: ptycho-bluesky jobs logs"
        raise FormatError(
            f"job {status.job_id} ({spec.recipe}) is {status.state}: {why}; it has no result to report on"
        )
    data = str(spec.source.path) if isinstance(spec.source, FileSource) else None
    sections = [("Job", _job_rows(job, status))]
    title = Path(data).name if data else f"job {job.job_id[:8]}"
    if isinstance(spec.source, TiledSource):
        data = spec.source.uid
        run = _run(data)
        if run is not None:
            title, sections = _title(run), [("Measurement", _run_rows(run)), *sections]
    if job.result_file.exists():
        return Subject(read_reconstruction(job.result_file), title, sections, data)
    from ptycho_bluesky.catalog import connect  # its file has been cleaned away

    return Subject(connect()[f"processed/ptychography/{job.job_id}"].to_reconstruction(), title, sections, data)


def _of_run(source: str, no_job: str) -> Subject:
    from ptycho_bluesky.catalog import connect, find_reconstructions

    run = _run(source)
    if run is None:
        raise FormatError(
            f"{source!r} is no file, no job ({no_job}) and no run in the catalogue; `ptycho-bluesky jobs list` shows "
            "jobs and the runs they are of"
        )
    uid = str(run.metadata["start"]["uid"])
    found = find_reconstructions(connect(), uid)
    if not found:
        raise CatalogError(f"run {uid} has no reconstruction in Tiled; make one: ptycho-bluesky reconstruct {uid}")
    result = found[-1].to_reconstruction()
    return Subject(result, _title(run), [("Measurement", _run_rows(run))], uid)


def _run(uid: str) -> Any | None:
    from ptycho_bluesky.catalog import connect

    try:
        return connect()["raw"][uid]
    except (KeyError, ValueError):
        return None


def _title(run: Any) -> str:
    start = run.metadata["start"]
    sample = start.get("sample") or start.get("sample_name") or start.get("plan_name", "run")
    return f"{sample}, scan {start.get('scan_id', '')} ({start['uid'][:8]})"


def _run_rows(run: Any) -> Rows:
    """Return what the start and stop documents say."""
    start, stop = run.metadata["start"], run.metadata.get("stop") or {}
    rows: dict[str, Any] = {
        "begun": _when(start["time"]),
        "lasted": f"{stop['time'] - start['time']:.1f} s" if "time" in stop else "still running, or cut off",
        "ended": " ".join(str(stop.get(key, "")) for key in ("exit_status", "reason")).strip(),
        "sample": start.get("sample"),
        "proposal": start.get("proposal") or start.get("proposal_id"),
        "user": start.get("user"),
        "beamline": start.get("beamline_id"),
        "plan": start.get("plan_name"),
        "run": start["uid"],
        **_block_rows(start.get("ptychography")),
    }
    return [(label, str(value)) for label, value in rows.items() if value not in (None, "")]


def _block_rows(block: dict[str, Any] | None) -> dict[str, Any]:
    """Return the ``ptychography`` block in people's units; a block of an older layout is read as well."""
    from ptycho_bluesky.errors import DatasetError

    try:
        known = PtychographyMetadata.from_start({"ptychography": block, "uid": "", "time": 0.0}) if block else None
    except DatasetError:
        return {}
    if known is None:
        return {}
    rows: dict[str, Any] = {}
    if (pattern := known.pattern) is not None:
        rows["pattern"] = f"{pattern.name}, {pattern.num_points} positions"
        rows["overlap"] = None if pattern.overlap is None else f"{pattern.overlap:.0%} of the probe's diameter"
    if (geometry := known.geometry) is not None:
        rows["photon energy"] = f"{geometry.energy_kev:g} keV"
        rows["sample to detector"] = f"{geometry.distance_m:g} m, {geometry.modality}"
        rows["detector pixel"] = f"{geometry.detector_pixel_m * 1e6:g} µm"
    if known.exposure_s is not None:
        rows["exposure"] = f"{known.exposure_s * 1e3:g} ms a frame"
    if known.probe is not None:
        rows["optics"] = known.probe.kind
    if (foretold := known.estimate) is not None and foretold.dose_gy is not None:
        rows["dose, estimated"] = f"{foretold.dose_gy:.3g} Gy"
    return rows


def _job_rows(job: Any, status: Any) -> Rows:
    """Return who asked for a job, where and how long it ran."""
    history = job.history()
    begun: dict[str, Any] = next((event for event in history if event["state"] == "running"), {})
    rows = {
        "job": job.job_id,
        "asked for": f"{_when(status.created)} by {history[0].get('by', '')}" if history else _when(status.created),
        "ran": begun.get("by"),
        "attempts": status.attempt if status.attempt > 1 else None,
        "ended": _when(status.updated),
        "in Tiled": {True: "yes", False: "not yet", None: None}[status.registered],
    }
    return [(label, str(value)) for label, value in rows.items() if value not in (None, "")]


def _when(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
