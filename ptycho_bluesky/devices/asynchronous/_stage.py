"""Axes of a simulated or replayed stage as ophyd-async has them: the same names, the same physics."""

from __future__ import annotations

from typing import Any

from ophyd_async.core import AsyncStatus, Device

from ptycho_bluesky.devices._await import ended
from ptycho_bluesky.devices._axis import SimulatedAxis
from ptycho_bluesky.devices._stage import SimulatedStage

__all__ = ["AsyncAxis", "AsyncStage"]


class AsyncAxis(Device):  # type: ignore[misc]
    """An axis that is moved and read with ``await``; keys, limits and errors are those of the classic one behind it.

    Attributes
    ----------
    axis:
        The :class:`SimulatedAxis` that moves.
    """

    def __init__(self, axis: SimulatedAxis) -> None:
        self.axis = axis
        super().__init__(name=axis.name)

    @property
    def hints(self) -> dict[str, list[str]]:
        """The readback, for tables and plots."""
        return self.axis.hints

    @property
    def limits(self) -> tuple[float, float]:
        """Lowest and highest allowed setpoint."""
        return self.axis.limits

    async def read(self) -> dict[str, Any]:
        """Return readback and setpoint."""
        return dict(self.axis.read())

    async def describe(self) -> dict[str, Any]:
        """Return the data keys of readback and setpoint."""
        return dict(self.axis.describe())

    async def read_configuration(self) -> dict[str, Any]:
        """Return velocity, settling time and speedup."""
        return dict(self.axis.read_configuration())

    async def describe_configuration(self) -> dict[str, Any]:
        """Return the data keys of the configuration."""
        return dict(self.axis.describe_configuration())

    async def locate(self) -> dict[str, float]:
        """Return setpoint and readback."""
        return self.axis.locate()

    async def check_value(self, value: float) -> None:
        """Raise LimitError where `value` is outside of the limits."""
        self.axis.check_value(value)

    @AsyncStatus.wrap  # type: ignore[untyped-decorator]
    async def set(self, value: float) -> None:
        """Move; the status is done when the axis has settled."""
        status: Any = self.axis.set(value)
        await ended(status)
        if not status.success:
            raise status.exception()

    async def stop(self, success: bool = False) -> None:
        """Stop here and now; see :meth:`SimulatedAxis.stop`."""
        self.axis.stop(success=success)


class AsyncStage(Device):  # type: ignore[misc]
    """A stage of the axes y, x and rotation.

    Attributes
    ----------
    stage:
        The :class:`SimulatedStage` behind it.
    """

    def __init__(self, stage: SimulatedStage) -> None:
        self.stage_device = stage
        self.y, self.x, self.rotation = AsyncAxis(stage.y), AsyncAxis(stage.x), AsyncAxis(stage.rotation)
        super().__init__(name=stage.name)

    def set_name(self, name: str, *, child_name_separator: str | None = "_") -> None:
        """Name the stage and its axes: ``stage_y`` ..."""
        super().set_name(name, child_name_separator=child_name_separator or "_")

    async def read(self) -> dict[str, Any]:
        """Return what all axes read."""
        return dict(self.stage_device.read())

    async def describe(self) -> dict[str, Any]:
        """Return the data keys of all axes."""
        return dict(self.stage_device.describe())
