"""Pilots of Parsl: jobs of a scheduler that wait for reconstructions, which then begin without its queue."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import socket
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import psutil

from ptycho_bluesky._locks import acquire, release
from ptycho_bluesky._resources import Resource
from ptycho_bluesky.config import settings
from ptycho_bluesky.dispatch._folder import JobFolder
from ptycho_bluesky.dispatch._launcher import OWNED, Ending
from ptycho_bluesky.dispatch.clusters._pilot_task import KILL, run_in_pilot
from ptycho_bluesky.dispatch.clusters._scheduler import BEATS, command
from ptycho_bluesky.dispatch.clusters._shape import Shape, cluster, python_there, runner_command, there
from ptycho_bluesky.errors import DispatchError, FacilityError

__all__ = ["ParslPilots"]

HEARTBEAT_S, LOST_S = 5, 30
"""Between pilots and this process: period, and time after which either takes the other for lost."""

CMD_S = 20
"""Longest wait of Parsl for a command of the scheduler, seconds."""


class ParslPilots:
    """The pilots of one place. One process owns them, the dispatcher; others may look and kill, by files.

    Parameters
    ----------
    place, resource:
        Of the settings; the resource has ``through = "parsl"``.
    """

    def __init__(self, place: str, resource: Resource | None) -> None:
        self.place, self.resource = place, cluster(place, resource)
        self._folder = settings().home / "pilots" / place
        home = hashlib.sha256(str(settings().home).encode()).hexdigest()[:6]
        self._name = f"pilot-{place[:16]}-{home}"
        self._kernel: Any = None
        self._lock: int | None = None
        self._tasks: dict[str, Future[int]] = {}
        self._guard = threading.Lock()

    @property
    def started(self) -> bool:
        """Whether this process owns the pilots."""
        return self._kernel is not None

    def start(self) -> None:
        """Become the owner, and ask the scheduler for the first pilots. What a killed owner left is removed.

        Raises
        ------
        DispatchError
            When Parsl is not installed, or another process owns the pilots of this place.
        """
        try:
            from parsl.dataflow.dflow import DataFlowKernel
        except ImportError:
            raise DispatchError("pilots need Parsl; install ptycho-bluesky[parsl], or set through = 'sbatch'") from None
        self._folder.mkdir(parents=True, exist_ok=True)
        self._lock = acquire(self._folder / "owner.lock")
        if self._lock is None:
            raise DispatchError(f"another process owns the pilots of {self.place!r}; end it, or submit through it")
        self._remove_leftovers()
        # Parsl starts its interchange by name.
        os.environ["PATH"] = os.pathsep.join([str(Path(python_there(self.resource)).parent), os.environ["PATH"]])
        before = {child.pid for child in psutil.Process().children(recursive=True)}
        self._kernel = DataFlowKernel(self._config())
        mine = [child for child in psutil.Process().children(recursive=True) if child.pid not in before]
        OWNED[self.place] = self
        (self._folder / "processes.json").write_text(json.dumps([[child.pid, child.create_time()] for child in mine]))

    def close(self) -> None:
        """Give the pilots back; what runs in them ends and is found lost."""
        kernel, self._kernel = self._kernel, None
        OWNED.pop(self.place, None)
        if kernel is not None:
            kernel.cleanup()
        self._tasks.clear()
        release(self._lock)
        self._lock = None

    def _remove_leftovers(self) -> None:
        """End processes of Parsl that an owner left which was killed, and the pilots that it asked for."""
        with contextlib.suppress(OSError, ValueError):
            for pid, created in json.loads((self._folder / "processes.json").read_text()):
                with contextlib.suppress(psutil.Error):
                    process = psutil.Process(pid)
                    if process.create_time() == created:
                        process.kill()
        with contextlib.suppress(FacilityError):
            if self.resource.kind == "slurm":
                command("scancel", f"--name={self._name}", f"--user={os.getuid()}", place=self.place)
            else:
                for number in command("qselect", "-N", self._name[:15], place=self.place).split():
                    command("qdel", number, place=self.place)
        shutil.rmtree(self._folder / "runs", ignore_errors=True)

    def _config(self) -> Any:
        from parsl.config import Config
        from parsl.executors import HighThroughputExecutor

        executor = HighThroughputExecutor(
            label=self.place.replace("-", "_"),
            address=self.resource.address or socket.gethostname(),
            loopback_address="127.0.0.1",
            max_workers_per_node=1,
            heartbeat_period=HEARTBEAT_S,
            heartbeat_threshold=LOST_S,
            provider=self._provider(),
            worker_logdir_root=str(self._folder / "runs"),
        )
        # With another strategy a lost pilot is never replaced.
        return Config(
            executors=[executor], run_dir=str(self._folder / "runs"), strategy="simple", retries=0, usage_tracking=0
        )

    def _provider(self) -> Any:
        from parsl.launchers import SimpleLauncher
        from parsl.providers import PBSProProvider, SlurmProvider

        wanted, hours = self.resource, divmod(self.resource.walltime_s, 3600)
        most = wanted.max_jobs or 1
        cores, gpus = wanted.ranks_per_node * wanted.cpus_per_rank, wanted.ranks_per_node * wanted.gpus_per_rank
        common = {
            "account": wanted.account,
            "nodes_per_block": wanted.nodes,
            "init_blocks": min(wanted.warm_pilots, most),
            "min_blocks": min(wanted.warm_pilots, most),
            "max_blocks": most,
            "walltime": f"{hours[0]:02}:{hours[1] // 60:02}:{hours[1] % 60:02}",
            # A runner starts its ranks on all nodes by itself: one worker, on the first node.
            "launcher": SimpleLauncher(),
            "worker_init": f'export PATH="{Path(python_there(wanted)).parent}:$PATH"',
        }
        if wanted.kind == "pbs":
            gpu = f":ngpus={gpus}" if gpus else ""
            return PBSProProvider(
                queue=wanted.partition,
                cpus_per_node=cores,
                select_options=gpu.lstrip(":"),
                scheduler_options=f"#PBS -N {self._name[:15]}",
                **common,
            )
        return SlurmProvider(
            partition=wanted.partition,
            cores_per_node=cores,
            exclusive=False,
            cmd_timeout=CMD_S,
            gres=f"gpu:{gpus}" if gpus else None,
            scheduler_options=f"#SBATCH --job-name={self._name}",
            **common,
        )

    def launch(self, job: JobFolder) -> dict[str, Any]:
        """Hand the job to the next free pilot.

        Raises
        ------
        FacilityError
            When this process does not own the pilots (kind "machine": the job waits for the one that will), or they
            are too small for its ranks.
        """
        if self._kernel is None:
            raise FacilityError(
                f"the pilots of {self.place!r} belong to the dispatcher, which takes the job when it runs: start "
                "`ptycho-bluesky dispatcher`, or set through = 'sbatch'"
            )
        shape = Shape.of(job, self.place, self.resource)
        (job.path / KILL).unlink(missing_ok=True)
        folder, home = str(there(job.path, self.resource)), str(there(settings().home, self.resource))
        environment = {"PTYCHO_BLUESKY_HOME": home, "PTYCHO_BLUESKY_THREADS": str(shape.cpus_per_node)}
        python = python_there(self.resource)
        shim = [python, "-m", "ptycho_bluesky._with_parent"]
        arguments = (runner_command(job, self.resource), folder, shim, environment)
        with self._guard:
            task = self._kernel.submit(
                run_in_pilot, app_args=arguments, executors="all", cache=False, ignore_for_cache=[], app_kwargs={}
            )
            self._tasks[job.job_id] = task
        return {"kind": "parsl", "place": self.place, "id": str(task.tid)}

    def alive(self, job: JobFolder, runner: Mapping[str, Any]) -> bool | None:
        """Whether a pilot has the job, or will have it; `runner` is not needed for that."""
        began = job.heartbeat_file.exists()
        if (job.path / KILL).exists() and not began:
            return False
        if not self.started:
            return None if began else True
        task = self._tasks.get(job.job_id)
        if task is not None and task.done() and task.exception() is None:
            return False
        if task is None or task.done():  # an earlier owner's pilots, or a lost one: what it ran may still be ending
            return began and job.heartbeat_age_s() < BEATS * settings().heartbeat_s
        return True

    def kill(self, job: JobFolder, runner: Mapping[str, Any]) -> None:
        """Ask the pilot to kill the runner, and whoever takes the job later to leave it."""
        (job.path / KILL).touch()

    def ending(self, job: JobFolder, runner: Mapping[str, Any]) -> Ending | None:
        """Return what became of the pilot of a job; `runner` is not needed for that."""
        task, again = self._tasks.get(job.job_id), f"`jobs retry {job.job_id[:8]}` starts it again"
        if not self.started:
            return None
        if task is None:
            return Ending("lost", f"the dispatcher that owned its pilot has ended; {again}", "machine")
        error = task.exception() if task.done() else None
        if error is not None:
            said = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            return Ending("lost", f"its pilot was lost ({said}); {again}", "machine")
        return None
