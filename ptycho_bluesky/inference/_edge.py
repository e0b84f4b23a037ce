"""The edge process: takes frames from the ring, keeps the mosaic, shows it, and ends by itself when it is not needed.

Its whole state lies in shared memory: frames in the ring until they are in the mosaic, the mosaic in its segment,
counts in the board. A successor of a killed edge process therefore goes on where it stopped.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import logging
import os
import signal
import time
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ptycho_bluesky.errors import InferenceError, PtychoError
from ptycho_bluesky.inference import _mosaic
from ptycho_bluesky.inference._live_run import LiveRun, RawFrame
from ptycho_bluesky.inference._protocol import Model, Predictor
from ptycho_bluesky.stream import FrameRing, LiveBoard, Record
from ptycho_bluesky.stream._live import own_process, unlink_session

__all__ = ["EdgeProcess", "main"]

logger = logging.getLogger(__name__)

FIGURES_S = 0.1
NICE = 5  # on a shared machine the scan goes first
WILL_NOT_HELP = 3
"""Exit status of an edge process that would fail in the same way if it were started again."""


def find_model(name: str) -> Model:
    """Return the model of a name or path; ``package.module:factory`` calls the factory.

    Raises
    ------
    InferenceError
        When there is none, or it cannot be loaded.
    """
    module, _, factory = name.partition(":")
    if factory.isidentifier() and not Path(name).exists():
        try:
            made = getattr(importlib.import_module(module), factory)()
        except (ImportError, AttributeError) as error:
            raise InferenceError(f"model {name!r}: {error}; give module:factory that can be imported") from error
        if not isinstance(made, Model):
            raise InferenceError(f"model {name!r} is a {type(made).__name__}, which has no for_probe(...)")
        return made
    from ptycho_bluesky.inference import load_model

    model: Model = load_model(name)
    return model


class CachedModel:
    """Remembers the predictors of the last probes, so that a second run with the same probe starts at once."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._made: OrderedDict[tuple[object, ...], Predictor] = OrderedDict()

    def for_probe(
        self,
        probe: npt.NDArray[np.complex64] | None,
        pixel_size_m: float | None,
        frame_size: int,
        /,
        *,
        mask: npt.NDArray[np.bool_] | None = None,
    ) -> Predictor:
        """Return the predictor, made now or before."""
        arrays = (None if array is None else array.tobytes() for array in (probe, mask))
        key = (*arrays, pixel_size_m, frame_size)
        if key not in self._made:
            self._made[key] = self._model.for_probe(probe, pixel_size_m, frame_size, mask=mask)
        self._made.move_to_end(key)
        while len(self._made) > 4:
            self._made.popitem(last=False)
        return self._made[key]


