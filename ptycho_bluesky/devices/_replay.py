"""A measurement played back: the stage moves, and the detector serves what was recorded there."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy.spatial import KDTree

from ptycho_bluesky.devices import _control_layer  # noqa: F401, before ophyd: it decides on ophyd's control layer

# isort: split
from ophyd import Component

from ptycho_bluesky.devices._detector import FrameDetector
from ptycho_bluesky.devices._signals import PositiveSignal
from ptycho_bluesky.devices._stage import SimulatedStage
from ptycho_bluesky.errors import DeviceError
from ptycho_bluesky.experiment import PtychoDataset, from_positions

__all__ = ["ReplayDetector", "ReplayStage"]

UM = 1e-6

FASTEST_HZ = 1e6
"""A pace that no console reaches: as fast as possible."""


def unit_of(dataset: PtychoDataset) -> tuple[str, float]:
    """Return the stage's unit and how many of the dataset's (metres, or pixels) are in it."""
    return (
        ("um", UM) if dataset.geometry is not None and dataset.pixel_size_m is not None else ("px", pixel_of(dataset))
    )


def pixel_of(dataset: PtychoDataset) -> float:
    """Return the side of an object pixel in the unit of the dataset's positions."""
    return dataset.pixel_size_m or 1.0


class ReplayStage(SimulatedStage):
    """An ideal stage over the field of a dataset; its limits are the field and a frame's width around it.

    Parameters
    ----------
    dataset:
        Where the frames were recorded; the unit is ``um``, or ``px`` where the dataset knows no lengths.
    """

    def __init__(self, prefix: str = "", *, dataset: PtychoDataset, name: str = "stage", **kwargs: Any) -> None:
        unit, length = unit_of(dataset)
        reach = np.abs(dataset.positions).max() + pixel_of(dataset) * max(dataset.frame_shape)
        limit = float(reach / length)
        settings = {"velocity": 10 * limit, "settling_time_s": 0.0, "errors": None, **kwargs}
        super().__init__(prefix, name=name, egu=unit, limits=(-limit, limit), **settings)
        self.rotation.reset(dataset.rotation_deg)


class ReplayDetector(FrameDetector):
    """Serves the recorded frame nearest to where the stage is; frames of the same place are served in turn.

    Parameters
    ----------
    dataset:
        Frames and positions; frames are read one by one, as they are asked for.
    stage:
        In the dataset's unit, see :class:`ReplayStage`.
    rate_hz:
        Frames per second at the most; 1e6 is as fast as possible, ``"recorded"`` the pace of the dataset's
        timestamps. It is the signal ``detector_rate``, and can be set at any time.
    tolerance:
        How far from a recorded place the stage may be, in the dataset's unit; None for half the step of the scan.
    folder:
        Where frames of fly scans go; None where it is not to fly.
    """

    rate = Component(PositiveSignal, value=FASTEST_HZ, units="Hz", kind="config")

    def __init__(
        self,
        prefix: str = "",
        *,
        name: str = "detector",
        dataset: PtychoDataset,
        stage: SimulatedStage,
        rate_hz: float | Literal["recorded"] = FASTEST_HZ,
        tolerance: float | None = None,
        folder: Path | str | None = None,
        **kwargs: Any,
    ) -> None:
        self.dataset, self.stage_device = dataset.validate(), stage
        self._positions = dataset.positions
        self._tree = KDTree(self._positions)
        self._length = unit_of(dataset)[1]
        step = from_positions(self._positions).step_m() or pixel_of(dataset)
        self._tolerance = step / 2 if tolerance is None else tolerance
        self._served: Counter[int] = Counter()
        self._last = -math.inf
        super().__init__(prefix, name=name, frame_shape=dataset.frame_shape, dtype=dataset.frames.dtype, **kwargs)
        self.folder = None if folder is None else Path(folder).resolve()
        self.rate.put(self._recorded_rate() if rate_hz == "recorded" else float(rate_hz))

    def expose(self) -> npt.NDArray[Any]:
        """Return the recorded frame (H, W) nearest to the stage.

        Raises
        ------
        DeviceError
            When no frame was recorded within the tolerance.
        """
        index = self._nearest(np.asarray(self.stage_device.true_position()))
        return np.array(np.asarray(self.dataset.frames[index : index + 1])[0])

    def expose_along(self, places: npt.NDArray[np.float64], exposure_s: float, seed: int) -> npt.NDArray[Any]:
        """Return the recorded frames (N, H, W) nearest to the middle of each of `places` (N, S, 2).

        Exposure and seed change nothing of what was recorded.
        """
        chosen = [self._nearest(place) for place in places.mean(axis=1)]
        return np.stack([np.asarray(self.dataset.frames[index : index + 1])[0] for index in chosen])

    def _nearest(self, place: npt.NDArray[np.float64]) -> int:
        """Return the frame recorded nearest to `place` (y, x), in the stage's unit, the next in turn of several."""
        here = place * self._length
        distance, index = self._tree.query(here)
        nearest = float(distance)
        if nearest > self._tolerance:
            there = self._positions[int(index)] / self._length
            (y, x), unit = here / self._length, self.stage_device.y.egu
            raise DeviceError(
                f"{self.name}: no frame was recorded at ({y:.5g}, {x:.5g}) {unit}; the nearest is at ({there[0]:.5g}, "
                f"{there[1]:.5g}), {nearest / self._length:.3g} {unit} away, allowed are "
                f"{self._tolerance / self._length:.3g}: scan the recorded positions, or give a larger tolerance"
            )
        same = sorted(self._tree.query_ball_point(here, nearest + 1e-6 * self._tolerance)) or [int(index)]
        turn = self._served[int(same[0])]
        self._served[int(same[0])] += 1
        return int(same[turn % len(same)])

    def ends_at(self, began: float) -> float:
        """Return when the frame of a trigger given at `began` may be shown, at the pace of `rate`."""
        self._last = max(began, self._last + 1 / self.rate.get())
        return self._last

    def _recorded_rate(self) -> float:
        times = self.dataset.timestamps
        if times is None or len(times) < 2 or not float(np.median(np.diff(times))) > 0:
            raise DeviceError(
                f"rate_hz is 'recorded', but dataset {self.dataset.name or '(unnamed)'} has no increasing timestamps; "
                "give a rate in Hz"
            )
        return float(1 / np.median(np.diff(times)))
