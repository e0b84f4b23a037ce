"""What simulated and replayed detectors share: exposure, trigger, image and total."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import numpy.typing as npt

from ptycho_bluesky.devices import _control_layer  # noqa: F401, before ophyd: it decides on ophyd's control layer

# isort: split
from ophyd import Component, Device
from ophyd.status import DeviceStatus

from ptycho_bluesky.devices._alarm import ALARM
from ptycho_bluesky.devices._fly_detector import FlyingDetector
from ptycho_bluesky.devices._signals import ComputedSignal, FrameSignal
from ptycho_bluesky.errors import DeviceError

__all__ = ["FrameDetector"]


class FrameDetector(FlyingDetector, Device):  # type: ignore[misc]
    """A detector that makes a frame when it is triggered and shows it when the exposure is over.

    In a step scan it is triggered and read, frames lie inside of events; in a fly scan (:class:`FlyingDetector`) a
    flyer triggers it and frames go to an HDF5 file, under the same data key.

    Data keys: ``detector_image`` (H, W), inline in events, and ``detector_total``, the sum of its counts. A class
    below says what a frame is (:meth:`expose`) and when a trigger ends (:meth:`ends_at`).

    Parameters
    ----------
    frame_shape, dtype:
        (H, W) of a frame, and the type of a pixel.
    """

    image = Component(FrameSignal, kind="normal")
    total = Component(ComputedSignal, kind="hinted")

    def __init__(
        self, prefix: str, *, name: str, frame_shape: tuple[int, int], dtype: npt.DTypeLike, **kwargs: Any
    ) -> None:
        super().__init__(prefix, name=name, **kwargs)
        self._exposing, self._frame_lock = threading.Lock(), threading.RLock()
        self._status: Any = None
        self.image.show(np.zeros(frame_shape, dtype), time.time())
        self.total.compute = lambda: float(self.image.get().sum(dtype=np.float64))
        self.total.attributes = lambda: {"units": "photons", "precision": 0}

    def expose(self) -> npt.NDArray[Any]:
        """Return the frame (H, W) that is measured now, as the detector delivers it."""
        raise NotImplementedError

    def seed(self, seed: int) -> None:
        """Start random numbers anew, where there are any."""

    def ends_at(self, began: float) -> float:
        """Return when a trigger given at `began` ends; both are times of :func:`time.monotonic`, seconds."""
        raise NotImplementedError

    def trigger(self) -> DeviceStatus:
        """Measure a frame where the stage is now; the status ends with the exposure.

        Raises
        ------
        DeviceError
            When an exposure is in progress, or no frame can be had at the stage's position.
        """
        if self._status is not None:
            raise DeviceError(f"{self.name} was triggered while it exposes; wait for the end of the first trigger")
        began = time.monotonic()
        frame = self.expose()
        status = DeviceStatus(self)
        ends = self.ends_at(began)
        with self._exposing:
            self._status = status
        if ends <= time.monotonic():
            self._finish(status, frame)
        else:
            ALARM.at(ends, lambda: self._finish(status, frame))
        return status

    def unstage(self) -> list[object]:
        """Return to rest; an exposure in progress is given up, a file of frames closed."""
        with self._exposing:
            status, self._status = self._status, None
        if status is not None:
            status.set_exception(DeviceError(f"{self.name} was unstaged while it exposed; the frame is lost"))
        self.close_stream()
        return list(super().unstage())

    def _finish(self, status: Any, frame: npt.NDArray[Any]) -> None:
        with self._exposing:
            if self._status is not status:
                return  # unstaged meanwhile
            self._status = None
        self.image.show(frame, time.time())
        status.set_finished()
