"""What comes before the sample: ring current, shutter, monochromator, and what they make of beam and optics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.ndimage

from ptycho_bluesky.devices import _control_layer  # noqa: F401, before ophyd: it decides on ophyd's control layer

# isort: split
from ophyd import Component, Device, Signal
from ophyd.status import DeviceStatus

from ptycho_bluesky.devices._alarm import ALARM
from ptycho_bluesky.devices._axis import SimulatedAxis
from ptycho_bluesky.devices._signals import PositiveSignal
from ptycho_bluesky.errors import DeviceError

__all__ = ["Optics", "SimulatedRing", "SimulatedShutter", "Source", "monochromator"]

ComplexArray = npt.NDArray[np.complex64]

NOMINAL_MA = 400.0
"""Ring current at which a simulated detector has its nominal flux."""


class SimulatedRing(Device):  # type: ignore[misc]
    """The storage ring: its current is the signal ``ring_current`` (mA), to watch with a suspender.

    ``ring.current.put(0)`` dumps the beam: detectors see none until it is back.
    """

    current = Component(PositiveSignal, value=NOMINAL_MA, units="mA", inclusive=True, kind="hinted")

    def __init__(self, prefix: str = "", *, name: str = "ring", **kwargs: Any) -> None:
        super().__init__(prefix, name=name, **kwargs)


class SimulatedShutter(Device):  # type: ignore[misc]
    """A photon shutter, set to ``"open"`` or ``"closed"``; its state is the data key ``shutter``."""

    state = Component(Signal, value="open", kind="hinted")
    travel_time = Component(PositiveSignal, value=0.1, units="s", inclusive=True, kind="config")
    speedup = Component(PositiveSignal, value=1.0, kind="config")

    def __init__(self, prefix: str = "", *, name: str = "shutter", speedup: float = 1.0, **kwargs: Any) -> None:
        super().__init__(prefix, name=name, **kwargs)
        self.state.name = self.name
        self.speedup.put(float(speedup))

    @property
    def is_open(self) -> bool:
        """Whether light comes through."""
        return bool(self.state.get() == "open")

    def set(self, value: Literal["open", "closed"]) -> DeviceStatus:
        """Open or close; the status is done when it has.

        Raises
        ------
        DeviceError
            For any other value.
        """
        if value not in ("open", "closed"):
            raise DeviceError(f"{self.name} was set to {value!r}; allowed are 'open' and 'closed'")
        status = DeviceStatus(self)

        def arrive() -> None:
            self.state.put(value)
            status.set_finished()

        ALARM.after(self.travel_time.get() / self.speedup.get(), arrive)
        return status


def monochromator(
    energy_kev: float, limits_kev: tuple[float, float], speedup: float = 1.0, name: str = "energy"
) -> SimulatedAxis:
    """Return an axis in keV, its readback the data key ``energy``; it moves at 0.1 keV/s and settles for 0.2 s.

    It begins at `energy_kev` and stays within `limits_kev`; a move takes less time by the factor `speedup`.
    """
    axis = SimulatedAxis(name=name, egu="keV", limits=limits_kev, precision=6)
    axis.velocity.put(0.1)
    axis.settling_time.put(0.2)
    axis.speedup.put(float(speedup))
    axis.reset(energy_kev)
    return axis


class Optics(NamedTuple):
    """What an energy makes of beam and sample."""

    probe: ComplexArray
    """(M, H, W) with ``sum |probe|**2 = 1``."""

    obj: ComplexArray
    """(Y, X) transmission, on the grid of `pixel_size_m`."""

    pixel_size_m: float
    """Of the object."""


class Source:
    """Light on the sample: how much of the nominal, and by which optics.

    Parameters
    ----------
    energy, shutter, ring:
        Devices that decide on it.
    probe_at:
        Returns probe (M, H, W) and pixel size (m) at an energy in keV.
    obj:
        (Y, X) complex64 transmission at the nominal energy.
    """

    def __init__(
        self,
        energy: SimulatedAxis,
        shutter: SimulatedShutter,
        ring: SimulatedRing,
        probe_at: Callable[[float], tuple[ComplexArray, float]],
        obj: ComplexArray,
    ) -> None:
        self._energy, self._shutter, self._ring, self._probe_at = energy, shutter, ring, probe_at
        self._nominal_kev = energy.position
        probe, pixel_m = probe_at(self._nominal_kev)
        self._nominal = Optics(probe, obj, pixel_m)
        self._now = (self._nominal_kev, self._nominal)

    def intensity(self) -> float:
        """Return the light on the sample, as a share of the nominal."""
        return float(self._ring.current.get() / NOMINAL_MA) if self._shutter.is_open else 0.0

    def optics(self) -> Optics:
        """Return probe, sample and pixel size at the present energy, to 0.1 eV."""
        energy = round(float(self._energy.true_position()), 4)
        if energy != self._now[0]:
            near = abs(energy - self._nominal_kev) < 5e-5
            self._now = (energy, self._nominal if near else self._tuned(energy))
        return self._now[1]

    def _tuned(self, energy_kev: float) -> Optics:
        probe, pixel_m = self._probe_at(energy_kev)
        return Optics(probe, at_energy(self._nominal, energy_kev / self._nominal_kev, pixel_m), pixel_m)


def at_energy(optics: Optics, ratio: float, pixel_size_m: float) -> ComplexArray:
    """Return the sample at `ratio` times the energy, on the grid of the pixel size there, about its middle.

    Far from absorption edges: the phase goes with the inverse energy, the absorption with its third power. The phase
    must stay within -pi to pi at the nominal energy.
    """
    scale = pixel_size_m / optics.pixel_size_m
    absorbed, phase = np.log(np.maximum(np.abs(optics.obj), 1e-6)), np.angle(optics.obj)
    shape = tuple(int(n / scale) for n in optics.obj.shape)
    offset = [n // 2 - (m // 2) * scale for n, m in zip(optics.obj.shape, shape, strict=True)]

    def moved(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return np.asarray(
            scipy.ndimage.affine_transform(
                values, np.full(2, scale), offset, output_shape=shape, order=1, mode="nearest", output=np.float32
            )
        )

    return np.asarray(np.exp(moved(absorbed) / ratio**3 + 1j * moved(phase) / ratio), np.complex64)
