"""When a ptychographic run stops, its reconstruction begins: elsewhere, and without keeping the RunEngine waiting."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from typing import Any, Literal

from ptycho_bluesky.callbacks._counted_runs import CountedRun, CountedRuns
from ptycho_bluesky.dispatch import AnyExecutor, Executor, FollowUp, JobSpec, TiledSource, enter_in_array
from ptycho_bluesky.errors import DispatchError

__all__ = ["DispatchOnStop"]

logger = logging.getLogger(__name__)


SILENCE_S = 900.0
"""Longest time without a frame, e.g. of a pause, after which a job that follows its scan ends with what it has."""

JOIN_S = 5.0
"""Longest wait, at a run's end, for a submission that began during the scan and was over long ago as a rule."""


class _Early:
    """A job that is submitted during its scan, in a thread: the RunEngine does not wait for the disk."""

    def __init__(self, executor: Executor, spec: JobSpec) -> None:
        self._executor, self.spec = executor, spec
        self._failed = False
        self._thread = threading.Thread(target=self._submit, name="dispatch-during-scan", daemon=True)
        self._thread.start()

    def _submit(self) -> None:
        try:
            self._executor.submit(self.spec)
        except Exception:  # whatever it is, another job begins when the run stops
            logger.exception("no job of run %s began during the scan", str(self.spec.raw_uid)[:8])
            self._failed = True

    def goes_on(self) -> bool:
        """Whether the job will still see the end of its run, or was ended by the user."""
        self._thread.join(JOIN_S)
        if self._failed or self._thread.is_alive():
            return False
        status = self._executor.poll(self.spec.job_id)
        return status.state not in ("failed", "lost") and (status.state != "done" or status.stopped)


