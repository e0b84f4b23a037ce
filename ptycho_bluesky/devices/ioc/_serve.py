"""A beamline behind EPICS: motor records, areaDetector, monochromator and shutter, served until told to stop."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from typing import Any, Literal

from ptycho_bluesky.devices._beamline import Beamline
from ptycho_bluesky.devices.ioc._area_detector import AreaDetector
from ptycho_bluesky.devices.ioc._motor import MotorRecord
from ptycho_bluesky.devices.ioc._records import Records
from ptycho_bluesky.errors import ConfigurationError

__all__ = ["PROTOCOLS", "BeamlineIoc", "serve_ioc"]

Protocol = Literal["ca", "pva"]

PROTOCOLS: tuple[Protocol, ...] = ("ca", "pva")

RESOLUTION_UM = 1e-4
"""Of the stage's encoders."""

READBACK_S = 0.1
"""Between two readbacks that an IOC posts of a moving axis."""


class BeamlineIoc:
    """The records of a beamline, whatever serves them.

    ``m1`` (y), ``m2`` (x), ``m3`` (rotation), ``cam1:``, ``HDF1:``, ``Pva1:Image``; ``energy`` (motor record, keV),
    ``Shutter`` and ``Ring:Current`` where the beamline has them. For tests and training: a put to ``Seed`` starts all
    random numbers anew, ``Fault:Stage`` and ``Fault:Detector`` make the stage stall and the detector hang.

    Parameters
    ----------
    beamline:
        Simulated or replayed.
    prefix:
        Of all names, e.g. ``"SIM:"``.
    detector:
        ``"generic"`` or ``"eiger"``.
    """

    def __init__(
        self, beamline: Beamline, prefix: str = "SIM:", detector: Literal["generic", "eiger"] = "generic"
    ) -> None:
        self.records = Records(prefix)
        stage = beamline.stage
        axes = {"m1": (stage.y, RESOLUTION_UM), "m2": (stage.x, RESOLUTION_UM), "m3": (stage.rotation, 1e-5)}
        if beamline.energy is not None:
            axes["energy"] = (beamline.energy, 1e-6)
        self.motors = [MotorRecord(self.records, name, axis, step) for name, (axis, step) in axes.items()]
        self.detector = AreaDetector(self.records, beamline.detector, detector)
        self._beamline = beamline
        self.records.add("Seed", 0, on_put=self._set_seed)
        self.records.add("Fault:Stage", 0, choices=("None", "Stall"), on_put=self._set_stall)
        self.records.add("Fault:Detector", 0, choices=("None", "Hang"), on_put=self._set_hang)
        if beamline.shutter is not None:
            shutter = beamline.shutter
            record = self.records.add("Shutter", int(shutter.is_open), choices=("Closed", "Open"))

            async def set_shutter(value: int) -> None:
                shutter.set("open" if value else "closed")
                record.post(value)

            record.on_put = set_shutter
        if beamline.ring is not None:
            ring = beamline.ring
            current = self.records.add("Ring:Current", float(ring.current.get()), units="mA")

            async def set_current(value: float) -> None:
                ring.current.put(value)
                current.post(value)

            current.on_put = set_current

    async def show_motion(self) -> None:
        """Post readbacks of what moves, until cancelled."""
        while True:
            await asyncio.sleep(READBACK_S)
            for motor in self.motors:
                if motor.axis.moving:
                    motor.publish()

    async def _set_seed(self, value: int) -> None:
        self._beamline.stage.seed(value)
        self._beamline.detector.seed(value)
        self.records["Seed"].post(value)

    async def _set_stall(self, value: int) -> None:
        for motor in self.motors[:2]:
            motor.stalled = bool(value)
        self.records["Fault:Stage"].post(value)

    async def _set_hang(self, value: int) -> None:
        self.detector.hangs = bool(value)
        self.records["Fault:Detector"].post(value)


def serve_ioc(
    ioc: BeamlineIoc,
    protocols: tuple[Protocol, ...] = PROTOCOLS,
    *,
    interface: str = "127.0.0.1",
    ready: Callable[[], Any] = lambda: None,
) -> None:
    """Serve an IOC until SIGINT or SIGTERM.

    Ports are EPICS's, from the environment: ``EPICS_CA_SERVER_PORT`` for Channel Access, ``EPICS_PVAS_SERVER_PORT`` and
    ``EPICS_PVAS_BROADCAST_PORT`` for PV Access.

    Parameters
    ----------
    ioc:
        What is served.
    protocols:
        Channel Access, PV Access or both.
    interface:
        Address to listen on; loopback unless told.
    ready:
        Called when clients can connect.

    Raises
    ------
    ConfigurationError
        When the libraries are not there.
    """
    try:
        from ptycho_bluesky.devices.ioc._channel_access import serve_channel_access
        from ptycho_bluesky.devices.ioc._pv_access import serve_pv_access
    except ImportError as error:
        raise ConfigurationError(
            f"{error.name} is not installed; an IOC needs the extra 'epics': pip install 'ptycho-bluesky[epics]'"
        ) from error
    servers = {"ca": serve_channel_access, "pva": serve_pv_access}

    async def run() -> None:
        loop, stop = asyncio.get_running_loop(), asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        serving = (servers[name](ioc.records, interface) for name in protocols)
        tasks: list[asyncio.Future[Any]] = [
            asyncio.ensure_future(work) for work in (*serving, ioc.show_motion(), stop.wait())
        ]
        loop.call_later(0.3, ready)
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            ioc.detector.close()

    asyncio.run(run())