class EdgeProcess:
    """One edge process: the consumer of one ring, the writer of one board.

    Parameters
    ----------
    session:
        Name under which the console made ring and board.
    model:
        Name, path or ``module:factory`` of the network.
    folder:
        Where final mosaics go.
    batch:
        Frames for one call of the network, at most; it never waits for a full batch.
    parent:
        Process whose end is the session's end; None for one that ends only when told.
    restarts:
        How many predecessors died.
    """

    def __init__(
        self, session: str, model: str, folder: Path, batch: int = 8, parent: int | None = None, restarts: int = 0
    ) -> None:
        self.session, self.model_name, self.folder, self.batch, self.parent = session, model, folder, batch, parent
        self._ring, self._board = FrameRing.attach(session + "-ring"), LiveBoard.attach(session)
        self._run: LiveRun | None = None
        self._model: Model | None = None
        self._stopping = False
        self._shown, self._position = 0.0, 0
        self._status: dict[str, Any] = {"state": "starting", "model": model, "restarts": restarts, **own_process()}

    def run(self) -> int:
        """Serve until told to stop, or until the console is gone and everything it left is done; return exit status."""
        before = self._board.read()
        self._status |= {k: v for k, v in before.items() if k not in self._status}
        self._status["message"] = ""
        self._show("starting", force=True)
        try:
            self._ring.become_consumer()
            self._model = CachedModel(find_model(self.model_name))
            _mosaic.warm_up()
            self._resume(before.get("resume"))
        except Exception as error:
            logger.exception("the edge process cannot start")
            self._status["message"] = str(error)
            self._show("failed", force=True)
            return WILL_NOT_HELP if isinstance(error, PtychoError) else 1
        self._show("idle" if self._run is None else "running", force=True)
        while not self._stopping:
            if self._ring.wait(FIGURES_S):
                self._serve(self._ring.take(self.batch))
            elif self._orphan():
                break
            self._image()
            self._show()
        if self._run is not None:
            self._finish("interrupted", self._dropped())
        self._show("closed", force=True)
        if self._orphan():
            unlink_session(self.session)
        return 0

    def stop(self, *_: object) -> None:
        """Finish the current batch, write what there is, and end (for signals)."""
        self._stopping = True

    def _orphan(self) -> bool:
        return self.parent is not None and os.getppid() != self.parent

    # records ----------------------------------------------------------------------------------------------------------

    def _serve(self, records: list[Record]) -> None:
        message = records[0].message if records else None
        if message is not None:
            self._obey(message)
        elif self._run is not None:
            self._run.process(RawFrame(r.index, r.y, r.x, r.time, r.frame) for r in records if r.frame is not None)
        self._commit()

    def _commit(self) -> None:
        """Account for what was taken, then free it: in this order, so that a successor counts nothing twice."""
        self._position = self._ring.position
        self._write()
        self._ring.commit()

    def _obey(self, message: dict[str, Any]) -> None:
        kind = message["type"]
        if kind == "start":
            self._start(message)
        elif kind == "stop":
            if self._run is not None and self._run.uid == message["uid"]:
                self._run.start["exit_status"] = message["exit_status"]
                self._finish("done", int(message["dropped"]))
        elif kind == "quit":
            self._stopping = True
        elif self._run is None:
            return
        elif kind == "shape":
            self._show("preparing", force=True)
            self._run.prepare((int(message["shape"][0]), int(message["shape"][1])))
            self._show("running", force=True)
        elif kind == "range":
            for _ in self._run.read_range(message):
                self._image()
                self._write()
        elif kind == "refused":
            self._run.counts.refuse(message["reason"], int(message["index"]), int(message["count"]))
        elif kind == "trouble":
            self._run.trouble = message["text"]

    def _start(self, message: dict[str, Any]) -> None:
        if self._run is not None:
            self._finish("interrupted", self._dropped())
        old = self._status.get("image_segment", "")
        if self._model is None:
            raise InferenceError("a run cannot start before the network is loaded")
        fresh = {"mosaic": "", "image_segment": "", "message": "", "frames_expected": message.get("expected")}
        self._status |= fresh | {"run_uid": message["uid"], "frames_per_second": 0.0}
        self._run = LiveRun(message, self._model, f"{self.session}-{message['number']}", self.batch)
        self._run.counts.lost += self._ring.passed_over
        self._ring.passed_over = 0
        self._show("running", force=True)
        if old:
            unlink_session(old)

    def _resume(self, saved: dict[str, Any] | None) -> None:
        """Go on with the run of a predecessor that died in mid-run."""
        if saved is None:
            return
        self._ring.commit(int(saved["position"]))
        if saved["start"] is not None and self._model is not None:
            self._run = LiveRun(saved["start"], self._model, self._image_name(saved["start"]), self.batch, saved)
            self._run.counts.lost += self._ring.passed_over
            self._ring.passed_over = 0
            logger.warning("went on with run %s after a predecessor died", self._run.uid)

    def _image_name(self, start: dict[str, Any]) -> str:
        return f"{self.session}-{start['number']}"

    def _dropped(self) -> int:
        return 0 if self._run is None else max(0, self._ring.dropped - int(self._run.start["dropped_before"]))

    def _finish(self, state: str, dropped: int) -> None:
        run = self._run
        if run is None:
            return
        self._show("finishing", force=True)
        try:
            result = run.finish(self.folder, state, dropped, lambda: self._image(now=True))
            keep = {"frames_per_second": result["frames_per_second"], "mosaic": result["mosaic"]}
            self._status |= run.figures(dropped) | keep | {"message": run.trouble, "image_segment": run.canvas.name}
        except OSError as error:
            logger.exception("the final mosaic of run %s cannot be written", run.uid)
            self._status["message"] = f"the final mosaic cannot be written to {self.folder}: {error}"
        run.canvas.close()
        self._run = None
        self._show("idle", force=True)

    # what is seen -----------------------------------------------------------------------------------------------------

    def _image(self, now: bool = False) -> None:
        run = self._run
        if run is not None:
            run.canvas.publish({"run_uid": run.uid, "frames": run.counts.inferred}, run.mosaic_pixel, now)

    def _show(self, state: str = "", force: bool = False) -> None:
        """Publish rates and percentiles, which cost too much for every batch."""
        now = time.monotonic()
        if state:
            self._status["state"] = state
        if force or now - self._shown >= FIGURES_S:
            self._shown = now
            if self._run is not None:
                self._status |= self._run.figures(self._dropped())
                self._status |= {"frames_per_second": round(self._run.rate(), 2), "message": self._run.trouble}
            self._write()

    def _write(self) -> None:
        run = self._run
        resume: dict[str, Any] = {"position": self._position, "start": None}
        if run is not None:
            counts = dataclasses.asdict(run.counts)
            resume |= {"start": run.start, "counts": counts, "canvas": run.canvas.state()}
            self._status["image_segment"] = run.canvas.name
        self._board.write({**self._status, "beat": time.time(), "resume": resume})
        if run is not None:
            run.canvas.retire()


def main(arguments: list[str] | None = None) -> int:
    """Run an edge process for a session that a console has made; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m ptycho_bluesky.inference", description=__doc__)
    parser.add_argument("--session", required=True, help="name of the session, whose ring and board exist")
    parser.add_argument("--model", required=True, help="name, path or module:factory of the network")
    parser.add_argument("--folder", required=True, type=Path, help="where final mosaics go")
    parser.add_argument("--batch", type=int, default=8, help="frames for one call of the network, at most")
    parser.add_argument("--parent", type=int, default=None, help="process whose end is the session's end")
    parser.add_argument("--restarts", type=int, default=0, help="how many predecessors died")
    given = parser.parse_args(arguments)
    os.nice(NICE)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    edge = EdgeProcess(given.session, given.model, given.folder, given.batch, given.parent, given.restarts)
    signal.signal(signal.SIGTERM, edge.stop)
    return edge.run()
