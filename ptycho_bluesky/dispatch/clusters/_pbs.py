"""OpenPBS and PBS Pro by their own commands: qsub, qstat, qselect, qdel.

Written after their manuals and tried with stand-ins, never with a real PBS.
"""

from __future__ import annotations

import json
from pathlib import Path

from ptycho_bluesky._who import whoami
from ptycho_bluesky.dispatch._folder import JobFolder
from ptycho_bluesky.dispatch._launcher import Ending
from ptycho_bluesky.dispatch.clusters._scheduler import SchedulerLauncher, Seen, command
from ptycho_bluesky.dispatch.clusters._shape import Shape, there

__all__ = ["PbsLauncher"]

OVER = ("F", "X", "C")
"""States of jobs that have ended."""

KILLED_FOR_TIME, KILLED_FOR_MEMORY = -29, -27
"""Exit statuses of OpenPBS (JOB_EXEC_KILL_WALLTIME, JOB_EXEC_KILL_MEM)."""


class PbsLauncher(SchedulerLauncher):
    """Runners as jobs of PBS, told by their names."""

    kind = "pbs"
    scheduler = "PBS"

    def submit(self, job: JobFolder, shape: Shape, script: Path, after: str | None) -> str:
        """Submit by qsub; the words are its arguments, no shell reads them."""
        wanted = self.resource
        hours, rest = divmod(wanted.walltime_s, 3600)
        select = f"select={shape.nodes}:ncpus={shape.cpus_per_node}"
        select += f":ngpus={shape.gpus_per_node}" if shape.gpus_per_node else ""
        words = ["qsub", "-N", _name(job), "-V", "-r", "n", "-j", "oe", "-o", str(there(job.path, wanted) / "pbs.txt")]
        words += ["-l", select, "-l", f"walltime={hours:02}:{rest // 60:02}:{rest % 60:02}"]
        words += ["-p", str(job.spec().priority)]
        words += [] if wanted.partition is None else ["-q", wanted.partition]
        words += [] if wanted.account is None else ["-A", wanted.account]
        words += [] if after is None else ["-W", f"depend=afterany:{after}"]
        return command(*words, str(script), place=self.place).strip()

    def ask(self) -> dict[str, Seen]:
        """Ask qstat of our jobs, those that ended included where PBS keeps their history (-x)."""
        user = command("qselect", "-x", "-u", whoami().split("@")[0], place=self.place).split()
        if not user:
            return {}
        found = json.loads(command("qstat", "-x", "-f", "-F", "json", *user, place=self.place)).get("Jobs", {})
        jobs = {}
        for number, job in found.items():
            reason = str(job.get("Exit_status", job.get("comment", "")))
            jobs[number] = Seen(job["job_state"], job["job_state"] not in OVER, job.get("Job_Name", ""), reason)
        return jobs

    def _is(self, seen: Seen, job: JobFolder) -> bool:
        return seen.name == _name(job)

    def end(self, number: str) -> None:
        """Cancel by qdel."""
        command("qdel", number, place=self.place)

    def told(self, seen: Seen, job: JobFolder) -> Ending | None:
        """Return PBS's word in plain ones."""
        if seen.reason == str(KILLED_FOR_TIME):
            limit = f"walltime_s of [resources.{self.place}] ({self.resource.walltime_s} s)"
            return Ending("failed", f"PBS ended it at its limit; raise {limit}, or give max_seconds", "time")
        if seen.reason == str(KILLED_FOR_MEMORY):
            return Ending("failed", "PBS ended it since it took more memory than it was given; ask for more", "memory")
        return self.could_not_start(job, seen)


def _name(job: JobFolder) -> str:
    """Return a name of 15 letters, the most that every PBS takes."""
    return f"ptycho-{job.job_id[:8]}"
