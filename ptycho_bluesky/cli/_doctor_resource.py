"""Whether a resource works: a job that only looks around, and a small reconstruction, both really there."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np

from ptycho_bluesky._resources import ClusterResource
from ptycho_bluesky.cli._finding import Finding, Level
from ptycho_bluesky.config import settings
from ptycho_bluesky.dispatch import FileSource, JobFolder, JobSpec, JobStatus, Ledger, cancel, history, submit, wait
from ptycho_bluesky.errors import DispatchError, PtychoError

__all__ = ["examine_resource"]

WAIT_S = 300.0
"""Longest time that each of the two jobs may take, the queue included."""

SLOW_S = 60.0
"""A job that waits longer for its turn is worth a word."""


def _measurement(folder: Path) -> Path:
    """Write a small simulated dataset, 100 frames of 64 x 64, and return its file."""
    from ptycho_bluesky.experiment import Geometry, fermat
    from ptycho_bluesky.formats import save_dataset
    from ptycho_bluesky.optics import disc_probe, random_specimen, simulate_dataset

    geometry = Geometry(energy_kev=8.0, distance_m=2.0, detector_pixel_m=300e-6)
    pixel = geometry.pixel_size_m(64)
    probe = disc_probe(64, pixel, diameter_m=18 * pixel)[None]
    obj = random_specimen((192, 192), np.random.default_rng(4))
    pattern = fermat(52 * pixel, 64 * pixel, 6 * pixel)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "measurement.npz"
    save_dataset(path, simulate_dataset(obj, probe, pattern, geometry, 1e5, seed=1))
    return path


def _times(job_id: str) -> tuple[float, float]:
    """Return the seconds that a job waited, and ran."""
    events = [(event["t"], event["state"]) for event in history(job_id) if "asked" not in event]
    entered, ended = events[0][0], events[-1][0]
    began = next((t for t, state in events if state == "running"), ended)
    return began - entered, ended - began


def _run(spec: JobSpec) -> tuple[JobStatus, dict[str, Any], float, str]:
    """Run a job to its end; return its status, what it found, the seconds that it waited, and its times in words.

    Raises
    ------
    DispatchError
        When the place refuses it, or it does not end in time; it is cancelled then.
    """
    begin = time.perf_counter()
    job_id = submit(spec)
    entered_s = time.perf_counter() - begin
    try:
        status = wait(job_id, WAIT_S)
    except DispatchError as error:
        reason = Ledger().job(job_id).status().reason
        cancel(job_id)
        raise DispatchError(f"{reason or error}; it was cancelled") from None
    waited, ran = _times(job_id)
    job = JobFolder(Ledger().folder / job_id)
    found = json.loads(job.result_file.read_text()) if status.state == "done" else {}
    return status, found, waited, f"submitted in {1e3 * entered_s:.0f} ms, waited {waited:.1f} s, ran {ran:.1f} s"


def _compared(there: dict[str, str], here: dict[str, str]) -> tuple[Level, str]:
    """Return how versions there differ from those here."""
    other = [f"{name} {there.get(name)} (here {of})" for name, of in here.items() if there.get(name) != of]
    if there.get("ptycho-bluesky") != here["ptycho-bluesky"]:
        return "FAIL", f"{', '.join(other)}; install the same ptycho-bluesky there, or correct python of the resource"
    if other:
        return "WARN", f"{', '.join(other)}; the same versions give the same results"
    return "OK", ", ".join(f"{name} {of}" for name, of in there.items())


def examine_resource(place: str) -> list[Finding]:
    """Return one finding for each step on the way to a result at a place of the settings."""
    resource = settings().resources.get(place)
    if resource is None and place != "local":
        known = ", ".join(["local", *settings().resources])
        text = f"no such resource; known are {known}: add [resources.{place}] to settings.toml"
        return [Finding("resource", "FAIL", text)]
    folder = settings().home / "doctor" / f"{place}-{os.getpid()}"
    findings: list[Finding] = []
    try:
        _examine(place, resource, _measurement(folder), findings)
    except (PtychoError, OSError) as error:
        findings.append(Finding("resource", "FAIL", str(error)))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return findings


def _examine(place: str, resource: Any, measurement: Path, findings: list[Finding]) -> None:
    from ptycho_bluesky.dispatch._check_recipe import versions

    source = FileSource(path=str(measurement))
    status, found, waited, times = _run(JobSpec(recipe="check", source=source, place=place))
    if status.state != "done":
        findings.append(Finding("no-op", "FAIL", f"{status.state}: {status.reason}"))
        return
    slow = f"; {place} is busy, pilots (through = 'parsl') would start at once" if waited > SLOW_S else ""
    where = f"on {found['host']}, {found['threads']} threads of {found['cpus']} cores"
    findings.append(Finding("no-op", "WARN" if slow else "OK", f"{times} {where}{slow}"))
    findings.append(Finding("software", *_compared(found["versions"], versions())))
    gpus = found["gpus"]
    wanted = resource is not None and resource.device != "cpu"
    level: Level = "FAIL" if wanted and not gpus else "OK"
    text = ", ".join(gpus) or (
        "none is seen there; correct gpus_per_rank or the driver" if wanted else "none asked for"
    )
    findings.append(Finding("GPU", level, text))
    ranks = resource.ranks_per_node * resource.nodes if isinstance(resource, ClusterResource) else 1
    options = {"reconstruct": True, "epochs": 20}
    device = "cuda" if wanted else "cpu"
    spec = JobSpec(
        recipe="check", source=source, place=place, engine="fast", options=options, ranks=ranks, device=device
    )
    status, found, _, times = _run(spec)
    if status.state != "done":
        findings.append(Finding("reconstruction", "FAIL", f"{status.state}: {status.reason}"))
        return
    made = found["reconstruction"]
    text = (
        f"{times}; {made['epochs']} epochs of 100 small frames on {made['ranks']} ranks ({made['device']}), "
        f"{1e3 * made['seconds_per_epoch']:.1f} ms each, R {made['r_factor']:.3f}"
    )
    findings.append(Finding("reconstruction", "OK", text))
