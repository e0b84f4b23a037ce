"""A scanning stage: y, x and a rotation."""

from __future__ import annotations

from typing import Any

import numpy as np

from ptycho_bluesky.devices import _control_layer  # noqa: F401, before ophyd: it decides on ophyd's control layer

# isort: split
from ophyd import Component, Device

from ptycho_bluesky.devices._axis import SimulatedAxis
from ptycho_bluesky.devices._motion import AxisErrors

__all__ = ["PIEZO_ERRORS", "SimulatedStage"]

PIEZO_ERRORS = AxisErrors(repeatability=0.004, backlash=0.004, encoder_noise=0.0005, hidden=0.003, drift=0.02)
"""Errors of a good piezo stage in closed loop, micrometres."""


class SimulatedStage(Device):  # type: ignore[misc]
    """A sample stage with the axes y (down), x (to the right) and rotation (about the vertical axis, degrees).

    Parameters
    ----------
    name:
        Prefix of all data keys: ``stage_y``, ``stage_y_setpoint``, ``stage_x`` ...
    egu:
        Unit of y and x: ``"um"``, or another of a run's position units.
    limits:
        Soft limits of y and x, in `egu`.
    velocity:
        Of y and x, `egu` per second; the rotation moves at 10 degrees per second.
    settling_time_s:
        Seconds that an axis needs to come to rest.
    errors:
        How y and x miss their setpoints, in `egu`; None for an ideal stage. The rotation is ideal.
    speedup:
        How many times faster than real the stage runs: 1 is real time, 1e6 takes no time at all.
    seed:
        Of the errors; the same seed and the same moves give the same positions.
    """

    y = Component(SimulatedAxis, "", kind="hinted")
    x = Component(SimulatedAxis, "", kind="hinted")
    rotation = Component(SimulatedAxis, "", egu="deg", limits=(-360.0, 360.0), kind="normal")

    def __init__(
        self,
        prefix: str = "",
        *,
        name: str = "stage",
        egu: str = "um",
        limits: tuple[float, float] = (-100.0, 100.0),
        velocity: float = 200.0,
        settling_time_s: float = 0.005,
        errors: AxisErrors | None = PIEZO_ERRORS,
        speedup: float = 1.0,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(prefix, name=name, **kwargs)
        self.seed(seed)
        for axis in (self.y, self.x, self.rotation):
            axis.settling_time.put(float(settling_time_s))
            axis.speedup.put(float(speedup))
        for axis in (self.y, self.x):
            axis.egu, axis.limits = egu, limits
            axis.errors = errors or AxisErrors()
            axis.velocity.put(float(velocity))
        self.rotation.velocity.put(10.0)

    def seed(self, seed: int) -> None:
        """Start the errors of all axes anew."""
        for axis, sequence in zip((self.y, self.x, self.rotation), np.random.SeedSequence(seed).spawn(3), strict=True):
            axis.seed(sequence)

    @property
    def moving(self) -> bool:
        """True while any axis moves or settles."""
        return bool(self.y.moving or self.x.moving or self.rotation.moving)

    def true_position(self) -> tuple[float, float]:
        """Return (y, x) of the sample as it really is, in the axes' unit; only a simulation can tell."""
        return self.y.true_position(), self.x.true_position()
