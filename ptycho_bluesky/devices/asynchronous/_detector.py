"""A simulated or replayed detector as ophyd-async has them: a StandardDetector with an HDF5 writer."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from ophyd_async.core import (
    DetectorAcquireLogic,
    DetectorDataLogic,
    DetectorTriggerLogic,
    StandardDetector,
    StreamResourceDataProvider,
    StreamResourceInfo,
    TriggerInfo,
    soft_signal_r_and_setter,
)

from ptycho_bluesky.devices._await import ended
from ptycho_bluesky.devices._detector import FrameDetector
from ptycho_bluesky.devices._fly_detector import new_file
from ptycho_bluesky.devices._stream_file import FRAMES_DATASET, StreamDataset, StreamFile
from ptycho_bluesky.errors import DeviceError

__all__ = ["AsyncDetector"]


class _Writer:
    """The file of a scan, and how many frames are in it."""

    def __init__(self, detector: FrameDetector) -> None:
        self.detector = detector
        self.written, self._set_written = soft_signal_r_and_setter(int)
        self.file: StreamFile | None = None
        self.wanted = 0
        self.armed = False
        self._loop: asyncio.AbstractEventLoop | None = None

    def open(self) -> StreamFile:
        self.close()
        frame = self.detector.image.get()
        key = StreamDataset(self.detector.image.name, FRAMES_DATASET, frame.shape, frame.dtype.str, "photons")
        self.file, self._loop = StreamFile(new_file(self.detector.folder, self.detector.name), [key]), None
        self._set_written(0)
        self._loop = asyncio.get_running_loop()
        return self.file

    def append(self, frames: npt.NDArray[Any]) -> None:
        """Write frames (N, H, W), from any thread; the event loop is told the count."""
        if self.file is None or self._loop is None:
            raise DeviceError(f"{self.detector.name} was triggered, but not prepared")
        self.file.append({self.detector.image.name: frames})
        self._loop.call_soon_threadsafe(self._set_written, self.file.written)

    def close(self) -> None:
        file, self.file = self.file, None
        if file is not None:
            file.close()


@dataclass
class _Trigger(DetectorTriggerLogic):  # type: ignore[misc]
    writer: _Writer

    async def prepare_internal(self, num: int, livetime: float, deadtime: float) -> None:
        if livetime and hasattr(self.writer.detector, "exposure_time"):
            self.writer.detector.exposure_time.put(livetime)
        self.writer.wanted, self.writer.armed = num, False

    async def prepare_edge(self, num: int, livetime: float) -> None:
        self.writer.wanted, self.writer.armed = num, True

    async def default_trigger_info(self) -> TriggerInfo:
        return TriggerInfo()


class _Acquire(DetectorAcquireLogic):  # type: ignore[misc]
    def __init__(self, writer: _Writer) -> None:
        self._writer = writer
        self._task: asyncio.Task[None] | None = None

    async def start_acquiring(self) -> None:
        if not self._writer.armed:  # else a flyer triggers
            self._task = asyncio.ensure_future(self._expose())

    async def wait_for_idle(self) -> None:
        if self._task is not None:
            await self._task

    async def ensure_stopped(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()

    async def _expose(self) -> None:
        for _ in range(self._writer.wanted):
            status: Any = self._writer.detector.trigger()
            await ended(status)
            if not status.success:
                raise status.exception()
            self._writer.append(self._writer.detector.image.get()[None])


@dataclass
class _Data(DetectorDataLogic):  # type: ignore[misc]
    writer: _Writer
    datakey_suffix: str = "_image"

    async def prepare_unbounded(self, datakey_name: str) -> StreamResourceDataProvider:
        file = self.writer.open()
        (frames,) = file.datasets
        info = StreamResourceInfo(
            data_key=datakey_name,
            shape=frames.shape,
            chunk_shape=frames.chunk_shape,
            dtype_numpy=frames.dtype,
            parameters={"dataset": frames.path, "swmr": True},
        )
        return StreamResourceDataProvider(
            uri=f"file://localhost{file.path.as_uri().removeprefix('file://')}",
            resources=[info],
            mimetype="application/x-hdf5",
            collections_written_signal=self.writer.written,
        )

    async def stop(self) -> None:
        self.writer.close()


class AsyncDetector(StandardDetector):  # type: ignore[misc]
    """A detector that is triggered and flown with ``await``; its frames are the data key ``detector_image``.

    Frames always go to an HDF5 file, in step scans too. A :class:`SimulatedFlyer` triggers it like the classic one.

    Parameters
    ----------
    detector:
        The classic detector that makes the frames; with a folder.
    """

    def __init__(self, detector: FrameDetector) -> None:
        self.detector = detector
        self._writer = _Writer(detector)
        self.add_detector_logics(_Trigger(self._writer), _Acquire(self._writer), _Data(self._writer))
        super().__init__(name=detector.name)

    @property
    def image(self) -> Any:
        """The latest frame."""
        return self.detector.image

    def expose_along(self, places: npt.NDArray[np.float64], exposure_s: float, seed: int) -> npt.NDArray[Any]:
        """Return the frames (N, H, W) of a flight.

        Parameters
        ----------
        places:
            (N, S, 2), S places (row, column) during each exposure, in the stage's unit.
        exposure_s:
            Of each frame, seconds.
        seed:
            Chooses the photons' statistics.
        """
        return self.detector.expose_along(places, exposure_s, seed)

    def take(self, frames: npt.NDArray[Any]) -> None:
        """Write frames (N, H, W) that a flyer triggered; called from its thread."""
        self._writer.append(frames)

    def end_flight(self, error: Exception | None) -> None:
        """Nothing: what waits for more frames has a time-out of its own."""
