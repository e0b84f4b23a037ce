"""The edge process: takes frames from the ring, keeps the mosaic, shows it, and ends by itself when it is not needed.

Its whole state lies in shared memory: frames in the ring until they are in the mosaic, the mosaic in its segment,
counts in the board. A successor of a killed edge process therefore goes on where it stopped.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import time
from pathlib import Path
from typing import Any

import psutil

from ptycho_bluesky.errors import InferenceError, PtychoError
from ptycho_bluesky.inference import _mosaic
from ptycho_bluesky.inference._live_run import LiveRun, RawFrame
from ptycho_bluesky.inference._ready import Network
from ptycho_bluesky.inference._swap import IN_SERVICE, ModelSwap, PointerWatch, load_network
from ptycho_bluesky.stream import FrameRing, LiveBoard, Record
from ptycho_bluesky.stream._live import own_process, unlink_session

__all__ = ["EdgeProcess"]

logger = logging.getLogger(__name__)

FIGURES_S = 0.1
AHEAD = 4
"""Batches taken at once, at most: while the network is at one of them, the one before goes into the image."""

WILL_NOT_HELP = 3
"""Exit status of an edge process that would fail in the same way if it were started again."""


class EdgeProcess:
    """One edge process: the consumer of one ring, the writer of one board.

    Parameters
    ----------
    session:
        Name under which the console made ring and board.
    model:
        Name, path or ``module:factory`` of the network; ``"in-service"``: the promoted one, also when another one is.
    folder:
        Where final mosaics go.
    batch:
        Frames for one call of the network, at most; it never waits for a full batch.
    parents:
        The process that started this one, without which it lets a successor go on; and the process whose end is the
        session's end. None for an edge process that ends only when told.
    restarts:
        How many predecessors died.
    backend:
        What computes the network.
    """

    def __init__(
        self,
        session: str,
        model: str,
        folder: Path,
        batch: int = 8,
        parents: tuple[int, int] | None = None,
        restarts: int = 0,
        backend: str = "auto",
    ) -> None:
        self.session, self.model_name, self.folder, self.batch = session, model, folder, batch
        self._parents = parents
        self._backend = backend
        self._ring, self._board = FrameRing.attach(session + "-ring"), LiveBoard.attach(session)
        self._run: LiveRun | None = None
        self._network: Network | None = None
        self._swap = ModelSwap(lambda name: load_network(name, backend))
        self._pointer = PointerWatch() if model == IN_SERVICE else None
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
            self._network = self._first_network(before.get("resume") or {})
            _mosaic.warm_up()
            self._resume(before.get("resume"))
        except Exception as error:
            logger.exception("the edge process cannot start")
            self._status["message"] = str(error)
            self._show("failed", force=True)
            return WILL_NOT_HELP if isinstance(error, PtychoError) else 1
        self._show("idle" if self._run is None else "running", force=True)
        while not self._stopping:
            waiting = self._ring.wait(FIGURES_S)
            if self._left_alone():
                if not self._orphan():
                    return 0  # the successor goes on with what lies in shared memory
                if not waiting:
                    break
            if waiting:
                self._serve(self._ring.take(AHEAD * self.batch))
            self._change_network()
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

    def _left_alone(self) -> bool:
        return self._parents is not None and os.getppid() != self._parents[0]

    def _orphan(self) -> bool:
        """Tell whether the session is over because its console is gone."""
        return self._parents is not None and self._left_alone() and not psutil.pid_exists(self._parents[1])

    # the network ------------------------------------------------------------------------------------------------------

    def _first_network(self, saved: dict[str, Any]) -> Network:
        """Load the network of a predecessor, or the one asked for; where that is damaged, the one that comes along."""
        if wanted := saved.get("wanted"):
            self._say_model(f"the change to {wanted} was lost with an edge process that died; ask for it again")
        asked = str(saved.get("model") or self.model_name)
        fallback = self.model_name if asked != self.model_name else "default"
        try:
            network = load_network(asked, self._backend)
        except PtychoError as error:
            if asked == self.model_name != IN_SERVICE:
                raise
            network = load_network(fallback, self._backend)
            self._say_model(f"{asked} was not taken: {error}; {fallback} is in service")
        self._status["model"] = network.name
        return network

    def _say_model(self, text: str) -> None:
        logger.warning("%s", text)
        self._status["model_message"] = text

    def _ask_for(self, name: str) -> None:
        run = self._run
        self._status["wanted"] = name
        self._swap.ask(name, None if run is None else run.make_ready, "" if run is None else run.uid)

    def _change_network(self) -> None:
        """Put another network into service, between two batches, if one was asked for and is ready."""
        if self._pointer is not None and self._pointer.changed():
            self._ask_for(IN_SERVICE)
        done, run = self._swap.take(), self._run
        if done is None:
            return
        if done.network is None:
            serving = self._status["model"]
            self._say_model(f"{done.name} was not taken: {done.fault}; {serving} stays in service")
        elif run is not None and run.start.get("shape") and (done.ready is None or done.run_uid != run.uid):
            self._ask_for(done.name)  # it was made ready for another run, or for none
            return
        else:
            self._network, message = done.network, ""
            if run is not None and run.start.get("shape"):
                try:
                    run.take_over(done.ready)
                except InferenceError as error:
                    message = f"{done.name} does not fit into the present image: {error}"
            elif run is not None:
                run.network = done.network
            self._status |= {"model": done.name, "model_message": message}
            logger.info("model %s is in service", done.name)
        self._status["wanted"] = ""
        self._write()

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
        elif kind == "model":
            self._ask_for(str(message["model"]))
        elif self._run is None:
            return
        elif kind == "shape":
            self._show("preparing", force=True)
            self._run.prepare((int(message["shape"][0]), int(message["shape"][1])))
            self._show("running", force=True)
        elif kind == "range":
            for _ in self._run.read_range(message):
                self._change_network()
                self._image()
                self._write()
        elif kind == "refused":
            self._run.counts.refuse(message["reason"], int(message["index"]), int(message["count"]))
        elif kind == "lost":
            self._run.counts.lost += int(message["count"])
        elif kind == "trouble":
            self._run.trouble = message["text"]

    def _start(self, message: dict[str, Any]) -> None:
        if self._run is not None:
            self._finish("interrupted", self._dropped())
        old = self._status.get("image_segment", "")
        if self._network is None:
            raise InferenceError("a run cannot start before the network is loaded")
        fresh = {"mosaic": "", "image_segment": "", "message": "", "frames_expected": message.get("expected")}
        self._status |= fresh | {"run_uid": message["uid"], "frames_per_second": 0.0}
        self._run = LiveRun(message, self._network, f"{self.session}-{message['number']}", self.batch)
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
        if saved["start"] is not None and self._network is not None:
            self._run = LiveRun(saved["start"], self._network, self._image_name(saved["start"]), self.batch, saved)
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
        resume |= {"model": self._status["model"], "wanted": self._status.get("wanted", "")}
        if run is not None:
            counts = dataclasses.asdict(run.counts)
            resume |= {"start": run.start, "counts": counts, "canvas": run.canvas.state()}
            self._status["image_segment"] = run.canvas.name
        self._board.write({**self._status, "beat": time.time(), "resume": resume})
        if run is not None:
            run.canvas.retire()
