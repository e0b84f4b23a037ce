"""The half of a detector that flies: frames go to a file as they are triggered, documents tell their ranges."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ptycho_bluesky.devices import _control_layer  # noqa: F401, before ophyd: it decides on ophyd's control layer

# isort: split
from ophyd.status import DeviceStatus

from ptycho_bluesky.devices._signals import FrameSignal
from ptycho_bluesky.devices._stream_file import FRAMES_DATASET, StreamDataset, StreamFile
from ptycho_bluesky.errors import DeviceError

__all__ = ["FlyingDetector", "new_file"]


def new_file(folder: Path | None, name: str) -> Path:
    """Return the path of a new file of the device `name`.

    Raises
    ------
    DeviceError
        When there is no folder.
    """
    if folder is None:
        raise DeviceError(
            f"{name} has no folder, but what it takes in flight goes to files: make the beamline with folder=..., "
            "one that stays"
        )
    return folder / f"{time.strftime('%Y%m%d-%H%M%S')}-{name}-{uuid.uuid4().hex[:8]}.h5"


class FlyingDetector:
    """What a detector needs to be triggered in flight; a mixin of :class:`FrameDetector`.

    Bluesky's ``prepare``, ``kickoff``, ``complete`` and ``collect`` with :class:`ophyd_async.core.TriggerInfo` (or any
    object with ``number_of_events``). A file is opened at the first ``prepare`` after ``stage`` and closed by
    ``unstage``; a flyer hands the frames to :meth:`take`.
    """

    name: str
    image: FrameSignal
    folder: Path | None = None
    """Where files of frames go; None where the detector is not to fly."""

    _stream: StreamFile | None = None
    _wanted = 0
    _flight: Any = None
    _frame_lock: threading.RLock

    def expose_along(self, places: npt.NDArray[np.float64], exposure_s: float, seed: int) -> npt.NDArray[Any]:
        """Return the frames (N, H, W) of `places` (N, S, 2), S places during each exposure, in the stage's unit."""
        raise NotImplementedError

    def fly_exposure(self, seconds: float | None) -> None:
        """Record the exposure of a flight, until None ends it; where there is one to set."""

    def prepare(self, value: Any) -> DeviceStatus:
        """Get ready for ``value.number_of_events`` more frames of ``value.livetime`` s, triggered from outside."""
        self.fly_exposure(float(getattr(value, "livetime", 0.0)) or None)
        with self._frame_lock:
            if self._stream is None:
                self._stream = StreamFile(new_file(self.folder, self.name), self._datasets())
            self._wanted = self._stream.written + int(value.number_of_events)
            self._flight = None
        return _done(self)

    def kickoff(self) -> DeviceStatus:
        """Arm: from now on triggers make frames."""
        with self._frame_lock:
            if self._stream is None or self._wanted <= self._stream.written:
                raise DeviceError(f"{self.name} was kicked off, but not prepared for frames; prepare it first")
            self._flight = DeviceStatus(self)
        return _done(self)

    def complete(self) -> DeviceStatus:
        """Return a status that is done when all frames of this flight are written."""
        if self._flight is None:
            raise DeviceError(f"{self.name} was asked to complete a flight that was not kicked off")
        return self._flight

    def take(self, frames: npt.NDArray[Any]) -> None:
        """Write frames (N, H, W) that were triggered; called by a flyer, from its own thread.

        Raises
        ------
        DeviceError
            When the detector is not armed for as many, or the disk does not take them.
        """
        with self._frame_lock:
            stream, flight = self._stream, self._flight
            armed = 0 if stream is None or flight is None or flight.done else self._wanted - stream.written
            if stream is None or len(frames) > armed:
                raise DeviceError(f"{self.name} was triggered for {len(frames)} frames; it is armed for {armed}")
            stream.append({self.image.name: frames})
            finished = stream.written == self._wanted
        self.image.show(frames[-1].copy(), time.time())
        if finished:
            flight.set_finished()

    def end_flight(self, error: Exception | None) -> None:
        """End a flight early: as done where `error` is None, else with it."""
        flight = self._flight
        if flight is None or flight.done:
            return
        if error is None:
            flight.set_finished()
        else:
            flight.set_exception(error)

    def stop(self, *, success: bool = False) -> None:
        """Take no more frames; those that were taken stay valid."""
        self.end_flight(None if success else DeviceError(f"{self.name} was stopped in flight"))

    def describe_collect(self) -> dict[str, dict[str, Any]]:
        """Return the data key of the frames, before the file is there too."""
        return {d.key: d.data_key(f"SIM:{d.key}") for d in self._datasets()}

    def get_index(self) -> int:
        """Return how many frames were written since ``stage``."""
        return 0 if self._stream is None else self._stream.written

    def collect_asset_docs(self, index: int | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield ``stream_resource`` and ``stream_datum`` documents of the frames up to `index`; of a step scan none."""
        return iter(()) if self._stream is None else self._stream.documents(index)

    def close_stream(self) -> None:
        """End what flies, and close the file."""
        self.end_flight(DeviceError(f"{self.name} was unstaged in flight"))
        with self._frame_lock:
            stream, self._stream, self._wanted, self._flight = self._stream, None, 0, None
        if stream is not None:
            stream.close()
            self.fly_exposure(None)

    def _datasets(self) -> list[StreamDataset]:
        frame = self.image.get()
        return [StreamDataset(self.image.name, FRAMES_DATASET, frame.shape, frame.dtype.str, "photons")]


def _done(device: Any) -> DeviceStatus:
    status = DeviceStatus(device)
    status.set_finished()
    return status
