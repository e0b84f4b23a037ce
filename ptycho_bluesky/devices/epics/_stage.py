"""Motor records by Channel Access (classic ophyd): an axis that says when it stalls, and a stage of three."""

from __future__ import annotations

import time
from typing import Any

from ptycho_bluesky.devices import _control_layer  # noqa: F401, before ophyd: it decides on ophyd's control layer

# isort: split
from ophyd import Device, EpicsMotor, FormattedComponent
from ophyd.status import MoveStatus
from ophyd.utils import DisconnectedError

from ptycho_bluesky.devices._alarm import ALARM
from ptycho_bluesky.devices.epics._client import need_client, variables_without_answer
from ptycho_bluesky.errors import DeviceError

__all__ = ["EpicsAxis", "EpicsStage"]

STALL_S = 10.0
"""Seconds by which a move may take longer than way and velocity say."""

ASK_S = 0.5
"""Seconds within which a record has to answer a question."""

NEAR = 0.01
"""Of the target (at least 1 unit): how near to it a move has come, if the record says that it is done."""

LOOK_S = 0.25
"""Between two looks at a move that is in progress."""


class EpicsAxis(EpicsMotor):  # type: ignore[misc]
    """A motor record; its readback has the axis's name (``stage_y``), its setpoint ``stage_y_setpoint``.

    A move fails with a DeviceError that names the process variables where it takes `stall_s` longer than way and
    velocity say, or where the record's variables have been lost for that long.
    """

    def __init__(self, prefix: str = "", *, name: str, stall_s: float = STALL_S, **kwargs: Any) -> None:
        need_client()
        self.stall_s = stall_s
        super().__init__(prefix, name=name, **kwargs)
        self.user_setpoint.name = f"{self.name}_setpoint"
        self.user_setpoint.kind = "normal"

    def move(self, position: float, wait: bool = True, **kwargs: Any) -> MoveStatus:
        """Move; see :class:`ophyd.EpicsMotor`."""
        lost = variables_without_answer(self)
        if lost:
            raise DeviceError(f"{self.name} cannot move: {', '.join(lost[:3])} do not answer; is the IOC running?")
        way = abs(position - (self.position or 0.0))
        expected = way / (self.velocity.get() or 1.0) + 2 * self.acceleration.get()
        status = super().move(position, wait=False, **kwargs)
        began = time.monotonic()
        deadline = began + expected + self.stall_s
        ALARM.after(LOOK_S, lambda: self._look(status, position, began, deadline))
        if wait:
            status.wait()
        return status

    def _look(self, status: MoveStatus, target: float, began: float, deadline: float) -> None:
        """Come back until the move is over, and fail it where it is not in time."""
        if status.done or self._has_come(target):
            return
        if time.monotonic() < deadline:
            ALARM.after(LOOK_S, lambda: self._look(status, target, began, deadline))
            return
        lost, seconds = variables_without_answer(self), time.monotonic() - began
        if lost:
            reason = f"{', '.join(lost[:3])} do not answer any more: is the IOC running?"
        else:
            self.motor_stop.put(1, wait=False)
            reason = f"{self.prefix}.DMOV says no end: look at the motor, its limits and its controller"
        status.set_exception(
            DeviceError(
                f"{self.name} did not come to {target:g} in {seconds:.1f} s, it was last at {self._position:.6g}; "
                f"{reason}; what was measured so far is kept"
            )
        )

    def _has_come(self, target: float) -> bool:
        """End a move whose end was not told: monitors that were just restored may miss it."""
        if not (self.motor_done_move.connected and self.user_readback.connected):
            return False
        try:
            done = self.motor_done_move.get(use_monitor=False, timeout=ASK_S)
            here = self.user_readback.get(use_monitor=False, timeout=ASK_S)
        except (TimeoutError, DisconnectedError):
            return False
        if not done or abs(here - target) > NEAR * max(abs(target), 1.0):
            return False
        self._set_position(here)
        self._done_moving(success=True)
        return True


class EpicsStage(Device):  # type: ignore[misc]
    """A sample stage of motor records y (down), x (to the right) and rotation (degrees), named as the simulated one.

    Parameters
    ----------
    prefix:
        Before all three.
    y, x, rotation:
        Names of the records after the prefix.
    stall_s:
        See :class:`EpicsAxis`.
    """

    y = FormattedComponent(EpicsAxis, "{prefix}{y_record}", kind="hinted")
    x = FormattedComponent(EpicsAxis, "{prefix}{x_record}", kind="hinted")
    rotation = FormattedComponent(EpicsAxis, "{prefix}{rotation_record}", kind="normal")

    def __init__(
        self,
        prefix: str = "",
        *,
        name: str = "stage",
        y: str = "m1",
        x: str = "m2",
        rotation: str = "m3",
        stall_s: float = STALL_S,
        **kwargs: Any,
    ) -> None:
        self.y_record, self.x_record, self.rotation_record = y, x, rotation
        super().__init__(prefix, name=name, **kwargs)
        for axis in (self.y, self.x, self.rotation):
            axis.stall_s = stall_s
