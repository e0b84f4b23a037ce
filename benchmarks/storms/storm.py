"""Many small jobs while consoles, runners, the warm process and the dispatcher are killed at random moments.

All that is random comes from one seed; the moments themselves do not repeat, as the machine does not.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from storms import cheap_recipe

CONSOLE = """
import os, sys, time
from ptycho_bluesky.dispatch import FileSource, JobSpec, submit
took = []
for i in range(int(sys.argv[1])):
    begin = time.perf_counter()
    spec = JobSpec(recipe="cheap", source=FileSource(path="/none"), options={"seed": i, "seconds": float(sys.argv[2])})
    submit(spec)
    took.append(time.perf_counter() - begin)
took.sort()
print(len(took), took[len(took) // 2], took[int(len(took) * 0.99)], flush=True)
"""

CALM_S = 10.0
"""Longest time between two kills."""

VICTIMS = (*["runner"] * 6, *["console"] * 2, *["dispatcher"] * 2, "warm")
"""Whom it kills, and how often one rather than another."""


class Storm:
    """One storm over one ``home``.

    Parameters
    ----------
    home:
        Folder of the jobs.
    jobs, kills, seed:
        How many of each, and what random moments and victims follow from.
    seconds:
        Time that each job works.
    victims:
        Whom to kill.
    environment:
        For all processes, e.g. where Tiled is.
    """

    def __init__(
        self,
        home: Path,
        jobs: int,
        kills: int,
        seed: int,
        *,
        seconds: float = 0.02,
        victims: Sequence[str] = VICTIMS,
        environment: Mapping[str, str],
    ) -> None:
        self.home, self.jobs, self.kills, self.seconds, self.victims = home, jobs, kills, seconds, victims
        self.random = random.Random(seed)
        self.site = cheap_recipe.install(home / "site")
        path = os.pathsep.join(filter(None, (str(self.site), os.environ.get("PYTHONPATH"))))
        self.environment = {**os.environ, **environment, "PTYCHO_BLUESKY_HOME": str(home), "PYTHONPATH": path}
        self.environment["OMP_NUM_THREADS"] = "1"
        self.killed: Counter[str] = Counter()
        self.submitted: list[float] | None = None

    def _start(self, *command: str) -> subprocess.Popen[str]:
        with (self.home / "storm.log").open("a") as log:
            return subprocess.Popen(
                [sys.executable, *command], env=self.environment, stdout=subprocess.PIPE, stderr=log, text=True
            )

    def _dispatcher(self) -> subprocess.Popen[str]:
        return self._start("-m", "ptycho_bluesky.cli", "dispatcher")

    def _console(self) -> subprocess.Popen[str]:
        return self._start("-c", CONSOLE, str(self.jobs), str(self.seconds))

    def folders(self) -> list[Path]:
        """Folders of all jobs."""
        return [path.parent for path in (self.home / "jobs").glob("*/status.jsonl")]

    def states(self) -> Counter[str]:
        """How many jobs are in each state, by their folders."""
        lines = (path.joinpath("status.jsonl").read_text().strip().splitlines() for path in self.folders())
        return Counter(json.loads(last[-1])["state"] if last else "" for last in lines)

    def _process(self, *words: str) -> list[psutil.Process]:
        """Processes of this home whose command has these words."""
        found = []
        for process in psutil.process_iter(["cmdline", "environ"]):
            line = " ".join(process.info["cmdline"] or [])
            if all(word in line for word in words) and str(self.home) in line:
                found.append(process)
        return found

    def _runners(self) -> list[int]:
        pids = []
        for process in psutil.process_iter(["pid", "cwd"]):
            cwd = process.info["cwd"] or ""
            if cwd.startswith(str(self.home / "jobs") + os.sep):
                pids.append(process.info["pid"])
        return sorted(pids)

    def _kill(self, victim: str) -> None:
        if victim == "console" and self.console.poll() is None:
            self.console.kill()
            self.console.communicate()
            self.console = self._console()
        elif victim == "dispatcher":
            self.dispatcher.kill()
            self.dispatcher.communicate()
            self.dispatcher = self._dispatcher()
        elif victim == "warm" and (found := self._process("dispatch._warm")):
            found[0].kill()
        elif victim == "runner" and (pids := self._runners()):
            os.kill(self.random.choice(pids), signal.SIGKILL)
        else:
            return
        self.killed[victim] += 1

    def run(self, timeout_s: float) -> dict[str, Any]:
        """Rage, wait until all is done, and return what was seen; raises TimeoutError where it does not end."""
        begin = time.monotonic()
        self.dispatcher = self._dispatcher()
        while not (self.home / "jobs" / "warm.sock").exists():
            self._in_time(begin, timeout_s)
            time.sleep(0.1)
        self.console = self._console()
        try:
            while sum(self.killed.values()) < self.kills and self.states()["done"] < self.jobs:
                self._calm()
                self._kill(self.random.choice(self.victims))
                self._in_time(begin, timeout_s)
            while (states := self.states())["done"] < self.jobs:
                self._in_time(begin, timeout_s)
                if states["lost"] and not states["queued"] + states["running"]:
                    self._retry()  # killed more often than the dispatcher's policy allows: the user's turn
                time.sleep(0.2)
            self.submitted = [float(word) for word in (self.console.communicate(timeout=60)[0] or "").split()]
        finally:
            for process in (self.console, self.dispatcher):
                if process.poll() is None:
                    process.terminate()
                process.communicate(timeout=30)
        return {"killed": dict(self.killed), "seconds": round(time.monotonic() - begin, 1), **self._submission()}

    def _calm(self) -> None:
        """Wait until some jobs more are done, as many as leave time for all kills; or for a while."""
        wanted = self.states()["done"] + self.random.expovariate(self.kills / self.jobs)
        deadline = time.monotonic() + self.random.uniform(0.1, CALM_S)
        while time.monotonic() < deadline and self.states()["done"] < wanted:
            time.sleep(self.random.uniform(0.02, 0.2))

    def _submission(self) -> dict[str, Any]:
        if not self.submitted:
            return {}
        return {
            "submit_ms_median": round(self.submitted[1] * 1e3, 1),
            "submit_ms_p99": round(self.submitted[2] * 1e3, 1),
        }

    def _in_time(self, begin: float, timeout_s: float) -> None:
        if time.monotonic() - begin > timeout_s:
            raise TimeoutError(f"after {timeout_s:.0f} s: {dict(self.states())}, killed {dict(self.killed)}")

    def _retry(self) -> None:
        code = "from ptycho_bluesky.dispatch import *\nfor job in jobs('lost'): retry(job.job_id)"
        self._start("-c", code).communicate(timeout=120)

    def faults(self) -> list[str]:
        """What must not be: jobs lost or run twice, notes that contradict the states."""
        found = []
        folders = self.folders()
        if len(folders) != self.jobs:
            found.append(f"{len(folders)} folders of {self.jobs} jobs")
        for folder in folders:
            entries = [json.loads(line) for line in (folder / "status.jsonl").read_text().splitlines() if line]
            attempt = max(entry.get("attempt", 1) for entry in entries)
            notes = Counter(line.split()[0] for line in (folder / cheap_recipe.NOTES).read_text().splitlines())
            states = [entry["state"] for entry in entries]
            if notes["twice"]:
                found.append(f"{folder.name}: two runners were at work at once")
            if notes["begin"] > attempt or not notes["end"]:
                found.append(f"{folder.name}: {dict(notes)} in {attempt} attempts")
            if "done" not in states or {*states[states.index("done") :]} != {"done"}:
                found.append(f"{folder.name}: {states}")
            if not (folder / "result.h5").exists():
                found.append(f"{folder.name}: no result")
        return found
