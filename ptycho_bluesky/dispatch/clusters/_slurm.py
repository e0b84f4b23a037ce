"""Slurm by its own commands: sbatch, squeue, scancel. Tried with 22.05."""

from __future__ import annotations

import os
from pathlib import Path

from ptycho_bluesky.dispatch._folder import JobFolder
from ptycho_bluesky.dispatch._launcher import Ending
from ptycho_bluesky.dispatch.clusters._scheduler import SchedulerLauncher, Seen, command
from ptycho_bluesky.dispatch.clusters._shape import Shape, there

__all__ = ["SlurmLauncher"]

OVER = (
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED",
    "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "TIMEOUT",
)  # fmt: skip
"""States in which Slurm does nothing more about a job."""

NEVER = ("PartitionTimeLimit", "PartitionNodeLimit", "BadConstraints")
"""Reasons of jobs that wait in vain: they ask for more than the partition ever gives."""

FORMAT = "%i|%T|%k|%r"
"""Number, state, comment, reason."""


class SlurmLauncher(SchedulerLauncher):
    """Runners as jobs of Slurm, each with our job's id as its comment."""

    kind = "slurm"
    scheduler = "Slurm"
    node_failures = ("NODE_FAIL", "BOOT_FAIL")

    def submit(self, job: JobFolder, shape: Shape, script: Path, after: str | None) -> str:
        """Submit by sbatch; the words are its arguments, no shell reads them."""
        wanted, minutes = self.resource, -(-self.resource.walltime_s // 60)
        words = ["sbatch", "--parsable", "--no-requeue", "--export=ALL", "--open-mode=append"]
        words += [f"--job-name=ptycho-{job.job_id[:8]}", f"--comment={job.job_id}", f"--time={minutes}"]
        words += [f"--nodes={shape.nodes}", "--ntasks-per-node=1", f"--cpus-per-task={shape.cpus_per_node}"]
        words += [f"--output={there(job.log_file, wanted)}", f"--chdir={there(job.path, wanted)}"]
        words += [] if shape.gpus_per_node == 0 else [f"--gres=gpu:{shape.gpus_per_node}"]
        words += [] if wanted.partition is None else [f"--partition={wanted.partition}"]
        words += [] if wanted.account is None else [f"--account={wanted.account}"]
        words += [] if after is None else [f"--dependency=afterany:{after}"]
        nice = -job.spec().priority  # users may only let others pass
        words += [f"--nice={100 * nice}"] if nice > 0 else []
        return command(*words, str(script), place=self.place).strip().split(";")[0]  # "number;cluster"

    def ask(self) -> dict[str, Seen]:
        """Ask squeue, which forgets jobs some minutes after their end (MinJobAge)."""
        words = ["squeue", "--noheader", "--states=all", f"--user={os.getuid()}", f"--format={FORMAT}"]
        jobs = {}
        for line in command(*words, place=self.place).splitlines():
            number, state, comment, reason = line.split("|", 3)
            never = state == "PENDING" and reason in NEVER
            jobs[number] = Seen(state, state not in OVER and not never, comment, reason, never)
        return jobs

    def end(self, number: str) -> None:
        """Cancel by a plain scancel: with a signal of its own Slurm would call the job failed."""
        command("scancel", number, place=self.place)

    def told(self, seen: Seen, job: JobFolder) -> Ending | None:
        """Return Slurm's word in plain ones."""
        short = job.job_id[:8]
        again = f"`jobs retry {short}` starts it again"
        match seen.state:
            case "TIMEOUT" | "DEADLINE":
                limit = f"walltime_s of [resources.{self.place}] ({self.resource.walltime_s} s)"
                return Ending("failed", f"Slurm ended it at its limit; raise {limit}, or give max_seconds", "time")
            case "OUT_OF_MEMORY":
                more = "ask for more cores or ranks, whose memory comes with them, or set the engine's memory_gb"
                return Ending("failed", f"Slurm ended it since it took more memory than it was given; {more}", "memory")
            case "NODE_FAIL" | "BOOT_FAIL":
                return Ending("lost", f"its node failed (Slurm: {seen.state}); {again}", "machine")
            case "PREEMPTED":
                return Ending("lost", f"Slurm gave its place to another job; {again}", "machine")
            case "CANCELLED":
                who = "somebody cancelled it at Slurm (scancel, or an administrator)"
                return Ending("failed", f"{who}; {again}", "machine")
        return self.could_not_start(job, seen)
