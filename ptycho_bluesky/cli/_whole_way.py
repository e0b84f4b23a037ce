"""The whole way: devices, plan, live inference, dispatch, reconstruction, catalogue."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ptycho_bluesky.cli._output import progress, say
from ptycho_bluesky.devices import Beamline
from ptycho_bluesky.errors import CatalogError, DispatchError

__all__ = ["Outcome", "whole_way"]

START_S = 120.0
"""Longest time for the edge process to load its network."""


@dataclass(frozen=True)
class Outcome:
    """What came of a scan."""

    run_uid: str
    job_id: str
    state: str
    live: dict[str, Any]
    """Final statistics of the edge process."""
    result: Any
    """The ``PtychoReconstruction`` node, found in Tiled by a client of its own."""
    tiled_uri: str
    scan_seconds: float
    seconds: float
    """From the first move to the result found in Tiled."""

    def summary(self) -> dict[str, Any]:
        """Return the keys that ``demo`` and ``replay`` print."""
        numbers = self.result.metadata
        live = ("frames", "frames_inferred", "frames_dropped", "frames_refused", "latency_ms_p50", "latency_ms_p95")
        return {
            "run_uid": self.run_uid,
            **{key: self.live[key] for key in live},
            "job_id": self.job_id,
            "state": self.state,
            "engine": numbers["engine"],
            "modes": numbers["probe_shape"][0],
            "epochs": numbers["epochs"],
            "r_factor": numbers["r_factor"],
            "phase_contrast_rad": numbers["phase_contrast_rad"],
            "scan_seconds": self.scan_seconds,
            "reconstruction_seconds": numbers["provenance"].get("seconds"),
            "seconds": self.seconds,
            "tiled_uri": self.tiled_uri,
        }


def whole_way(
    beamline: Beamline,
    *,
    model: str,
    engine: str,
    options: dict[str, Any],
    max_seconds: float | None = None,
    timeout_s: float = 3600.0,
    md: dict[str, Any] | None = None,
) -> Outcome:
    """Scan `beamline` with a RunEngine, watch it live, dispatch its reconstruction, and find that in Tiled.

    Raises
    ------
    DispatchError
        When the job does not end as done; the text says why and where its log is.
    CatalogError
        When the result is not in Tiled.
    """
    from bluesky import RunEngine
    from bluesky.utils import RunEngineInterrupted

    from ptycho_bluesky.callbacks import DispatchOnStop, LiveInference
    from ptycho_bluesky.catalog import connect, resend_backups, tiled_writer
    from ptycho_bluesky.dispatch import register_pending
    from ptycho_bluesky.plans import ptycho_scan

    say("starting Tiled and the edge process")
    with LiveInference(model) as live:
        client = connect()
        resend_backups(client)  # what an earlier console could not bring to Tiled
        register_pending(client)
        writer = tiled_writer(client)
        live.wait_ready(START_S)
        RE = RunEngine({})
        RE.subscribe(writer)
        RE.subscribe(live)
        dispatch = DispatchOnStop(engine=engine, options=options, max_seconds=max_seconds)
        RE.subscribe(dispatch)
        stage, detector, pattern = beamline.stage, beamline.detector, beamline.pattern
        began = time.perf_counter()
        with progress("scanning", len(pattern)) as update:
            RE.subscribe(_counter(update), "event")
            try:
                (uid,) = RE(ptycho_scan([detector], stage.y, stage.x, pattern, metadata=beamline.metadata, md=md))
            except RunEngineInterrupted:  # Ctrl-C
                logging.getLogger("bluesky").setLevel(logging.CRITICAL)  # it logs its own abort with a traceback
                RE.abort("interrupted by the user")
                say("scan aborted; what was measured is kept and is being reconstructed: ptycho-bluesky jobs list")
                raise KeyboardInterrupt from None
        scan_seconds = time.perf_counter() - began
        statistics = live.wait(timeout_s)
    if statistics["message"]:
        say(f"live image: {statistics['message']}")
    if not dispatch.job_ids:
        raise DispatchError(f"no reconstruction was dispatched for run {uid}: {dispatch.failures}")
    (job_id,) = dispatch.job_ids
    state = _follow(job_id, timeout_s)
    client, found = _find(uid, job_id)
    seconds = time.perf_counter() - began
    return Outcome(uid, job_id, state, statistics, found, str(client.context.api_uri), scan_seconds, seconds)


def _counter(update: Callable[..., None]) -> Callable[[str, dict[str, Any]], None]:
    def count(_: str, event: dict[str, Any]) -> None:
        update(event["seq_num"])

    return count


def _follow(job_id: str, timeout_s: float) -> str:
    """Wait for a job, with its progress on the screen."""
    from ptycho_bluesky.dispatch import wait

    with progress("reconstructing", None) as update:
        job = wait(
            job_id,
            timeout_s,
            on_progress=lambda p: update(p["epoch"], f"R {p['r_factor']:.4f}", p["epochs"]),
        )
    if job.state != "done":
        raise DispatchError(f"job {job_id} ended as {job.state}: {job.reason}; see: ptycho-bluesky jobs logs {job_id}")
    return str(job.state)


def _find(raw_uid: str, job_id: str) -> tuple[Any, Any]:
    """Find the result again, with a fresh client and by the raw run's uid alone."""
    from ptycho_bluesky.catalog import connect, find_reconstructions

    client = connect()
    for node in find_reconstructions(client, raw_uid):
        if node.metadata["job_id"] == job_id:
            return client, node
    raise CatalogError(
        f"the result of job {job_id} is not in Tiled; it is kept in the job's folder: ptycho-bluesky jobs show {job_id}"
    )
