"""One axis of a simulated stage: it takes its time, stops when told, and misses its setpoint as real ones do."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from ptycho_bluesky.devices import _control_layer  # noqa: F401, before ophyd: it decides on ophyd's control layer

# isort: split
from ophyd import Component, Device, PositionerBase
from ophyd.status import MoveStatus
from ophyd.utils import LimitError

from ptycho_bluesky.devices._alarm import ALARM
from ptycho_bluesky.devices._motion import AxisErrors, Motion
from ptycho_bluesky.devices._signals import ComputedSignal, PositiveSignal
from ptycho_bluesky.errors import DeviceError

__all__ = ["SimulatedAxis"]

PROGRESS_S = 0.1
"""Seconds between two readbacks that a moving axis publishes, for progress bars and monitors."""

SHORTEST_S = 2e-5
"""A move that takes less is over at once: waking a thread takes longer."""


class SimulatedAxis(Device, PositionerBase):  # type: ignore[misc]
    """A linear or rotary axis with velocity, settling time, soft limits, encoder and errors.

    Its readback has the axis's own name (``stage_y``), its setpoint ``stage_y_setpoint``. A move takes
    ``distance / velocity + settling_time``, divided by `speedup` (1 is real time, 1e6 takes no time at all); nothing
    polls while it lasts. All three are signals, recorded with every run.

    Parameters
    ----------
    egu:
        Unit of the position.
    limits:
        Lowest and highest allowed setpoint, in this unit.
    precision:
        Decimals to show.

    Attributes
    ----------
    errors:
        :class:`AxisErrors`, in the axis's unit.
    """

    readback = Component(ComputedSignal, kind="hinted")
    setpoint = Component(ComputedSignal, kind="normal")
    velocity = Component(PositiveSignal, value=100.0, kind="config")
    settling_time = Component(PositiveSignal, value=0.0, units="s", inclusive=True, kind="config")
    speedup = Component(PositiveSignal, value=1.0, kind="config")

    def __init__(
        self,
        prefix: str = "",
        *,
        egu: str = "um",
        limits: tuple[float, float] = (-math.inf, math.inf),
        precision: int = 4,
        **kwargs: Any,
    ) -> None:
        self._limits, self.precision, self.errors = limits, precision, AxisErrors()
        super().__init__(prefix, **kwargs)
        self.egu = egu
        self.readback.name = self.name
        self._target = 0.0
        self.readback.compute, self.setpoint.compute = self._encoder, lambda: self._target
        self.readback.attributes = self.setpoint.attributes = self._attributes
        self._state = threading.RLock()  # moves come from the RunEngine's thread, their ends from the alarm's
        self._motion = Motion(0.0, 0.0, 0.0, 0.0, 0.0)
        self._status: MoveStatus | None = None
        self.seed(0)

    def seed(self, seed: int | np.random.SeedSequence) -> None:
        """Start the errors anew, as if never moved. Readings of the encoder have random numbers of their own."""
        self._direction, self._hidden, self._walk = 0, 0.0, 0.0
        sequence = seed if isinstance(seed, np.random.SeedSequence) else np.random.SeedSequence(seed)
        self._moves, self._noise = (np.random.default_rng(s) for s in sequence.spawn(2))

    @property
    def egu(self) -> str:
        """Unit of the position."""
        return self._egu

    @egu.setter
    def egu(self, egu: str) -> None:
        self._egu, self.velocity.units = egu, f"{egu}/s"

    @property
    def limits(self) -> tuple[float, float]:
        """Lowest and highest allowed setpoint."""
        return self._limits

    @limits.setter
    def limits(self, limits: tuple[float, float]) -> None:
        low, high = float(limits[0]), float(limits[1])
        if not low < high:
            raise DeviceError(f"limits of {self.name} were set to {limits}; the first must be below the second")
        self._limits = (low, high)

    @property
    def position(self) -> float:
        """What the encoder reads now."""
        return float(self.readback.get())

    def locate(self) -> dict[str, float]:
        """Return setpoint and readback; relative plans come back to the setpoint."""
        return {"setpoint": self._target, "readback": self.position}

    @property
    def moving(self) -> bool:
        """True from the start of a move until it has settled."""
        return self._status is not None

    @property
    def hints(self) -> dict[str, list[str]]:
        """The readback, for tables and plots."""
        return {"fields": [self.name]}

    def reset(self, position: float) -> None:
        """Declare that the axis stands at `position`, without a move.

        Raises
        ------
        DeviceError
            When it moves.
        """
        with self._state:
            if self._status is not None:
                raise DeviceError(f"{self.name} moves; stop it before its position is declared")
            self._motion, self._target = Motion(position, position, 0.0, 0.0, 0.0), float(position)
        self.setpoint.publish()

    def true_position(self) -> float:
        """Return where the sample really is now, in the axis's unit; only a simulation can tell."""
        with self._state:
            return self._motion.at(time.monotonic()) + self._hidden + self._walk

    def check_value(self, value: float, **kwargs: Any) -> None:
        """Raise LimitError where `value` is outside of the soft limits or not finite."""
        low, high = self._limits
        if not (isinstance(value, int | float | np.number) and math.isfinite(value)):
            raise LimitError(f"{self.name} was sent to {value!r}; allowed is a finite number of {self.egu}")
        if not low <= value <= high:
            raise LimitError(
                f"{self.name} was sent to {value:g} {self.egu}; its limits are {low:g} to {high:g} {self.egu}: "
                "nothing has moved, give a position inside"
            )

    def set(
        self,
        new_position: float,
        *,
        timeout: float | None = None,
        moved_cb: Callable[..., None] | None = None,
        wait: bool = False,
    ) -> MoveStatus:
        """Start a move and return its status at once.

        Parameters
        ----------
        new_position:
            Where to, in the axis's unit.
        timeout:
            Seconds after which the status fails; None for the time that the move needs.
        moved_cb:
            Called as ``moved_cb(status, obj=axis)`` at the end of the move.
        wait:
            Whether to return only when the move is over.

        Raises
        ------
        LimitError
            When it is outside of the limits; nothing moves then.
        """
        self.check_value(new_position)
        if self._status is not None:
            self._halt(DeviceError(f"{self.name} was given a new move, to {new_position:g} {self.egu}"))
        target = float(new_position)
        with self._state:
            status = MoveStatus(self, target, timeout=timeout)
            now, speedup = time.monotonic(), self.speedup.get()
            start, end = self._motion.at(now), self._landing(target)
            arrives = now + abs(end - start) / self.velocity.get() / speedup
            motion = Motion(start, end, now, arrives, arrives + self.settling_time.get() / speedup)
            self._motion, self._status, self._target = motion, status, target
        self.setpoint.publish()
        if motion.settled <= now + SHORTEST_S:
            self._finish(motion)
        else:
            self._wake(motion)
        if moved_cb is not None:
            status.add_callback(partial(moved_cb, obj=self))
        if wait:
            status.wait()
        return status

    def move(
        self,
        position: float,
        wait: bool = True,
        timeout: float | None = None,
        moved_cb: Callable[..., None] | None = None,
    ) -> MoveStatus:
        """Move, and by default return only when the move is over: for the console. See :meth:`set`."""
        return self.set(position, timeout=timeout, moved_cb=moved_cb, wait=wait)

    def stop(self, *, success: bool = False) -> None:
        """Stop here and now; a move in progress ends, as done where `success`, else with a DeviceError."""
        self._halt(None if success else DeviceError(f"{self.name} was stopped"))

    def _halt(self, error: DeviceError | None) -> None:
        with self._state:
            status, motion, now = self._status, self._motion, time.monotonic()
            if status is None:
                return
            here = motion.at(now)
            self._motion = replace(motion, start=here, end=here, arrives=now, settled=now)
            self._status, self._target = None, here
        if error is None:
            status.set_finished()
        else:
            way = f"at {here:.6g} {self.egu} on its way to {status.target:g} {self.egu}"
            status.set_exception(DeviceError(f"{error} {way}"))
        self.setpoint.publish()
        self._publish()

    def _landing(self, target: float) -> float:
        """Return where a move to `target` ends, and draw what the encoder will not see."""
        errors, way = self.errors, target - self._target
        self._direction = (way > 0) - (way < 0) or self._direction
        landing, hidden, step = self._moves.normal(size=3) * (errors.repeatability, errors.hidden, errors.drift)
        self._hidden, self._walk = hidden, self._walk + step / math.sqrt(1000)
        return target + float(landing) - self._direction * errors.backlash / 2

    def _wake(self, motion: Motion) -> None:
        """Come back when the move has settled, or before, to publish its progress."""
        soon = time.monotonic() + PROGRESS_S
        if motion.settled <= soon:
            ALARM.at(motion.settled, lambda: self._finish(motion))
        else:
            ALARM.at(soon, lambda: self._progress(motion))

    def _progress(self, motion: Motion) -> None:
        if self._motion is motion:
            self._publish()
            self._wake(motion)

    def _finish(self, motion: Motion) -> None:
        with self._state:
            if self._motion is not motion or self._status is None:
                return  # stopped, or sent elsewhere
            status, self._status = self._status, None
        self._publish()
        status.set_finished()

    def _publish(self) -> None:
        self._set_position(self.position)
        self.readback.publish()

    def _encoder(self) -> float:
        with self._state:
            noise = self.errors.encoder_noise * self._noise.normal() if self.errors.encoder_noise else 0.0
            return float(self._motion.at(time.monotonic()) + noise)

    def _attributes(self) -> dict[str, Any]:
        low, high = self._limits
        limits = {"lower_ctrl_limit": low, "upper_ctrl_limit": high} if math.isfinite(high - low) else {}
        return {"units": self.egu, "precision": self.precision, **limits}
