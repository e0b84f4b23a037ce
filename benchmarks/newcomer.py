"""From a clone to a live image: what a newcomer types, and how long a newcomer waits. Prints one JSON object.

    python benchmarks/newcomer.py

Clones this repository into a temporary folder, and does there what the README says, in two ways: ``make demo``, and a
session in Python. The installation is that of a machine that has nothing but Python, git and make; pip may have a
cache (``--no-pip-cache`` leaves it out of account). Seconds count from the first command; reading, thinking and typing
do not. A live image counts when the first of its pixels can be seen by another process.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from ptycho_bluesky.errors import InferenceError
from ptycho_bluesky.stream import LiveView, live_views

ROOT = Path(__file__).parents[1]
LONGEST_S = 1800.0
"""Longest time for one command, seconds."""

LINES = ("from ptycho_bluesky import session", "s = session()", "s.scan()")


@dataclass
class Newcomer:
    """Someone who types one command after another, and a clock."""

    folder: Path
    environment: dict[str, str]
    before: str = ""
    """What the shell remembers of earlier commands."""

    typed: list[str] = field(default_factory=list)
    waited: dict[str, float] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)

    def types(self, command: str, until_live: bool = False) -> None:
        """Run a shell command to its end; note when that was, and with `until_live` when the first image was seen."""
        self.typed.append(command)
        seen = not until_live
        with (self.folder / "output.txt").open("ab") as log:
            shell = ["bash", "-c", self.before + command]
            process = subprocess.Popen(
                shell, cwd=self.folder, env=self.environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
        try:
            while process.poll() is None:
                if not seen and (seen := self.sees_an_image()):
                    self.notes("first live image")
                if time.monotonic() - self.began > LONGEST_S:
                    raise SystemExit(f"{command} has not ended after {LONGEST_S:.0f} s")
                time.sleep(0.05)
        finally:
            process.kill()
        if process.returncode or not seen:
            told = (self.folder / "output.txt").read_text(errors="replace")[-2000:]
            raise SystemExit(f"{command}: status {process.returncode}, live image seen: {seen}\n{told}")
        self.notes(command)

    def notes(self, what: str) -> None:
        """Note how long it took until now, seconds."""
        self.waited[what] = round(time.monotonic() - self.began, 1)

    def sees_an_image(self) -> bool:
        """Return whether a live session of this newcomer, not of others on the machine, shows a pixel."""
        for name in live_views():
            try:
                with LiveView(name) as view:
                    ours = str(self.folder) in " ".join(psutil.Process(view.status().pid).cmdline())
                    image = view.image() if ours else None
            except (InferenceError, psutil.Error, ValueError):  # it ends at this very moment
                continue
            if image is not None and np.isfinite(image.phase).any():
                return True
        return False


def by_demo(folder: Path, environment: dict[str, str]) -> dict[str, Any]:
    """Return what it takes from nothing to the demo's live image, and to its pictures."""
    one = Newcomer(folder, environment)
    one.types(f"git clone --quiet {ROOT} ptycho-bluesky")
    one.typed.append("cd ptycho-bluesky")
    one.folder = folder / "ptycho-bluesky"
    installed, began = one.folder / ".venv" / ".installed", time.time()
    one.types("make demo", until_live=True)
    took = installed.stat().st_mtime - began + one.waited[one.typed[0]]
    pictures = sorted(file.name for file in (one.folder / "demo-output").glob("*.png"))
    return {"typed": one.typed, "seconds": {"installed": round(took, 1), **one.waited}, "pictures": pictures}


def by_session(folder: Path, environment: dict[str, str]) -> dict[str, Any]:
    """Return what it takes from there to the live image of a session: three lines in Python."""
    one = Newcomer(folder / "ptycho-bluesky", environment, before="source .venv/bin/activate; ")
    one.types("python -c '" + "; ".join(LINES) + "'", until_live=True)
    seconds = {"first live image": one.waited["first live image"], "scan done": one.waited[one.typed[0]]}
    return {"typed": ["source .venv/bin/activate", "python", *LINES], "seconds": seconds}


def main() -> None:
    """Be a newcomer, twice."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--no-pip-cache", action="store_true", help="everything is downloaded anew")
    parser.add_argument("--keep", action="store_true", help="leave the clone where it is, and say where")
    chosen = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="newcomer-"))
    unset = ("PTYCHO_BLUESKY_HOME", "PTYCHO_BLUESKY_TILED_URI", "VIRTUAL_ENV", "PYTHONPATH")
    environment = {key: value for key, value in os.environ.items() if key not in unset}
    environment |= {"PTYCHO_BLUESKY_HOME": str(folder / "home")}
    environment |= {"PIP_NO_CACHE_DIR": "1"} if chosen.no_pip_cache else {}
    load = [round(value, 2) for value in os.getloadavg()]
    try:
        found = {"demo": by_demo(folder, environment), "session, once installed": by_session(folder, environment)}
    finally:
        for process in psutil.process_iter(["cmdline"]):
            if process.pid != os.getpid() and str(folder) in " ".join(process.info["cmdline"] or []):
                process.kill()
        if not chosen.keep:
            shutil.rmtree(folder, ignore_errors=True)
    machine = {"platform": platform.platform(), "cores": len(os.sched_getaffinity(0)), "load before": load}
    kept = {"folder": str(folder)} if chosen.keep else {}
    print(
        json.dumps({"benchmark": "newcomer", "machine": machine, "pip cache": not chosen.no_pip_cache, **found, **kept})
    )


if __name__ == "__main__":
    main()
