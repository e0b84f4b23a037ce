"""LiveInference: hands each frame of a ptychography run to the edge process, and costs the scan next to nothing."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import threading
import time
import uuid
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ptycho_bluesky.callbacks._edge_supervisor import EdgeSupervisor
from ptycho_bluesky.config import settings
from ptycho_bluesky.errors import DatasetError, InferenceError
from ptycho_bluesky.experiment import PtychographyMetadata
from ptycho_bluesky.stream import (
    FileSlice,
    Frame,
    FrameRange,
    FrameRing,
    LiveBoard,
    LiveStatus,
    LiveView,
    RunReader,
    sweep,
)
from ptycho_bluesky.stream._live import unlink_session

__all__ = ["LiveInference"]

logger = logging.getLogger(__name__)

RANGE = 1024
READY = ("idle", "preparing", "running", "finishing")


class LiveInference:
    """A callback that shows the sample while it is scanned: ``RE.subscribe(LiveInference())``.

    Constructing it starts the edge process, which loads the network while the console goes on; see :meth:`wait_ready`.
    In the RunEngine's thread it only copies frames into shared memory (files: announces ranges of them). Nothing that
    goes wrong in it reaches the RunEngine: it is logged once and shown in the live view. A run without a
    ``ptychography`` block passes by unnoticed; of runs that are open at the same time, the first is shown.

    One of these serves one RunEngine. When the console dies, the edge process finishes what it has, writes the mosaic
    and ends.

    Parameters
    ----------
    model:
        Name or path of the network, as ``load_model`` takes it, or ``package.module:factory``; by default the one that
        comes with the package.
    probe:
        (modes, H, W) or (H, W); by default it is computed from what the run's metadata say.
    folder:
        Where final mosaics, statistics and the log go; by default ``live`` in the settings' home.
    batch:
        Frames for one call of the network, at most.
    ring_mib:
        Shared memory for frames that wait, MiB: 2,000 frames of 128 x 128 uint16 in 64.
    threads:
        CPU threads of the edge process; by default one less than the settings allow, so that the scan keeps one.

    Raises
    ------
    InferenceError
        When there is no room for the shared memory.
    """

    def __init__(
        self,
        model: str | Path = "default",
        *,
        probe: npt.NDArray[np.complexfloating] | None = None,
        folder: Path | None = None,
        batch: int = 8,
        ring_mib: int = 64,
        threads: int | None = None,
    ) -> None:
        if batch < 1 or ring_mib < 1:
            raise InferenceError(f"batch is {batch} and ring_mib {ring_mib}; both must be 1 or more")
        sweep()
        self.name = f"{os.getpid()}-{uuid.uuid4().hex[:8]}"
        """Of the session, for :class:`LiveView`."""
        self.folder = (settings().home / "live" if folder is None else folder).absolute()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._log = self.folder / f"edge-{self.name}.log"
        self._probe_file: Path | None = None
        if probe is not None:
            self._probe_file = self.folder / f"probe-{self.name}.npy"
            np.save(self._probe_file, np.asarray(probe, np.complex64))
        self._lock = threading.Lock()
        self._unsent: deque[dict[str, Any]] = deque()
        self._reader: RunReader | None = None
        self._run: dict[str, Any] = {}
        self._runs = self._events = 0
        self._seconds = 0.0
        self._trouble = self._closed = False
        self._ring = FrameRing.create(self.name + "-ring", ring_mib << 20)
        self._board = LiveBoard.create(self.name)
        self._board.write({"state": "starting", "model": str(model)})
        self._view = LiveView(self.name)
        self._last: LiveStatus | None = None
        arguments = ["--session", self.name, "--model", str(model), "--folder", str(self.folder), "--batch", str(batch)]
        self._supervisor = EdgeSupervisor(
            arguments,
            self._log,
            max(1, settings().threads - 1) if threads is None else threads,
            self._on_death,
            self._flush,
        )

    # documents --------------------------------------------------------------------------------------------------------

    def __call__(self, name: str, doc: dict[str, Any]) -> None:
        """Take a document; never raises."""
        begin = time.perf_counter()
        try:
            self._take(name, doc)
        except DatasetError as error:
            self._report(str(error))
        except Exception as error:
            if not self._trouble:
                logger.exception("live inference stumbled over a %r document", name)
            self._report(f"a {name!r} document could not be handed over: {error!r}")
            if name == "event":
                self._refuse("unreadable document", int(doc.get("seq_num", 1)) - 1)
        finally:
            if name == "event":
                self._seconds += time.perf_counter() - begin

    def _take(self, name: str, doc: dict[str, Any]) -> None:
        if self._closed:
            return
        if name == "start":
            if "ptychography" in doc:
                self._start(doc)
            return
        reader = self._reader
        if reader is None:
            return
        if name == "stop":
            if doc["run_start"] == self._run["uid"]:
                self._stop(doc)
            return
        if name == "descriptor":
            if doc["run_start"] != self._run["uid"]:
                return
            reader.feed(name, doc)
            if reader.frame_shape is not None:
                self._send({"type": "shape", "shape": list(reader.frame_shape)})
            return
        for item in reader.feed(name, doc):
            if isinstance(item, Frame):
                self._put(item)
            else:
                self._announce(item)

    def _start(self, doc: dict[str, Any]) -> None:
        if self._reader is not None:
            uids = doc["uid"][:8], self._run["uid"][:8]
            logger.warning("run %s is not shown live: run %s is still open, and one is shown at a time", *uids)
            return
        metadata = PtychographyMetadata.from_start(doc)
        if faults := metadata.missing():
            raise DatasetError(f"run {doc['uid'][:8]} is not shown live: {'; '.join(faults)}")
        planned = metadata.pattern.num_points if metadata.pattern is not None else doc.get("num_points")
        self._runs, self._events, self._seconds, self._trouble = self._runs + 1, 0, 0.0, False
        self._run = {
            "type": "start",
            "uid": doc["uid"],
            "number": self._runs,
            "ptychography": doc["ptychography"],
            "expected": planned,
            "extents": _plain_extents(doc.get("extents")),
            "probe_file": None if self._probe_file is None else str(self._probe_file),
            "dropped_before": self._ring.dropped,
            "exit_status": None,
        }
        self._reader = RunReader(metadata)
        self._send(self._run)

    def _stop(self, doc: dict[str, Any]) -> None:
        reader, self._reader = self._reader, None
        if reader is not None and reader.unmatched:
            self._refuse("no position", 0, reader.unmatched)
        dropped = self._ring.dropped - self._run["dropped_before"]
        self._send({"type": "stop", "uid": self._run["uid"], "dropped": dropped, "exit_status": doc.get("exit_status")})

    def _put(self, frame: Frame) -> None:
        self._events += 1
        pixels = frame.pixels
        if pixels.ndim != 2 or pixels.dtype.kind not in "uifb":
            self._refuse("wrong shape" if pixels.ndim != 2 else "not numbers", frame.index)
            return
        with self._lock:
            if self._unsent and not self._flush_locked():
                self._ring.count_drop()
                return
            done = self._ring.put(pixels, frame.index, frame.y, frame.x)
        if not done and 2 * pixels.nbytes > self._ring.capacity:
            size, room = pixels.nbytes / 2**20, self._ring.capacity >> 20
            self._report(
                f"a frame has {size:.1f} MiB, the ring {room} MiB: give ring_mib of {int(16 * size) + 1} or more"
            )

    def _refuse(self, reason: str, index: int, count: int = 1) -> None:
        """Account for frames that do not even reach the ring."""
        self._send({"type": "refused", "reason": reason, "index": index, "count": count})

    def _announce(self, found: FrameRange) -> None:
        self._events += 1
        for first in range(0, len(found), RANGE):
            stop = min(first + RANGE, len(found))
            self._send(
                {
                    "type": "range",
                    "index": found.index + first,
                    "frames": dataclasses.asdict(found.frames.part(first, stop)),
                    "y": _part(found.y, first, stop),
                    "x": _part(found.x, first, stop),
                    "time": time.time(),
                }
            )

    # the ring ---------------------------------------------------------------------------------------------------------

    def _send(self, message: dict[str, Any]) -> None:
        """Send a message now, or, while the ring is full, as soon as there is room: messages are never dropped."""
        with self._lock:
            self._unsent.append(message)
            self._flush_locked()

    def _flush_locked(self) -> bool:
        while self._unsent and self._ring.send(self._unsent[0]):
            self._unsent.popleft()
        return not self._unsent

    def _flush(self) -> None:
        if self._unsent:
            with self._lock:
                self._flush_locked()

    def _report(self, text: str) -> None:
        """Say once per run, in the log and in the live view, what keeps the run from being shown."""
        if not self._trouble:
            logger.warning("live inference: %s (the scan goes on)", text)
            self._trouble = True
            if self._reader is not None:
                self._send({"type": "trouble", "text": text})

    def _on_death(self, text: str, final: bool) -> None:
        """Write into the board what the dead edge process cannot."""
        last = self._board.read()
        message = f"{last['message']} ({text})" if final and last.get("message") else text
        self._board.write({**last, "state": "failed" if final else "starting", "message": message})

    # for people -------------------------------------------------------------------------------------------------------

    def status(self) -> LiveStatus:
        """Return how the edge process fares, or fared when it was closed."""
        return self._view.status() if self._last is None else self._last

    def wait_ready(self, timeout_s: float = 60.0) -> LiveStatus:
        """Return once the network is loaded and frames will be inferred without delay.

        Raises
        ------
        InferenceError
            When the edge process failed, or was not ready in time.
        """
        end = time.monotonic() + timeout_s
        while True:
            now = self.status()
            if now.state in READY and now.alive:
                return now
            if self._supervisor.gave_up or self._closed:
                raise InferenceError(f"live inference is not available: {now.message or now.state}")
            if time.monotonic() > end:
                raise InferenceError(
                    f"the edge process is not ready after {timeout_s:g} s (state {now.state!r} {now.message}); "
                    f"wait longer, or see {self._log}"
                )
            time.sleep(0.02)

    def wait(self, timeout_s: float = 60.0) -> dict[str, Any]:
        """Return the final statistics of the last run, once everything it handed over is in the mosaic.

        Returns
        -------
        dict
            ``run_uid``, ``state`` ("done", "interrupted" or "failed"), ``frames``, ``frames_inferred``,
            ``frames_dropped``, ``frames_refused``, ``refused`` by reason, ``frames_per_second``, ``latency_ms_p50``,
            ``latency_ms_p95``, ``residual``, ``mosaic`` (path of the .npz), ``message``, ``callback_ms_per_event``.

        Raises
        ------
        InferenceError
            When there was no run, or it is not finished in time.
        """
        uid = self._run.get("uid")
        if uid is None:
            raise InferenceError("there was no ptychography run yet; subscribe this callback and run ptycho_scan")
        path, end = self.folder / f"{uid}.json", time.monotonic() + timeout_s
        own = {"callback_ms_per_event": self._seconds / max(self._events, 1) * 1e3}
        while not path.exists():
            now = self.status()
            unwritten = now.run_uid == uid and now.state == "idle" and "mosaic cannot be written" in now.message
            if self._supervisor.gave_up or self._closed or unwritten:
                return dataclasses.asdict(now) | {"state": "failed"} | own
            if time.monotonic() > end:
                raise InferenceError(
                    f"run {uid[:8]} is not finished after {timeout_s:g} s: {now.frames_inferred} frames inferred, "
                    f"state {now.state!r} {now.message}; wait longer, or see {self._log}"
                )
            time.sleep(0.02)
        result: dict[str, Any] = json.loads(path.read_text())
        return result | own

    def close(self, timeout_s: float = 10.0) -> None:
        """End the edge process once it has done what it was given, and remove the shared memory."""
        if self._closed:
            return
        self._closed = True
        self._send({"type": "quit"})
        self._supervisor.close(timeout_s)
        self._last = self._view.status()
        self._view.close()
        self._board.close()
        self._ring.close()
        unlink_session(self.name)
        if self._probe_file is not None:
            self._probe_file.unlink(missing_ok=True)
        if self._supervisor.restarts == 0 and not self._supervisor.gave_up:
            self._log.unlink(missing_ok=True)

    def __enter__(self) -> LiveInference:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _part(source: FileSlice | list[float], first: int, stop: int) -> dict[str, Any] | list[float]:
    return dataclasses.asdict(source.part(first, stop)) if isinstance(source, FileSlice) else source[first:stop]


def _plain_extents(given: Any) -> list[list[float]] | None:
    """Return ((y first, y last), (x first, x last)) of a start document, where it has them in that form."""
    try:
        extents = np.asarray(given, float)
    except (TypeError, ValueError):
        return None
    return extents.tolist() if extents.shape == (2, 2) and np.isfinite(extents).all() else None
