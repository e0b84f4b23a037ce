"""One job, in a process of its own: ``python -m ptycho_bluesky.dispatch.runner JOBFOLDER SLOTS [LIMIT_S]``.

SLOTS is the number of jobs that run at once, 0 where a cluster's scheduler gives turns; LIMIT_S the time that the place
has for the job, seconds.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from ptycho_bluesky._locks import file_lock, release
from ptycho_bluesky.config import settings
from ptycho_bluesky.dispatch._allowed import check_paths
from ptycho_bluesky.dispatch._entry import enter_model
from ptycho_bluesky.dispatch._executor import LocalExecutor
from ptycho_bluesky.dispatch._faults import fault_kind
from ptycho_bluesky.dispatch._folder import JobFolder
from ptycho_bluesky.dispatch._ledger import Ledger, LedgerElsewhere
from ptycho_bluesky.dispatch._pending import register_pending, register_with_patience
from ptycho_bluesky.dispatch._registry import recipe
from ptycho_bluesky.dispatch._status import FINAL
from ptycho_bluesky.dispatch._turn import wait_for_turn
from ptycho_bluesky.errors import PtychoError

__all__ = ["main"]

logger = logging.getLogger("ptycho_bluesky.runner")

NEWS_S = 0.5
"""Shortest time between two news of progress, each of which is synced to the disk."""

PARTIAL_S = 10.0
"""Shortest time between two partial results."""

LOOK_S = 1.0
"""Longest time that others look whether a job has a runner already; another runner keeps that lock for life."""

OVERDUE_S = 30.0
"""Time that a job has to end with what it has, after its limit, before the watchdog kills it."""


class _Runner:
    """The way of one job from its turn to its result in Tiled."""

    def __init__(self, job: JobFolder, slots: int, limit_s: float | None = None) -> None:
        self.job, self.slots, self.limit_s = job, slots, limit_s
        self.ledger = Ledger(job.path.parent) if slots else LedgerElsewhere(job.path.parent)
        self.terminated = False
        self.ended = threading.Event()
        self._began = self._news = self._partial = time.monotonic()

    def terminate(self, number: int, frame: FrameType | None) -> None:
        """Handle SIGTERM: end at the next epoch, as a fault of the machine, which may be retried."""
        if self.job.cancel_file.exists():
            os._exit(0)  # killed by a scheduler: nothing is to be kept, and who cancelled it records that
        self.terminated = True

    def given_up(self) -> bool:
        return self.terminated or self.job.cancel_file.exists()

    def should_stop(self) -> bool:
        return self.given_up() or self.job.stop_file.exists()

    def beat(self, every_s: float) -> None:
        while not self.ended.is_set():
            try:
                self.job.beat()
            except OSError as error:
                logger.warning("no sign of life could be written: %s", error)
            self.ended.wait(every_s)

    def on_state(self, state: Any) -> None:
        """Tell of an epoch or of a look at a training, and keep a partial result; neither may end the work."""
        now = time.monotonic()
        # Rarer the longer it takes: the status file stays at some hundred lines, however long the job.
        pause_s = max(NEWS_S, 0.02 * (now - self._began))
        done, total, progress = _figures(state)
        try:
            if now - self._news > pause_s or done in (1, total):
                self._news = now
                self.job.record(self.job.status().state, progress=progress)
            if now - self._partial > PARTIAL_S and hasattr(state, "object"):
                self._partial = now
                part = self.job.partial_file.with_suffix(".tmp")
                with part.open("wb") as file:
                    np.savez(file, object=state.object, probe=state.probe, epoch=state.epoch, r_factor=state.r_factor)
                part.replace(self.job.partial_file)
        except (OSError, PtychoError) as error:
            logger.warning("progress could not be written: %s", error)

    def watch(self, limit_s: float | None) -> subprocess.Popen[bytes] | None:
        """Start the watchdog over this process, in its process group, where there is a limit."""
        if limit_s is None:
            return None
        numbers = [str(os.getpid()), str(limit_s), str(OVERDUE_S)]
        files = [str(self.job.stop_file), str(self.job.overdue_file)]
        program = str(Path(__file__).with_name("_watchdog.py"))
        return subprocess.Popen([sys.executable, "-S", "-E", program, *numbers, *files], stdin=subprocess.DEVNULL)

    def failed(self, kind: str, reason: str) -> int:
        logger.error("%s", reason)
        if self.job.status().state not in FINAL:
            self.ledger.record(self.job, "failed", kind=kind, reason=reason)
        return 1

    def run(self) -> int:
        """Return the exit status: 0 done or cancelled, 1 failed."""
        spec = self.job.spec()
        check_paths(spec)
        self.job.keep_reserve()
        slot = wait_for_turn(self.ledger, self.job.job_id, spec.resource, self.slots, self.given_up)
        limits = [limit for limit in (spec.limit_s, self.limit_s) if limit is not None]
        watchdog = None if slot is None else self.watch(min(limits, default=None))
        try:
            if slot is not None and not self.job.result_file.exists():
                self._work(spec)
        finally:
            if watchdog is not None:
                watchdog.kill()
                watchdog.wait()
            release(slot)  # registering takes no device: the next job may begin
        if self.terminated:
            return self.failed(
                "machine", "the runner was told to end (SIGTERM), e.g. by a shutdown or a scheduler; retry it"
            )
        if self.job.cancel_file.exists():
            self.ledger.record(self.job, "cancelled", reason="cancelled by the user")
            return 0
        self._finish(spec)
        return 0

    def _work(self, spec: Any) -> None:
        from ptycho_bluesky.formats import write_reconstruction

        # Loads torch and numba, 5 s: not while waiting for a turn.
        result = recipe(spec.recipe)(spec, self.should_stop, self.on_state, self.job.path)
        if self.given_up():
            return
        if result is None:
            self.job.cancel_file.touch()  # stopped before there was anything to keep
        elif isinstance(result, Path):
            result.replace(self.job.result_file)
        else:
            write_reconstruction(self.job.result_file, result)
            self.job.partial_file.unlink(missing_ok=True)

    def _finish(self, spec: Any) -> None:
        """Register the result; where Tiled is away, the job is done all the same and the result waits."""
        with file_lock(self.job.path / "register.lock", timeout_s=60.0):
            news: dict[str, Any] = {"progress": self.job.status().progress}
            if spec.recipe == "train":
                news["progress"] = {**news["progress"], **enter_model(self.job)}
            problem = register_with_patience(self.job)
            if spec.then is not None:
                news["follow_up"] = self._follow_up()
            stopped = self.job.stop_file.exists()
            reason = f"the result waits in {self.job.result_file}: {problem}" if problem else ""
            self.ledger.record(self.job, "done", registered=not problem, stopped=stopped, reason=reason, **news)
        if problem:
            logger.error("%s", reason)
        elif self.ledger.pending():
            from ptycho_bluesky.catalog import connect

            client = connect()
            with client.context:
                register_pending(client, self.ledger)

    def _follow_up(self) -> str:
        """Submit the training that this reconstruction asks for; its failure is not that of the reconstruction."""
        from ptycho_bluesky.dispatch._follow_up import follow_up

        try:
            training = follow_up(self.job, self.ledger)
            return "" if training is None else LocalExecutor(self.slots or None, self.ledger).submit(training)
        except Exception:  # whatever it is, the reconstruction is there and is to be registered as done
            logger.exception("no training could be submitted")
            return ""


def _figures(state: Any) -> tuple[int, int, dict[str, Any]]:
    """Return how much is done, of how much, and what there is to tell of an engine's or a training's state."""
    seconds = round(float(state.seconds), 3)
    if hasattr(state, "curves"):
        newest = {name: values[-1] for name, values in state.curves.items() if values and name != "step"}
        done, total, news = state.step, state.steps, {"step": state.step, "steps": state.steps, **newest}
    else:
        done, total = state.epoch, state.epochs
        news = {"epoch": done, "epochs": total or None, "r_factor": float(state.r_factor)}
        if not total:
            news["frames"] = len(state.problem)  # so far: the scan goes on, and nobody knows for how long
    left = round(seconds * (total - done) / done, 1) if done and total else None
    return done, total, {**news, "seconds": seconds, "seconds_left": left}


def main(folder: Path, slots: int, kind: type[_Runner] = _Runner, limit_s: float | None = None) -> int:
    """Run the job in `folder`; 0 done or cancelled, 1 failed, 3 where another runner has it.

    Parameters
    ----------
    folder:
        Of the job.
    slots:
        Jobs that may run at once on a device, the others wait here; 0 where a scheduler has given this one its turn.
    kind:
        Class of the runner.
    limit_s:
        Seconds that a scheduler gives it; None where none does.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    job = JobFolder(folder)
    code = _alone(job, kind(job, slots, limit_s))
    if slots and job.spec().place == "local":
        LocalExecutor(slots, Ledger(folder.parent)).tend()  # the next ones
    return code


def _alone(job: JobFolder, runner: _Runner) -> int:
    with file_lock(job.path / "runner.lock", timeout_s=LOOK_S) as ours:
        if not ours:
            return 3
        if job.status().state in ("done", "failed", "cancelled"):
            return 0  # started twice, and the other one has done it meanwhile
        if job.runner() is None and job.spec().place == "local":  # what started it died before it could note it
            job.launched({"kind": "local", "place": "local", "pid": os.getpid()})
        before = signal.signal(signal.SIGTERM, runner.terminate)
        threading.Thread(target=runner.beat, args=(settings().heartbeat_s,), daemon=True).start()
        try:
            return runner.run()
        except PtychoError as error:
            return runner.failed("machine" if runner.terminated else fault_kind(error), str(error))
        except Exception as error:  # whatever it is, the job must not hang between states
            logger.exception("job %s failed", job.job_id)
            return runner.failed(fault_kind(error), f"{type(error).__name__}: {error}; see the log {job.log_file}")
        finally:
            runner.ended.set()
            job.drop_reserve()
            signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]), limit_s=float(sys.argv[3]) if len(sys.argv) > 3 else None))
