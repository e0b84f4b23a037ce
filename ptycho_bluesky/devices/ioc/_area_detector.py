"""An areaDetector driver in front of a simulated or replayed detector, with its HDF5 plugin and its PVA image."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np

from ptycho_bluesky.devices._await import ended
from ptycho_bluesky.devices._detector import FrameDetector
from ptycho_bluesky.devices.ioc._file_plugin import FilePlugin, array_records
from ptycho_bluesky.devices.ioc._records import Records
from ptycho_bluesky.errors import DeviceError

__all__ = ["AreaDetector"]

STATES = (
    "Idle", "Acquire", "Readout", "Correct", "Saving", "Aborting", "Error", "Waiting", "Initializing", "Disconnected",
    "Aborted",
)  # fmt: skip

TRIGGERS = {
    "generic": ("Internal", "External"),
    "eiger": ("Internal Series", "Internal Enable", "External Series", "External Enable"),
}
"""Trigger modes by kind of driver."""

EXTERNAL = {"generic": (1,), "eiger": (2, 3)}
"""Those of them in which each frame waits for a trigger."""

READOUT_S = 0.005
"""That a driver is busy after the last frame, however short the exposure."""

HANG_CHECK_S = 0.05
"""Between two looks at a detector that hangs, whether it was told to stop."""


class AreaDetector:
    """``cam1:`` (ADBase), ``HDF1:`` (NDFileHDF5) and ``Pva1:Image`` (NTNDArray).

    A put to Acquire ends when all frames are taken and written. Each frame is exposed where the stage is then; in an
    external trigger mode for each put to ``cam1:Trigger``, which stands for the trigger's cable.

    Parameters
    ----------
    records:
        Where the process variables are added.
    detector:
        What exposes.
    kind:
        ``"generic"``, or ``"eiger"`` with the triggers and thresholds of ADEiger's driver.
    """

    def __init__(self, records: Records, detector: FrameDetector, kind: str = "generic") -> None:
        self._records, self.detector, self._kind = records, detector, kind
        self.hangs = False
        """True: the next acquisition takes no frame and never ends, until it is told to stop."""
        self._task: asyncio.Task[None] | None = None
        self._edges = asyncio.Queue[int]()
        frame = detector.image.get()
        cam = "cam1:"
        array_records(records, cam, "CAM", frame)
        exposure = float(getattr(detector, "exposure_time", _Fixed(0.01)).get())
        records.pair(cam + "AcquireTime", exposure, units="s", precision=6, on_put=self._set_exposure)
        records.pair(cam + "AcquirePeriod", exposure, units="s", precision=6)
        records.pair(cam + "NumImages", 1)
        records.pair(cam + "ImageMode", 0, choices=("Single", "Multiple", "Continuous"))
        records.pair(cam + "TriggerMode", 0, choices=TRIGGERS[kind])
        records.add(cam + "Trigger", 0, on_put=self._set_trigger)
        records.read_only(cam + "DetectorState_RBV", 0, choices=STATES)
        records.pair(cam + "Acquire", False, choices=("Done", "Acquire"), on_put=self._set_acquire)
        records.add(cam + "WaitForPlugins", False, choices=("No", "Yes"))
        records.pair(cam + "ArrayCallbacks", 1, choices=("Disable", "Enable"))
        records.read_only(cam + "NumImagesCounter_RBV", 0)
        records.read_only(cam + "StatusMessage_RBV", "", long=True)
        maker = {"Manufacturer": "Simulated", "Model": "areaDetector", "SerialNumber": "0"}
        if kind == "eiger":
            maker = {"Manufacturer": "DECTRIS", "Model": "EIGER (simulated)", "SerialNumber": "E-00-0000"}
            self._add_eiger(records, cam)
        for name, text in {**maker, "SDKVersion": "1.0", "FirmwareVersion": "1.0"}.items():
            records.read_only(cam + name + "_RBV", text)
        self.plugin = FilePlugin(records, "HDF1:", frame)
        self._image = records.image("Pva1:Image", frame)

    def close(self) -> None:
        """Take no more frames, and close the file."""
        if self._task is not None:
            self._task.cancel()
        self.plugin.close()

    def _add_eiger(self, records: Records, cam: str) -> None:
        saturation = getattr(self.detector, "saturation", None) or int(np.iinfo(self.detector.image.get().dtype).max)
        records.pair(cam + "PhotonEnergy", 8800.0, units="eV")
        records.pair(cam + "ThresholdEnergy", 4400.0, units="eV")
        records.pair(cam + "NumTriggers", 1)
        records.pair(cam + "ManualTrigger", False, choices=("No", "Yes"))
        records.pair(cam + "DataSource", 2, choices=("None", "FileWriter", "Stream"))
        records.pair(cam + "OmegaStart", 0.0, units="deg")
        records.read_only(cam + "Armed", 0, choices=("No", "Yes"))
        records.read_only(cam + "CountCutoff_RBV", int(saturation))

    async def _set_exposure(self, value: float) -> None:
        if not value > 0:
            raise DeviceError(f"AcquireTime was set to {value}; allowed is above 0 s")
        signal = getattr(self.detector, "exposure_time", None)
        if signal is not None:
            signal.put(value)
        self._post("AcquireTime", value)

    async def _set_trigger(self, value: int) -> None:
        self._edges.put_nowait(value)

    async def _set_acquire(self, value: int) -> None:
        if not value:
            if self._task is not None:
                self._task.cancel()
            self._finish("Aborted")
            return
        if self._get("Acquire"):
            return
        self._post("Acquire", 1)
        self._post("NumImagesCounter_RBV", 0)
        self._state("Acquire")
        task = self._task = asyncio.ensure_future(self._acquire())
        await asyncio.wait({task})  # of its own: the end of this put must not be taken for that of the frames
        if task.cancelled():
            return  # by Acquire = 0, which has told the end
        error = task.exception()
        self._finish("Error" if error else "Idle")
        if error is not None:
            self._post("StatusMessage_RBV", str(error)[:250])
            raise error

    async def _acquire(self) -> None:
        mode, taken = self._get("ImageMode"), 0
        wanted = 1 if mode == 0 else self._get("NumImages") if mode == 1 else None
        if wanted is not None and self._kind == "eiger":
            wanted *= self._get("NumTriggers")
        external = self._get("TriggerMode") in EXTERNAL[self._kind]
        self._edges = asyncio.Queue()
        while wanted is None or taken < wanted:
            if external:
                await self._edges.get()
            while self.hangs:
                await asyncio.sleep(HANG_CHECK_S)
            await self._take()
            taken += 1
            self._post("NumImagesCounter_RBV", taken)
        await asyncio.sleep(READOUT_S)

    async def _take(self) -> None:
        status: Any = self.detector.trigger()
        await ended(status)
        if not status.success:
            raise DeviceError(str(status.exception()))
        frame = self.detector.image.get()
        number = self._get("ArrayCounter") + 1
        self.plugin.write(frame)
        self._image.post(frame)
        self._post("UniqueId_RBV", number)
        self._post("ArrayCounter", number)

    def _finish(self, state: str) -> None:
        self._state(state)
        self._post("Acquire", 0)

    def _state(self, state: str) -> None:
        self._post("DetectorState_RBV", STATES.index(state))

    def _get(self, name: str) -> Any:
        return self._records["cam1:" + name].value

    def _post(self, name: str, value: Any) -> None:
        self._records["cam1:" + name].post(value)


class _Fixed:
    """The exposure of a detector that has none to set."""

    def __init__(self, value: float) -> None:
        self._value = value

    def get(self) -> float:
        return self._value
