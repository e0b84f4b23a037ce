"""LiveInference: hands each frame of a ptychography run to the edge process, and costs the scan next to nothing."""

from __future__ import annotations

import dataclasses
import logging
import time
from pathlib import Path
from typing import Any

import numpy as np

from ptycho_bluesky.errors import DatasetError, InferenceError
from ptycho_bluesky.experiment import PtychographyMetadata
from ptycho_bluesky.stream import FileSlice, Frame, FrameRange, LiveSession, LiveStatus, RunReader

__all__ = ["LiveInference"]

logger = logging.getLogger(__name__)

RANGE = 1024


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
        comes with the package. ``"in-service"``: the promoted one, also when another one is promoted meanwhile.
    **options:
        Of :class:`ptycho_bluesky.stream.LiveSession`: ``probe``, ``folder``, ``batch``, ``ring_mib`` (2,000 frames of
        128 x 128 uint16 in 64 MiB), ``threads``, ``backend``, ``outputs``, ``name``.

    Raises
    ------
    InferenceError
        When there is no room for the shared memory.
    """

    def __init__(self, model: str | Path = "default", **options: Any) -> None:
        self._session = LiveSession(model, **options)
        self.name = self._session.name
        """Of the session, for :class:`LiveView`."""
        self.folder = self._session.folder
        self._reader: RunReader | None = None
        self._events = 0
        self._seconds = 0.0
        self._trouble = False

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
        if self._session.closed:
            return
        if name == "start":
            if "ptychography" in doc:
                self._start(doc)
            return
        reader = self._reader
        if reader is None:
            return
        if name == "stop":
            if doc["run_start"] == self._session.run["uid"]:
                self._stop(doc)
            return
        if name == "descriptor":
            if doc["run_start"] != self._session.run["uid"]:
                return
            reader.feed(name, doc)
            if reader.frame_shape is not None:
                self._session.send({"type": "shape", "shape": list(reader.frame_shape)})
            return
        for item in reader.feed(name, doc):
            if isinstance(item, Frame):
                self._put(item)
            else:
                self._announce(item)

    def _start(self, doc: dict[str, Any]) -> None:
        if self._reader is not None:
            uids = doc["uid"][:8], self._session.run["uid"][:8]
            logger.warning("run %s is not shown live: run %s is still open, and one is shown at a time", *uids)
            return
        metadata = PtychographyMetadata.from_start(doc)
        if faults := metadata.missing():
            raise DatasetError(f"run {doc['uid'][:8]} is not shown live: {'; '.join(faults)}")
        pattern = metadata.pattern
        planned = doc.get("num_points") or (None if pattern is None else pattern.num_points)  # a part, where it goes on
        self._events, self._seconds, self._trouble = 0, 0.0, False
        self._reader = RunReader(metadata)
        extents = _plain_extents(doc.get("extents"))
        self._session.begin(doc["uid"], doc["ptychography"], expected=planned, extents=extents)

    def _stop(self, doc: dict[str, Any]) -> None:
        reader, self._reader = self._reader, None
        if reader is not None and reader.unmatched:
            self._refuse("no position", 0, reader.unmatched)
        self._session.end(doc.get("exit_status"))

    def _put(self, frame: Frame) -> None:
        self._events += 1
        pixels = frame.pixels
        if pixels.ndim != 2 or pixels.dtype.kind not in "uifb":
            self._refuse("wrong shape" if pixels.ndim != 2 else "not numbers", frame.index)
            return
        done, ring = self._session.put(pixels, frame.index, frame.y, frame.x), self._session.ring
        if not done and 2 * pixels.nbytes > ring.capacity:
            size, room = pixels.nbytes / 2**20, ring.capacity >> 20
            self._report(
                f"a frame has {size:.1f} MiB, the ring {room} MiB: give ring_mib of {int(16 * size) + 1} or more"
            )

    def _refuse(self, reason: str, index: int, count: int = 1) -> None:
        """Account for frames that do not even reach the ring."""
        self._session.send({"type": "refused", "reason": reason, "index": index, "count": count})

    def _announce(self, found: FrameRange) -> None:
        self._events += 1
        for first in range(0, len(found), RANGE):
            stop = min(first + RANGE, len(found))
            self._session.send(
                {
                    "type": "range",
                    "index": found.index + first,
                    "frames": dataclasses.asdict(found.frames.part(first, stop)),
                    "y": _part(found.y, first, stop),
                    "x": _part(found.x, first, stop),
                    "time": time.time(),
                }
            )

    def _report(self, text: str) -> None:
        """Say once per run, in the log and in the live view, what keeps the run from being shown."""
        if not self._trouble:
            logger.warning("live inference: %s (the scan goes on)", text)
            self._trouble = True
            if self._reader is not None:
                self._session.send({"type": "trouble", "text": text})

    # for people -------------------------------------------------------------------------------------------------------

    def status(self) -> LiveStatus:
        """Return how the edge process fares, or fared when it was closed."""
        return self._session.status()

    def wait_ready(self, timeout_s: float = 60.0) -> LiveStatus:
        """Return once the network is loaded and frames will be inferred without delay.

        Raises
        ------
        InferenceError
            When the edge process failed, or was not ready in time.
        """
        return self._session.wait_ready(timeout_s)

    def use_model(self, model: str | Path) -> None:
        """Ask for another network: it takes over between two batches, and no frame is lost.

        It is loaded beside the one that runs. The status tells what became of it: ``model`` is the one in service,
        ``model_message`` why that is not the one asked for.
        """
        self._session.use_model(model)

    def wait(self, timeout_s: float = 60.0) -> dict[str, Any]:
        """Return the final statistics of the last run, once everything it handed over is in the mosaic.

        Returns
        -------
        dict
            ``run_uid``, ``state`` ("done", "interrupted" or "failed"), ``frames``, ``frames_inferred``,
            ``frames_dropped``, ``frames_refused``, ``refused`` by reason, ``frames_per_second``, ``latency_ms_p50``,
            ``latency_ms_p95``, ``residual``, ``confidence``, ``trusted``, ``doubt``, ``mosaic`` (path of the .npz),
            ``message``, ``callback_ms_per_event``.

        Raises
        ------
        InferenceError
            When there was no run, or it is not finished in time.
        """
        uid = self._session.run.get("uid")
        if uid is None:
            raise InferenceError("there was no ptychography run yet; subscribe this callback and run ptycho_scan")
        own = {"callback_ms_per_event": self._seconds / max(self._events, 1) * 1e3}
        return self._session.wait_result(uid, timeout_s) | own

    def close(self, timeout_s: float = 10.0) -> None:
        """End the edge process once it has done what it was given, and remove the shared memory."""
        self._session.close(timeout_s)

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
