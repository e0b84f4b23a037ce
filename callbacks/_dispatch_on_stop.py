"""When a ptychographic run stops, its reconstruction begins: elsewhere, and without keeping the RunEngine waiting."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Literal

from event_model import DocumentRouter

from ptycho_bluesky.dispatch import Executor, FollowUp, JobSpec, LocalExecutor, TiledSource
from ptycho_bluesky.errors import DispatchError

__all__ = ["DispatchOnStop"]

logger = logging.getLogger(__name__)


class _Run:
    """What must be remembered of a run to know how many frames it has."""

    def __init__(self, frames_key: str) -> None:
        self.frames_key = frames_key
        self.descriptors: set[str] = set()
        self.resources: set[str] = set()
        self.frames = 0


class DispatchOnStop(DocumentRouter):  # type: ignore[misc]
    """Bluesky callback: submits a reconstruction for each run with a ``ptychography`` block when it stops.

    Aborted and failed runs are reconstructed too, from the frames that exist. The runner reads the run from Tiled, and
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
    min_frames:
        Runs with fewer frames are left alone.
    max_seconds:
        Time after which a reconstruction stops with the best it has, seconds; None for no limit.
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
        Where to run; None for this machine, one job at a time.

    Raises
    ------
    pydantic.ValidationError
        When the options make no valid job, at once and not when a run stops.
    DispatchError
        When `fine_tune` is not one of those.
    """

    def __init__(
        self,
        engine: str = "auto",
        options: Mapping[str, Any] | None = None,
        *,
        device: str = "cpu",
        min_frames: int = 16,
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
            max_seconds=max_seconds,
            limit_s=limit_s,
            priority=priority,
        )
        self._min_frames = min_frames
        self._executor = executor or LocalExecutor()
        self._runs: dict[str, _Run] = {}
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

    def start(self, doc: dict[str, Any]) -> None:
        """Remember a run if it is a ptychographic one."""
        block = doc.get("ptychography")
        if isinstance(block, Mapping) and "frames_key" in block:
            self._runs[doc["uid"]] = _Run(str(block["frames_key"]))

    def descriptor(self, doc: dict[str, Any]) -> None:
        """Remember the stream that holds the frames."""
        run = self._runs.get(doc["run_start"])
        if run is not None and run.frames_key in doc["data_keys"]:
            run.descriptors.add(doc["uid"])

    def event(self, doc: dict[str, Any]) -> None:
        """Count a frame that comes in, or with, an event."""
        for run in self._runs.values():
            run.frames += doc["descriptor"] in run.descriptors

    def event_page(self, doc: dict[str, Any]) -> None:
        """Count frames that come in, or with, a page of events."""
        for run in self._runs.values():
            if doc["descriptor"] in run.descriptors:
                run.frames += len(doc["seq_num"])

    def stream_resource(self, doc: dict[str, Any]) -> None:
        """Remember the files that hold the frames."""
        for run in self._runs.values():
            if doc.get("data_key") == run.frames_key and doc.get("run_start") in (None, *self._runs):
                run.resources.add(doc["uid"])

    def stream_datum(self, doc: dict[str, Any]) -> None:
        """Count frames that come in files."""
        for run in self._runs.values():
            if doc["stream_resource"] in run.resources and doc["descriptor"] in run.descriptors:
                run.frames += doc["indices"]["stop"] - doc["indices"]["start"]

    def stop(self, doc: dict[str, Any]) -> None:
        """Submit the run's reconstruction."""
        uid = doc["run_start"]
        run = self._runs.pop(uid, None)
        if run is None:
            return
        if run.frames < self._min_frames:
            logger.info("run %s has %d frames; %d are needed to reconstruct", uid[:8], run.frames, self._min_frames)
            return
        spec = self._spec.model_copy(update={"source": TiledSource(uid=uid), "raw_uid": uid})
        self.job_ids.append(self._executor.submit(spec))
