"""``ptycho-bluesky doctor``: one tree that says what works here, and what to do about what does not."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.tree import Tree

from ptycho_bluesky.cli._doctor_machine import clock, disk, epics, graphics, notebook, ports
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


CHECKS: dict[str, tuple[tuple[str, Callable[[], Finding]], ...]] = {
    "software": (("Python", _python), ("packages", _packages), ("notebook", notebook)),
    "machine": (
        ("home", _home),
        ("disk", disk),
        ("shared memory", _shared_memory),
        ("GPU", graphics),
        ("clock", clock),
        ("ports", ports),
    ),
    "beamline": (("EPICS", epics),),
    "services": (("network", _model), ("Tiled", _tiled), ("jobs", _jobs)),
}
"""What is looked at, by branch of the tree."""


def examine() -> list[Finding]:
    """Return one finding for each thing that the whole way needs."""
    return [_found(group, what, check) for group, checks in CHECKS.items() for what, check in checks]


def _found(group: str, what: str, check: Callable[[], Finding]) -> Finding:
    try:
        return replace(check(), group=group)
    except (PtychoError, OSError, ImportError) as error:
        return Finding(what, "FAIL", str(error), group)


def _tree(findings: list[Finding]) -> Tree:
    """Return the findings as one tree, a branch for each group, with the worst of it in its colour."""
    tree = Tree("[bold]ptycho-bluesky[/bold]")
    for group in dict.fromkeys(finding.group for finding in findings):
        mine = [finding for finding in findings if finding.group == group]
        worst = max((finding.level for finding in mine), key=("OK", "WARN", "FAIL").index)
        branch = tree.add(f"[{COLOURS[worst]}]{group or 'more'}[/]")
        for finding in mine:
            text = escape(finding.text)
            branch.add(f"[{COLOURS[finding.level]}]{finding.level:4}[/] [bold]{escape(finding.what)}[/bold]  {text}")
    return tree


def doctor(
    profile: Annotated[Path | None, typer.Option(help="A profile: look at it too, and start it once.")] = None,
    resource: Annotated[
        str | None, typer.Option(help="A resource of the settings: run a no-op and a small reconstruction there.")
    ] = None,
    json_output: Json = False,
) -> None:
    """Look at everything that ptycho-bluesky needs here; exit status 1 if anything fails.

    Each line says OK, WARN (it works, but) or FAIL, and what to do.
    """
    start_logging()
    findings = examine()
    if profile is not None:
        found = examine_profile(profile.expanduser().absolute())
        findings += [replace(finding, group=f"profile {profile.name}") for finding in found]
    if resource is not None:
        from ptycho_bluesky.cli._doctor_resource import examine_resource

        findings += [replace(finding, group=f"resource {resource}") for finding in examine_resource(resource)]
    if json_output:
        emit({"ok": all(f.level != "FAIL" for f in findings), "findings": [asdict(f) for f in findings]}, True)
    else:
        Console().print(_tree(findings))
    if any(f.level == "FAIL" for f in findings):
        raise typer.Exit(1)
