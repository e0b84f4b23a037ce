"""Small signals that ophyd lacks: computed when read, bounded, array-valued with a declared type."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from ptycho_bluesky.devices import _control_layer  # noqa: F401, before ophyd: it decides on ophyd's control layer

# isort: split
from ophyd import Signal
from ophyd.signal import SignalRO

from ptycho_bluesky.errors import DeviceError

__all__ = ["ComputedSignal", "FrameSignal", "PositiveSignal"]


class ComputedSignal(SignalRO):  # type: ignore[misc]
    """A read-only number that is computed whenever it is read."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.compute: Callable[[], float] = lambda: 0.0
        self.attributes: Callable[[], dict[str, Any]] = dict

    def get(self, **kwargs: Any) -> float:
        """Return the value of this moment."""
        return self.compute()

    @property
    def timestamp(self) -> float:
        """Seconds since 1970: now."""
        return time.time()

    def describe(self) -> dict[str, Any]:
        """Return the data key, with unit, precision and limits."""
        key = {"source": f"SIM:{self.name}", "dtype": "number", "dtype_numpy": "<f8", "shape": []}
        return {self.name: {**key, **self.attributes()}}

    def publish(self) -> None:
        """Tell subscribers the value of this moment."""
        self._run_subs(sub_type=self.SUB_VALUE, old_value=None, value=self.get(), timestamp=time.time())


class PositiveSignal(Signal):  # type: ignore[misc]
    """A finite number with a unit that has to be above a bound: velocities, times, rates."""

    def __init__(self, *args: Any, units: str = "", minimum: float = 0.0, inclusive: bool = False, **kwargs: Any):
        self.units, self.minimum, self.inclusive = units, minimum, inclusive
        super().__init__(*args, **kwargs)

    def check_value(self, value: Any, **kwargs: Any) -> None:
        """Refuse what is no number or not above the bound.

        Raises
        ------
        DeviceError
            Naming the signal, what was given and what is allowed.
        """
        number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
        if (
            not number
            or not math.isfinite(value)
            or value < self.minimum
            or (value == self.minimum and not self.inclusive)
        ):
            allowed = "at least" if self.inclusive else "above"
            bound = f"{allowed} {self.minimum:g} {self.units}".rstrip()
            raise DeviceError(f"{self.name} was set to {value!r}; allowed is a finite number {bound}")

    def describe(self) -> dict[str, Any]:
        """Return the data key, with its unit."""
        key = {"source": f"SIM:{self.name}", "dtype": "number", "dtype_numpy": "<f8", "shape": [], "units": self.units}
        return {self.name: key}


class FrameSignal(SignalRO):  # type: ignore[misc]
    """The latest frame (H, W), inline in events."""

    def show(self, frame: npt.NDArray[Any], timestamp: float) -> None:
        """Make `frame` the value; it may not be changed any more."""
        frame.setflags(write=False)
        self._readback, self._metadata["timestamp"] = frame, timestamp
        self._run_subs(sub_type=self.SUB_VALUE, old_value=None, value=frame, timestamp=timestamp)

    def describe(self) -> dict[str, Any]:
        """Return the data key; counts in each pixel."""
        frame = self._readback
        key = {"source": f"SIM:{self.name}", "dtype": "array", "dtype_numpy": frame.dtype.str, "units": "photons"}
        return {self.name: {**key, "shape": list(frame.shape)}}
