"""LiveSession: the producer's side of a live view, with the edge process that makes an image of what it hands over."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import subprocess
import sys
import threading
import time
import uuid
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ptycho_bluesky.config import settings
from ptycho_bluesky.errors import InferenceError
from ptycho_bluesky.stream._edge_supervisor import EdgeSupervisor
from ptycho_bluesky.stream._live import LiveBoard, LiveStatus, LiveView, unlink_session
from ptycho_bluesky.stream._ring import FrameRing
from ptycho_bluesky.stream._segment import sweep

__all__ = ["LiveSession"]

logger = logging.getLogger(__name__)

READY = ("idle", "preparing", "running", "finishing")
OUTPUTS_END_S = 3.0
START_S = 30.0
"""Longest time that an edge process may take to start on a busy machine."""


class LiveSession:
    """A ring for frames, a board for the status, and an edge process between them, started again when it dies.

    Parameters
    ----------
    model:
        Name or path of the network, as ``load_model`` takes it, or ``package.module:factory``; ``"in-service"`` for the
        promoted one, followed when another one is promoted.
    name:
        Of the session; None for one of its own.
    probe:
        (modes, H, W) or (H, W); None: computed from what a run's metadata say.
    folder:
        Where final mosaics, statistics and the log go; None for ``live`` in the settings' home.
    batch:
        Frames for one call of the network, at most.
    ring_mib:
        Shared memory for frames that wait, MiB.
    threads:
        CPU threads of the edge process; None for one less than the settings allow.
    backend:
        What computes the network: "torch", "openvino", "onnxruntime", or "auto", which measures; ``openvino:int8``
        names a precision as well.
    outputs:
        Where else the image goes, as :func:`ptycho_bluesky.stream.outputs.open_output` takes it.

    Raises
    ------
    InferenceError
        When there is no room for the shared memory, or the name is taken by a session that lives.
    """

    def __init__(
        self,
        model: str | Path = "default",
        *,
        name: str | None = None,
        probe: npt.NDArray[np.complexfloating] | None = None,
        folder: Path | None = None,
        batch: int = 8,
        ring_mib: int = 64,
        threads: int | None = None,
        backend: str = "auto",
        outputs: Sequence[str] = (),
    ) -> None:
        if batch < 1 or ring_mib < 1:
            raise InferenceError(f"batch is {batch} and ring_mib {ring_mib}; both must be 1 or more")
        sweep()
        self.name = name or f"{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self.folder = (settings().home / "live" if folder is None else folder).absolute()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.log = self.folder / f"edge-{self.name}.log"
        self.run: dict[str, Any] = {}
        """The start message of the run that was begun last; empty before the first."""
        self._probe_file: Path | None = None
        self._lock = threading.Lock()
        self._unsent: deque[dict[str, Any]] = deque()
        self._runs = 0
        self._closed = False
        self._last: LiveStatus | None = None
        self.ring = FrameRing.create(self.name + "-ring", ring_mib << 20)
        self._board = LiveBoard.create(self.name)
        self._board.write({"state": "starting", "model": str(model)})
        self._view = LiveView(self.name)
        if probe is not None:
            self._probe_file = self.folder / f"probe-{self.name}.npy"
            np.save(self._probe_file, np.asarray(probe, np.complex64))
        arguments = ["--session", self.name, "--model", str(model), "--folder", str(self.folder), "--batch", str(batch)]
        arguments += ["--backend", backend]
        cores = max(1, settings().threads - 1) if threads is None else threads
        self._supervisor = EdgeSupervisor(arguments, self.log, cores, self._on_death, self._flush)
        self._outputs = self._start_outputs(outputs) if outputs else None

    def _start_outputs(self, outputs: Sequence[str]) -> subprocess.Popen[bytes]:
        """Start the process that shows the image elsewhere: whatever happens there, it cannot keep this one waiting."""
        command = [sys.executable, "-m", "ptycho_bluesky.stream.outputs", self.name, *outputs]
        with self.log.open("ab") as log:
            return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True)

    # what is handed over ----------------------------------------------------------------------------------------------

    def begin(self, uid: str, ptychography: dict[str, Any], **more: Any) -> None:
        """Begin the run `uid`, whose metadata are the block `ptychography`; `more`: ``expected``, ``extents``."""
        self._runs += 1
        self.run = {
            "type": "start",
            "uid": uid,
            "number": self._runs,
            "ptychography": ptychography,
            "probe_file": None if self._probe_file is None else str(self._probe_file),
            "dropped_before": self.ring.dropped,
            "exit_status": None,
            **more,
        }
        self.send(self.run)

    def end(self, exit_status: str | None) -> None:
        """End the run."""
        dropped = self.ring.dropped - self.run["dropped_before"]
        self.send({"type": "stop", "uid": self.run["uid"], "dropped": dropped, "exit_status": exit_status})

    def put(self, pixels: npt.NDArray[Any], index: int, y: float, x: float, when: float | None = None) -> bool:
        """Hand a frame over; False, and it counts as dropped, where it does not fit into the ring.

        Parameters
        ----------
        pixels:
            (H, W) counts, as the detector delivers them.
        index:
            Number of the frame in its run, from 0.
        y, x:
            Position as the devices give it, in the ``position_unit`` of the run's metadata.
        when:
            Seconds since 1970 when it came, from which its latency counts; None for now.
        """
        with self._lock:
            if self._unsent and not self._flush_locked():
                self.ring.count_drop()
                return False
            return self.ring.put(pixels, index, y, x, when)

    def has_room(self, nbytes: int) -> bool:
        """Tell whether a frame of so many bytes would fit into the ring now."""
        return not self._unsent and self.ring.has_room(nbytes)

    def send(self, message: dict[str, Any]) -> None:
        """Send a message now, or, while the ring is full, as soon as there is room: messages are never dropped."""
        with self._lock:
            self._unsent.append(message)
            self._flush_locked()

    def use_model(self, model: str | Path) -> None:
        """Ask for another network. It is loaded beside the one that runs and takes over between two batches.

        What becomes of it is in the status: ``model``, and ``model_message`` where it was not simply done.
        """
        self.send({"type": "model", "model": str(model)})

    def _flush_locked(self) -> bool:
        while self._unsent and self.ring.send(self._unsent[0]):
            self._unsent.popleft()
        return not self._unsent

    def _flush(self) -> None:
        if self._unsent:
            with self._lock:
                self._flush_locked()

    def _on_death(self, text: str, final: bool) -> None:
        """Write into the board what the dead edge process cannot."""
        last = self._board.read()
        message = f"{last['message']} ({text})" if final and last.get("message") else text
        self._board.write({**last, "state": "failed" if final else "starting", "message": message})

    # what is seen -----------------------------------------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` has been called."""
        return self._closed

    @property
    def gave_up(self) -> bool:
        """Whether the edge process died and is not started again."""
        return self._supervisor.gave_up

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
            if self.gave_up or self._closed:
                raise InferenceError(f"live inference is not available: {now.message or now.state}")
            if time.monotonic() > end:
                raise InferenceError(
                    f"the edge process is not ready after {timeout_s:g} s (state {now.state!r} {now.message}); "
                    f"wait longer, or see {self.log}"
                )
            time.sleep(0.02)

    def wait_result(self, uid: str, timeout_s: float) -> dict[str, Any]:
        """Return the final statistics of the run `uid`, once everything that was handed over is in the mosaic.

        Raises
        ------
        InferenceError
            When it is not finished in `timeout_s` seconds.
        """
        path, end = self.folder / f"{uid}.json", time.monotonic() + timeout_s
        while not path.exists():
            now = self.status()
            unwritten = now.run_uid == uid and now.state == "idle" and "mosaic cannot be written" in now.message
            if self.gave_up or self._closed or unwritten:
                return dataclasses.asdict(now) | {"state": "failed"}
            if time.monotonic() > end:
                raise InferenceError(
                    f"run {uid[:8]} is not finished after {timeout_s:g} s: {now.frames_inferred} frames inferred, "
                    f"state {now.state!r} {now.message}; wait longer, or see {self.log}"
                )
            time.sleep(0.02)
        result: dict[str, Any] = json.loads(path.read_text())
        return result

    def close(self, timeout_s: float = 10.0) -> None:
        """End the edge process once it has done what it was given, and remove the shared memory."""
        if self._closed:
            return
        self._closed = True
        self.send({"type": "quit"})
        if self.run and self._view.status().state == "starting":  # a run waits in the ring for the network
            timeout_s += START_S
        self._supervisor.close(timeout_s)
        self._last = self._view.status()
        if self._outputs is not None:
            self._end_outputs(self._outputs)
        self._view.close()
        self._board.close()
        self.ring.close()
        unlink_session(self.name)
        if self._probe_file is not None:
            self._probe_file.unlink(missing_ok=True)
        if self._supervisor.restarts == 0 and not self.gave_up:
            self.log.unlink(missing_ok=True)

    @staticmethod
    def _end_outputs(process: subprocess.Popen[bytes]) -> None:
        if process.stdin is not None:
            process.stdin.close()  # it shows the last image and ends
        try:
            process.wait(OUTPUTS_END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def __enter__(self) -> LiveSession:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
