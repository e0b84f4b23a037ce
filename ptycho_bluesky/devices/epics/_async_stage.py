"""Motor records with ophyd-async, by Channel Access or PV Access, named as the classic ones."""

from __future__ import annotations

import asyncio
import contextlib
from functools import cached_property

from ophyd_async.core import StandardReadable, TimeoutCalculator
from ophyd_async.core import StandardReadableFormat as Format
from ophyd_async.epics.motor import Motor, MotorFlyableMovableLogic

from ptycho_bluesky.devices.epics._async_release import Released
from ptycho_bluesky.devices.epics._client import need_protocol
from ptycho_bluesky.devices.epics._stage import STALL_S
from ptycho_bluesky.errors import DeviceError

__all__ = ["AsyncEpicsAxis", "AsyncEpicsStage"]

ANSWER_S = 2.0
"""Seconds within which a record has to answer."""


class _MoveLogic(MotorFlyableMovableLogic):  # type: ignore[misc]
    """The motor record's logic, with an error that says what stalled."""

    stall_s = STALL_S

    async def get_units_precision(self) -> tuple[str | None, int | None]:
        try:  # the first thing that a move asks the record for
            return await asyncio.wait_for(super().get_units_precision(), ANSWER_S)
        except TimeoutError as error:
            raise DeviceError(
                f"{self.readback.name} cannot move: {self.readback.source} does not answer; is the IOC running?"
            ) from error

    async def stop(self) -> None:
        try:
            await asyncio.wait_for(super().stop(), ANSWER_S)
        except TimeoutError as error:
            raise DeviceError(
                f"{self.readback.name} cannot be stopped: {self.readback.source} does not answer; is the IOC running?"
            ) from error

    async def calculate_timeout(self, old_position: float, new_position: float) -> float:
        velocity, acceleration = await self.velocity.get_value(), await self.acceleration_time.get_value()
        return float(abs(new_position - old_position) / (velocity or 1.0) + 2 * acceleration + self.stall_s)

    async def move(self, new_position: float, timeout: TimeoutCalculator) -> None:
        seconds = timeout()
        try:
            await super().move(new_position, lambda: seconds)
        except TimeoutError as error:
            with contextlib.suppress(DeviceError):  # what stalled is the error to tell
                await self.stop()
            raise DeviceError(
                f"{self.readback.name} did not come to {new_position:g} in {seconds:.1f} s: {self.setpoint.source} "
                "says no end; look at the motor, its limits and its controller, and whether the IOC runs; what was "
                "measured so far is kept"
            ) from error


class AsyncEpicsAxis(Released, Motor):  # type: ignore[misc]
    """A motor record; its readback has the axis's name (``stage_y``), its setpoint ``stage_y_setpoint``.

    Parameters
    ----------
    prefix:
        Of the record, with its protocol, e.g. ``"ca://BL:m1"`` or ``"pva://BL:m1"``.
    stall_s:
        Seconds by which a move may take longer than way and velocity say, before it fails with a DeviceError.
    """

    def __init__(self, prefix: str, stall_s: float = STALL_S, name: str = "") -> None:
        need_protocol(prefix)
        self._stall_s = stall_s
        super().__init__(prefix, name=name)
        self.add_readables([self.user_setpoint])

    def set_name(self, name: str, *, child_name_separator: str | None = None) -> None:
        """Name the axis and its signals."""
        super().set_name(name, child_name_separator=child_name_separator)
        self.user_setpoint.set_name(f"{name}_setpoint" if name else "")

    @cached_property
    def _logic(self) -> _MoveLogic:
        logic = _MoveLogic(
            readback=self.user_readback,
            setpoint=self.user_setpoint,
            motor_stop=self.motor_stop,
            low_limit_travel=self.low_limit_travel,
            high_limit_travel=self.high_limit_travel,
            dial_low_limit_travel=self.dial_low_limit_travel,
            dial_high_limit_travel=self.dial_high_limit_travel,
            velocity=self.velocity,
            acceleration_time=self.acceleration_time,
            motor_done_move=self.motor_done_move,
            max_velocity=self.max_velocity,
            motor_egu=self.motor_egu,
        )
        logic.stall_s = self._stall_s
        return logic


class AsyncEpicsStage(Released, StandardReadable):  # type: ignore[misc]
    """A sample stage of motor records y (down), x (to the right) and rotation (degrees), named as the simulated one.

    Parameters
    ----------
    prefix:
        Before all three, with the protocol: ``"ca://BL:"`` or ``"pva://BL:"``.
    y, x, rotation:
        Names of the records after the prefix.
    stall_s:
        See :class:`AsyncEpicsAxis`.
    """

    def __init__(
        self,
        prefix: str,
        *,
        y: str = "m1",
        x: str = "m2",
        rotation: str = "m3",
        stall_s: float = STALL_S,
        name: str = "stage",
    ) -> None:
        with self.add_children_as_readables(Format.CHILD):
            self.y = AsyncEpicsAxis(prefix + y, stall_s)
            self.x = AsyncEpicsAxis(prefix + x, stall_s)
            self.rotation = AsyncEpicsAxis(prefix + rotation, stall_s)
        super().__init__(name=name)

    def set_name(self, name: str, *, child_name_separator: str | None = "_") -> None:
        """Name the stage and its axes: ``stage_y`` ..."""
        super().set_name(name, child_name_separator=child_name_separator or "_")
