"""A trigger box for fly scans: it leads the axes along a path, triggers the detectors, captures where they were."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ptycho_bluesky.devices import _control_layer  # noqa: F401, before ophyd: it decides on ophyd's control layer

# isort: split
from ophyd import Component, Device, Signal
from ophyd.status import DeviceStatus

from ptycho_bluesky.devices._flight import RUN_UP_S, Flight, frame_times
from ptycho_bluesky.devices._fly_detector import new_file
from ptycho_bluesky.devices._signals import PositiveSignal
from ptycho_bluesky.devices._stage import SimulatedStage
from ptycho_bluesky.devices._stream_file import StreamDataset, StreamFile
from ptycho_bluesky.errors import DeviceError, report
from ptycho_bluesky.experiment import FlyPath

__all__ = ["SimulatedFlyer"]


class Triggered(Protocol):
    """A detector that a flyer triggers: :class:`FlyingDetector`, or one that does the same."""

    name: str

    @property
    def image(self) -> Any:
        """Signal of the latest frame."""

    def expose_along(self, places: npt.NDArray[np.float64], exposure_s: float, seed: int) -> npt.NDArray[Any]:
        """Return the frames (N, H, W) of `places` (N, S, 2)."""

    def take(self, frames: npt.NDArray[Any]) -> None:
        """Write frames (N, H, W)."""

    def end_flight(self, error: Exception | None) -> None:
        """End early."""


MOST_BYTES = 2**31
"""Of the frames of one flight, which are computed before it starts."""


class SimulatedFlyer(Device):  # type: ignore[misc]
    """What a PandA does at a beamline: one trigger a frame, and the encoders captured with it, row by row in a file.

    Data keys are those of the stage's axes (``stage_y``, ``stage_x``): the encoders in the middle of each exposure.
    The frames of a flight are computed in ``prepare``, from where the sample really is during each exposure, so that
    a flight keeps any pace that the disk does. The same seed and path give the same frames and positions.

    Parameters
    ----------
    stage:
        Whose y and x it moves.
    detectors:
        That it triggers.
    folder:
        Where its files go; None where it is not to fly.
    samples:
        Places of the sample that are averaged in each exposure; 1 for the middle alone.
    max_rate_hz:
        Triggers per second at the most.
    speedup:
        How many times shorter than real a flight lasts.
    seed:
        Of encoders and detectors in flight.
    """

    max_rate = Component(PositiveSignal, value=10_000.0, units="Hz", kind="config")
    speedup = Component(PositiveSignal, value=1.0, kind="config")
    samples = Component(Signal, value=3, kind="config")

    def __init__(
        self,
        prefix: str = "",
        *,
        name: str = "flyer",
        stage: SimulatedStage,
        detectors: Sequence[Triggered] = (),
        folder: Path | str | None = None,
        samples: int = 3,
        max_rate_hz: float = 10_000.0,
        speedup: float = 1.0,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(prefix, name=name, **kwargs)
        self.stage_device, self.detectors, self.seed = stage, tuple(detectors), seed
        self.folder = None if folder is None else Path(folder).resolve()
        self.samples.put(int(samples))
        self.max_rate.put(float(max_rate_hz))
        self.speedup.put(float(speedup))
        self._stream: StreamFile | None = None
        self._flight: Flight | None = None
        self._status: DeviceStatus | None = None
        self._frames: list[npt.NDArray[Any]] = []
        self._captured = np.empty((0, 2))

    turn_s = RUN_UP_S
    """Between two lines that meet, seconds, for estimates."""

    @property
    def y(self) -> Any:
        """The axis along the object's rows."""
        return self.stage_device.y

    @property
    def x(self) -> Any:
        """The axis along the object's columns."""
        return self.stage_device.x

    def check_path(self, path: FlyPath) -> list[str]:
        """Return what speaks against a path, in plain words; nothing moves."""
        faults = []
        if self.folder is None:
            faults.append(f"{self.name} has no folder for what it captures: make the beamline with folder=...")
        if 1 / path.period_s > self.max_rate.get() * (1 + 1e-9):
            faults.append(
                f"{1 / path.period_s:.5g} frames per second are too many for {self.name}; at most "
                f"{self.max_rate.get():g}: a longer period"
            )
        speeds, ways = np.abs(path.velocity).max(axis=0), np.concatenate([path.begin, path.end])
        for axis, speed, places in zip((self.y, self.x), speeds, ways.T, strict=True):
            allowed, (low, high) = axis.velocity.get(), axis.limits
            if speed > allowed:
                faults.append(
                    f"{axis.name} would move at {speed:.4g} {axis.egu}/s, allowed are {allowed:g}: a longer period, or "
                    "a smaller step"
                )
            if places.min() < low or places.max() > high:
                faults.append(
                    f"{axis.name} would fly from {places.min():.4g} to {places.max():.4g} {axis.egu}, allowed is "
                    f"{low:.4g} to {high:.4g}: move or shrink the pattern"
                )
        for detector in self.detectors:
            needed = len(path) * detector.image.get().nbytes
            if needed > MOST_BYTES:
                faults.append(
                    f"a flight of {len(path)} frames of {detector.name} would need {needed / 1e9:.2g} GB of memory, "
                    f"allowed are {MOST_BYTES / 1e9:.2g}: shorter flights"
                )
        return faults

    def prepare(self, value: FlyPath) -> DeviceStatus:
        """Go to the start of a path and compute its frames; the status is done when both are.

        Raises
        ------
        DeviceError
            With all faults of the path, before anything moves.
        """
        faults = self.check_path(value)
        if self._flight is not None and self._flight.flying:
            faults.append(f"{self.name} still flies; complete or stop it first")
        if faults:
            raise DeviceError(report(f"{self.name} refuses the flight", faults))
        if self._stream is None:
            self._stream = StreamFile(new_file(self.folder, self.name), self._datasets())
        self._status, self._flight = DeviceStatus(self), None
        ready = DeviceStatus(self)
        threading.Thread(target=self._get_ready, args=(value, ready), name=f"{self.name}-prepare", daemon=True).start()
        return ready

    def kickoff(self) -> DeviceStatus:
        """Start to fly; the status is done at once, the axes run up.

        Raises
        ------
        DeviceError
            When no path has been prepared since the last flight.
        """
        if self._flight is None or self._flight.flying or self._flight.taken:
            raise DeviceError(f"{self.name} was kicked off, but not prepared; prepare it with a path first")
        self._flight.start()
        started = DeviceStatus(self)
        started.set_finished()
        return started

    def complete(self) -> DeviceStatus:
        """Return a status that is done when all frames of this flight are taken and written.

        It fails with a DeviceError that says why, where the flight ends early.
        """
        if self._status is None:
            raise DeviceError(f"{self.name} was asked to complete a flight that was not prepared")
        return self._status

    def pause(self) -> None:
        """Finish the frame in progress and halt."""
        if self._flight is not None and self._flight.flying:
            self._flight.pause()

    def resume(self) -> None:
        """Run up and go on at the first frame not yet taken."""
        if self._flight is not None and self._flight.flying:
            self._flight.resume()

    def stop(self, *, success: bool = False) -> None:
        """Halt at once; frames that were taken stay valid. The flight ends, as done where `success`, else failed."""
        if self._flight is not None and self._flight.flying:
            self._flight.stop(None if success else DeviceError(f"{self.name} was stopped in flight"))

    def unstage(self) -> list[object]:
        """End what flies, and close the file."""
        self.stop()
        stream, self._stream, self._flight, self._frames = self._stream, None, None, []
        if stream is not None:
            stream.close()
        return list(super().unstage())

    def describe_collect(self) -> dict[str, dict[str, Any]]:
        """Return the data keys of the positions, before the file is there too."""
        return {d.key: d.data_key(f"SIM:{d.key}") for d in self._datasets()}

    def get_index(self) -> int:
        """Return how many rows were written since ``stage``."""
        return 0 if self._stream is None else self._stream.written

    def collect_asset_docs(self, index: int | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield ``stream_resource`` and ``stream_datum`` documents of the rows up to `index`."""
        return iter(()) if self._stream is None else self._stream.documents(index)

    def _datasets(self) -> list[StreamDataset]:
        return [
            StreamDataset(axis.name, f"/entry/positions/{axis.name}", (), "<f8", axis.egu) for axis in (self.y, self.x)
        ]

    def _get_ready(self, path: FlyPath, ready: DeviceStatus) -> None:
        try:
            moves = [axis.set(float(start)) for axis, start in zip((self.y, self.x), path.begin[0], strict=True)]
            first = self.get_index()  # a path that is prepared again has the same errors and the same noise
            seeds = np.random.SeedSequence([self.seed, first]).spawn(2 + len(self.detectors))
            axes = zip((self.y, self.x), path.positions.T, seeds, strict=False)
            read, true = zip(*(a.errors.along(p, np.random.default_rng(s)) for a, p, s in axes), strict=True)
            self._captured = np.stack(read, axis=1)
            parts = (np.arange(self.samples.get()) + 0.5) / self.samples.get() - 0.5
            places = np.stack(true, axis=1)[:, None] + (path.end - path.begin)[:, None] * parts[:, None]
            self._frames = [
                d.expose_along(places, path.exposure_s, int(s.generate_state(1)[0]))
                for d, s in zip(self.detectors, seeds[2:], strict=True)
            ]
            for move in moves:
                move.wait()
            speedup = self.speedup.get()
            velocity = np.array([axis.velocity.get() for axis in (self.y, self.x)])
            begins = frame_times(path, velocity) / speedup
            self._flight = Flight(begins, path.exposure_s / speedup, self._take, self._over)
        except Exception as error:  # noqa: BLE001, this thread's fault is the status's
            ready.set_exception(error)
        else:
            ready.set_finished()

    def _take(self, start: int, stop: int) -> None:
        for detector, frames in zip(self.detectors, self._frames, strict=True):
            detector.take(frames[start:stop])
        rows = self._captured[start:stop]
        if self._stream is not None:
            self._stream.append({self.y.name: rows[:, 0], self.x.name: rows[:, 1]})
        for axis, place in zip((self.y, self.x), rows[-1], strict=True):
            axis.reset(float(place))

    def _over(self, error: Exception | None) -> None:
        status = self._status
        if status is None or status.done:
            return
        if error is None:
            status.set_finished()
            return
        status.set_exception(error)
        for detector in self.detectors:  # they wait for triggers that will not come
            detector.end_flight(error)
