"""``ptycho-bluesky doctor``: one tree that says what works here, and what to do about what does not."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.tree import Tree

from ptycho_bluesky.cli._doctor_profile import examine_profile
from ptycho_bluesky.cli._finding import COLOURS, Finding, Level
from ptycho_bluesky.cli._output import Json, emit, start_logging
from ptycho_bluesky.config import settings
from ptycho_bluesky.errors import PtychoError

__all__ = ["Finding", "doctor", "examine"]


def _python() -> Finding:
    good = sys.version_info >= (3, 11)
    text = f"{platform.python_version()} on {platform.machine()}"
    return Finding("Python", "OK" if good else "FAIL", text if good else f"{text}: 3.11 or later is needed")


def _packages() -> Finding:
    names = ("bluesky", "ophyd", "tiled", "bluesky-tiled-plugins", "numpy", "torch", "numba", "h5py")
    found, missing = [], []
    for name in names:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(name)
    if missing:
        return Finding("packages", "FAIL", f"missing: {', '.join(missing)}; install ptycho-bluesky again")
    return Finding("packages", "OK", ", ".join(found))


def _home() -> Finding:
    home = settings().home
    try:
        home.mkdir(parents=True, exist_ok=True)
        probe = home / ".writable"
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        return Finding("home", "FAIL", f"{home}: {error}; set PTYCHO_BLUESKY_HOME to a folder that can be written to")
    free = shutil.disk_usage(home).free / 1e9
    level: Level = "OK" if free > 10 else "WARN" if free > 1 else "FAIL"
    return Finding("home", level, f"{home}, {free:.1f} GB free" + ("" if level == "OK" else "; make room"))


def _shared_memory() -> Finding:
    from ptycho_bluesky.stream import FrameRing

    try:
        ring = FrameRing.create(f"doctor-{os.getpid()}", 1 << 20)
        ring.close()
        ring.unlink()
    except (OSError, PtychoError) as error:
        return Finding("shared memory", "FAIL", f"{error}; live inference needs /dev/shm")
    return Finding("shared memory", "OK", "a ring could be made and removed")


def _gpu() -> Finding:
    import torch

    if torch.cuda.is_available():
        return Finding("GPU", "OK", ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())))
    return Finding("GPU", "OK", f"none; {settings().threads} CPU threads are used")


def _model() -> Finding:
    from ptycho_bluesky.inference import load_model

    return Finding("network", "OK", load_model().name)


def _tiled() -> Finding:
    from ptycho_bluesky.catalog import connect

    client = connect(timeout=30)
    return Finding("Tiled", "OK", f"{client.context.api_uri}, {len(client['raw'])} runs")


def _jobs() -> Finding:
    from ptycho_bluesky.dispatch import jobs

    states = [job.state for job in jobs()]
    lost = states.count("lost")
    text = ", ".join(f"{states.count(s)} {s}" for s in dict.fromkeys(states)) or "none yet"
    return Finding("jobs", "WARN" if lost else "OK", text + ("; jobs retry JOB runs a lost one again" if lost else ""))


def examine() -> list[Finding]:
    """Return one finding for each thing that the whole way needs."""
    checks: list[tuple[str, Callable[[], Finding]]] = [
        ("Python", _python),
        ("packages", _packages),
        ("home", _home),
        ("shared memory", _shared_memory),
        ("GPU", _gpu),
        ("network", _model),
        ("Tiled", _tiled),
        ("jobs", _jobs),
    ]
    findings = []
    for name, check in checks:
        try:
            findings.append(check())
        except (PtychoError, OSError, ImportError) as error:
            findings.append(Finding(name, "FAIL", str(error)))
    return findings


def doctor(
    profile: Annotated[Path | None, typer.Option(help="A profile: look at it too, and start it once.")] = None,
    json_output: Json = False,
) -> None:
    """Look at everything that ptycho-bluesky needs here; exit status 1 if anything fails."""
    start_logging()
    findings = examine()
    if profile is not None:
        findings += examine_profile(profile.expanduser().absolute())
    if json_output:
        emit({"ok": all(f.level != "FAIL" for f in findings), "findings": [asdict(f) for f in findings]}, True)
    else:
        tree = Tree("[bold]ptycho-bluesky[/bold]")
        for finding in findings:
            tree.add(f"[{COLOURS[finding.level]}]{finding.level:4}[/] [bold]{finding.what}[/bold]  {finding.text}")
        Console().print(tree)
    if any(f.level == "FAIL" for f in findings):
        raise typer.Exit(1)