class DispatchOnStop(CountedRuns):
    """Bluesky callback: submits a reconstruction for each run with a ``ptychography`` block when it stops, or before.

    Aborted and failed runs are reconstructed too, from the frames that exist. Runs of a campaign become members of its
    job array, which grows with the campaign (``jobs array list``). The runner reads the run from Tiled, and
    waits until all of it has arrived there: subscribe :func:`ptycho_bluesky.catalog.tiled_writer` as well. It never
    raises into the RunEngine: what fails is logged and kept in :attr:`failures`.

    Parameters
    ----------
    engine:
        Name of the engine; ``"auto"`` chooses by the data.
    options:
        The engine's options, JSON values.
    device:
        ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
    place:
        ``"local"``, a resource of the settings, or ``"auto"``: chosen by the number of frames and by who answers.
    ranks:
        Processes that share a reconstruction, for the engines ``"fast"`` and ``"lsqml"``.
    min_frames:
        Runs with fewer frames are left alone.
    grow_from:
        Frames from which on a job begins during its scan: it takes in the others as they are measured, and has little
        left to do after the stop. None: when the run stops.
    max_seconds:
        Time after which a reconstruction stops with the best it has, seconds, not counting the scan; None for no limit.
    limit_s:
        Time that a job may run, seconds; a watchdog kills what does not end then. None for no limit.
    priority:
        Of the jobs, -100 to 100; the highest starts first.
    cold_start:
        After the first reconstruction of a probe for which no model was trained yet, train one on simulated frames of
        that probe: 9 minutes on the runner's cores, no measured pair. Off by default, as the next reconstruction on
        that device waits for so long.
    fine_tune:
        ``"after"``: after each reconstruction, train the model in service further on it. None: not.
    promote:
        Put such a model into service when it passes the gate: running edge processes that follow the model in service
        swap to it.
    training:
        Fields of :class:`ptycho_bluesky.inference.TrainingOptions` for these trainings, JSON values; without ``steps``
        among them a training takes 9 minutes.
    executor:
        Where to run; None for the dispatcher service where one runs, else this machine, one job at a time.

    Raises
    ------
    pydantic.ValidationError
        When the options make no valid job, at once and not when a run stops.
    DispatchError
        When `fine_tune` is not one of those, or `grow_from` no number of frames.
    """

    def __init__(
        self,
        engine: str = "auto",
        options: Mapping[str, Any] | None = None,
        *,
        device: str = "cpu",
        place: str = "local",
        ranks: int = 1,
        min_frames: int = 16,
        grow_from: int | None = None,
        max_seconds: float | None = None,
        limit_s: float | None = None,
        priority: int = 0,
        cold_start: bool = False,
        fine_tune: Literal["after"] | None = None,
        promote: bool = False,
        training: Mapping[str, Any] | None = None,
        executor: Executor | None = None,
    ) -> None:
        super().__init__()
        if fine_tune not in (None, "after"):
            raise DispatchError(f'fine_tune is {fine_tune!r}; allowed are "after" (each reconstruction) and None')
        if grow_from is not None and grow_from < 1:
            raise DispatchError(f"grow_from is {grow_from}; give a number of frames, e.g. 64, or None")
        wanted = cold_start or fine_tune is not None
        follow = FollowUp(
            cold_start=cold_start, fine_tune=fine_tune is not None, promote=promote, training=dict(training or {})
        )
        self._spec = JobSpec(
            then=follow if wanted else None,
            source=TiledSource(uid="to be replaced"),
            engine=engine,
            options=dict(options or {}),
            device=device,
            place=place,
            ranks=ranks,
            max_seconds=max_seconds,
            limit_s=limit_s,
            priority=priority,
        )
        self._min_frames = min_frames
        self._executor = executor or AnyExecutor()
        self._grow_from = grow_from
        self._early: dict[str, _Early] = {}
        self.job_ids: list[str] = []
        """Ids of the jobs submitted, in order."""

        self.failures: list[str] = []
        """What went wrong, in plain words."""

    def __call__(self, name: str, doc: dict[str, Any], validate: bool = False) -> tuple[str, dict[str, Any]]:
        """Take a document from the RunEngine."""
        try:
            super().__call__(name, doc, validate)
        except Exception as error:  # an exception here would abort the scan
            logger.exception("no reconstruction was dispatched")
            self.failures.append(f"{type(error).__name__}: {error}")
        return name, doc

    def counted(self, run: CountedRun) -> None:
        """Submit a run's reconstruction when there are frames enough to begin with."""
        if self._grow_from is not None and run.frames >= self._grow_from and run.uid not in self._early:
            source = TiledSource(uid=run.uid, grow=True, wait_s=SILENCE_S)
            self._early[run.uid] = _Early(self._executor, self._spec_of(run, source))

    def _spec_of(self, run: CountedRun, source: TiledSource) -> JobSpec:
        return self._spec.model_copy(update={"source": source, "raw_uid": run.uid})

    def stop(self, doc: dict[str, Any]) -> None:
        """Submit the run's reconstruction, unless one is at work that sees its end."""
        uid = doc["run_start"]
        run, early = self.runs.pop(uid, None), self._early.pop(uid, None)
        if run is None:
            return
        if early is not None:
            if early.goes_on():
                self._wanted(run, early.spec)
                self.job_ids.append(early.spec.job_id)
                return
            logger.warning("job %s did not see the end of run %s; another begins", early.spec.job_id[:8], uid[:8])
        if run.frames < self._min_frames:
            logger.info("run %s has %d frames; %d are needed to reconstruct", uid[:8], run.frames, self._min_frames)
            return
        spec = self._spec_of(run, TiledSource(uid=uid)).model_copy(update={"frames": run.frames})
        if self._wanted(run, spec):
            self.job_ids.append(self._executor.submit(spec))

    def _wanted(self, run: CountedRun, spec: JobSpec) -> bool:
        """Enter a run of a campaign in its array; False where the user has cancelled that."""
        campaign = run.block.get("campaign")
        return not (isinstance(campaign, Mapping) and campaign.get("uid")) or enter_in_array(campaign, spec)
