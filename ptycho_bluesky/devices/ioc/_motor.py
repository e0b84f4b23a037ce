"""A motor record in front of a simulated axis."""

from __future__ import annotations

import asyncio
from typing import Any

from ptycho_bluesky.devices._await import ended
from ptycho_bluesky.devices._axis import SimulatedAxis
from ptycho_bluesky.devices.ioc._records import Records

__all__ = ["MotorRecord"]

STALL_CHECK_S = 0.05
"""Between two looks at a stalled axis, whether it was told to stop."""


class MotorRecord:
    """The fields of EPICS's motor record that clients use, under ``NAME.VAL``, ``NAME.RBV``, ``NAME.DMOV`` ...

    A put to VAL ends when the move does. RBV is rounded to the encoder's resolution (ERES). A move outside of the soft
    limits does not start and sets LVIO, as in the original.

    Parameters
    ----------
    records:
        Where the fields are added.
    name:
        Of the record, e.g. ``"m1"``.
    axis:
        What moves.
    resolution:
        Of the encoder, in the axis's unit.
    """

    def __init__(self, records: Records, name: str, axis: SimulatedAxis, resolution: float) -> None:
        self.axis, self.resolution = axis, resolution
        self.stalled = False
        """True: the next move stops half-way and never ends, until it is told to stop."""
        low, high = axis.limits
        units: dict[str, Any] = {"units": axis.egu, "precision": 6}

        def add(field: str, value: Any, **options: Any) -> Any:
            return records.add(f"{name}.{field}", value, **options)

        def show(field: str, value: Any, **options: Any) -> Any:
            return records.read_only(f"{name}.{field}", value, **options)

        here = self._here()
        add("VAL", here, limits=(low, high), on_put=self._move, **units)
        self._value = records[f"{name}.VAL"]
        self._readback = show("RBV", here, **units)
        self._dial = show("DRBV", here, **units)
        self._done, self._moving = show("DMOV", 1), show("MOVN", 0)
        self._violation, self._way = show("LVIO", 0), add("TDIR", 1)
        add("STOP", 0, on_put=self._stop)
        add("VELO", float(axis.velocity.get()), on_put=self._set_velocity, units=f"{axis.egu}/s")
        self._velocity = records[f"{name}.VELO"]
        show("VMAX", 1e9, units=f"{axis.egu}/s")
        add("ACCL", float(axis.settling_time.get()), units="s")
        for field, limit in (("HLM", high), ("LLM", low), ("DHLM", high), ("DLLM", low)):
            add(field, float(limit), **units)
        for field in ("HLS", "LLS", "HOMF", "HOMR"):
            add(field, 0)
        show("EGU", axis.egu)
        show("PREC", 6)
        show("DESC", axis.name)
        show("OUT", "simulated")
        show("MRES", resolution, **units)
        show("ERES", resolution, **units)
        show("RDBD", resolution, **units)
        show("SREV", 200)
        show("UREV", 200 * resolution, **units)
        add("OFF", 0.0, **units)
        add("DIR", 0, choices=("Pos", "Neg"))
        add("FOFF", 0, choices=("Variable", "Frozen"))
        add("SET", 0, choices=("Use", "Set"))
        add("SPMG", 3, choices=("Stop", "Pause", "Move", "Go"))

    def publish(self) -> None:
        """Show where the axis is."""
        here = self._here()
        for record in (self._readback, self._dial):
            record.post(here)

    async def _move(self, target: float) -> None:
        low, high = self.axis.limits
        self._violation.post(int(not low <= target <= high))
        if self._violation.value:
            return
        self._value.post(target)
        self._way.post(int(target >= self.axis.position))
        self._done.post(0)
        self._moving.post(1)
        if self.stalled:
            await self._stall(target)
        else:
            await ended(self.axis.set(target))
        self.publish()
        if not self.axis.moving:  # else a later put has sent it elsewhere, and tells the end
            self._moving.post(0)
            self._done.post(1)

    async def _stall(self, target: float) -> None:
        await ended(self.axis.set((self.axis.position + target) / 2))
        self.publish()
        while self.stalled and self._moving.value:
            await asyncio.sleep(STALL_CHECK_S)

    async def _stop(self, value: int) -> None:
        self.axis.stop(success=True)
        self._moving.post(0)
        self._value.post(self._here())

    async def _set_velocity(self, value: float) -> None:
        self.axis.velocity.put(value)
        self._velocity.post(value)

    def _here(self) -> float:
        return float(round(self.axis.position / self.resolution) * self.resolution)
