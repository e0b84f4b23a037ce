"""areaDetector by Channel Access (classic ophyd): frames go to the HDF5 plugin's file, documents tell which."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ptycho_bluesky.devices import _control_layer  # noqa: F401, before ophyd: it decides on ophyd's control layer

# isort: split
from ophyd import Component, Device, EpicsSignal, EpicsSignalRO
from ophyd.areadetector import EpicsSignalWithRBV
from ophyd.status import DeviceStatus
from ophyd.utils import DisconnectedError

from ptycho_bluesky.devices._alarm import ALARM
from ptycho_bluesky.devices._stream_file import FRAMES_DATASET, StreamDataset, StreamDocuments
from ptycho_bluesky.devices.epics._client import need_client, variables_without_answer
from ptycho_bluesky.errors import DeviceError

__all__ = ["EpicsDetector", "EpicsEiger"]

ANSWER_S = 10.0
"""Seconds by which a frame may come later than its exposure says."""

LOOK_S = 0.002
"""Between two looks whether a setting is taken."""

ASK_S = 0.5
"""Seconds within which a question has to be answered."""

PUT_S = 5.0
"""Seconds within which a setting has to be taken."""


class EpicsDetector(Device):  # type: ignore[misc]
    """Any areaDetector with an HDF5 plugin, by few process variables: those of every driver.

    Its frames are the data key ``detector_image``, in the plugin's file: ``stage`` opens it, ``trigger`` takes one
    frame and ends when that is written, ``unstage`` closes it. A frame that does not come in time fails the trigger
    with a DeviceError that names the process variables.

    Parameters
    ----------
    prefix:
        Before ``cam1:`` and ``HDF1:``.
    folder:
        Where the plugin writes; the same path here and on the IOC's machine.
    answer_s:
        Seconds by which a frame may come later than its exposure says.
    """

    acquire = Component(EpicsSignalWithRBV, "cam1:Acquire", kind="omitted")
    exposure_time = Component(EpicsSignalWithRBV, "cam1:AcquireTime", kind="config")
    num_images = Component(EpicsSignalWithRBV, "cam1:NumImages", kind="omitted")
    image_mode = Component(EpicsSignalWithRBV, "cam1:ImageMode", kind="omitted")
    state = Component(EpicsSignalRO, "cam1:DetectorState_RBV", string=True, kind="omitted")
    message = Component(EpicsSignalRO, "cam1:StatusMessage_RBV", string=True, kind="omitted")
    height = Component(EpicsSignalRO, "cam1:ArraySizeY_RBV", kind="omitted")
    width = Component(EpicsSignalRO, "cam1:ArraySizeX_RBV", kind="omitted")
    data_type = Component(EpicsSignalRO, "cam1:DataType_RBV", string=True, kind="omitted")
    manufacturer = Component(EpicsSignalRO, "cam1:Manufacturer_RBV", string=True, kind="config")
    model = Component(EpicsSignalRO, "cam1:Model_RBV", string=True, kind="config")
    callbacks = Component(EpicsSignalWithRBV, "HDF1:EnableCallbacks", kind="omitted")
    file_path = Component(EpicsSignal, "HDF1:FilePath", string=True, kind="omitted")
    path_exists = Component(EpicsSignalRO, "HDF1:FilePathExists_RBV", kind="omitted")
    file_name = Component(EpicsSignal, "HDF1:FileName", string=True, kind="omitted")
    template = Component(EpicsSignal, "HDF1:FileTemplate", string=True, kind="omitted")
    write_mode = Component(EpicsSignalWithRBV, "HDF1:FileWriteMode", kind="omitted")
    num_capture = Component(EpicsSignalWithRBV, "HDF1:NumCapture", kind="omitted")
    captured = Component(EpicsSignalRO, "HDF1:NumCaptured_RBV", kind="omitted", auto_monitor=True)
    capture = Component(EpicsSignalWithRBV, "HDF1:Capture", kind="omitted")
    swmr = Component(EpicsSignalWithRBV, "HDF1:SWMRMode", kind="omitted")
    write_error = Component(EpicsSignalRO, "HDF1:WriteMessage", string=True, kind="omitted")

    def __init__(
        self, prefix: str = "", *, name: str = "detector", folder: Path | str, answer_s: float = ANSWER_S, **kwargs: Any
    ) -> None:
        need_client()
        self.folder, self.answer_s = Path(folder), answer_s
        self._documents: StreamDocuments | None = None
        self._written, self._wanted = 0, 0
        self._status: Any = None
        super().__init__(prefix, name=name, **kwargs)
        self.captured.subscribe(self._count)

    @property
    def image_key(self) -> str:
        """Data key of the frames."""
        return f"{self.name}_image"

    def stage(self) -> list[object]:
        """Open a new file, and get ready for single frames.

        Raises
        ------
        DeviceError
            When the folder is not there for the IOC, or a setting is not taken.
        """
        file = f"{time.strftime('%Y%m%d-%H%M%S')}-{self.name}-{uuid.uuid4().hex[:8]}"
        settings = [
            (self.acquire, 0), (self.capture, 0), (self.image_mode, 0), (self.num_images, 1), (self.callbacks, 1),
            (self.write_mode, 2), (self.num_capture, 0), (self.swmr, 1), (self.file_path, f"{self.folder}/"),
            (self.file_name, file), (self.template, "%s%s.h5"),
        ]  # fmt: skip
        for signal, value in settings:
            self._put(signal, value)
        if not self.path_exists.get():
            raise DeviceError(f"{self.name}: {self.folder} is not there for the IOC ({self.path_exists.pvname} is 0)")
        self._put(self.capture, 1)
        self._written = int(self.captured.get(use_monitor=False))
        self._documents = StreamDocuments(self.folder / f"{file}.h5", [self._dataset()])
        return list(super().stage())

    def trigger(self) -> DeviceStatus:
        """Take a frame; the status is done when it is written."""
        status = DeviceStatus(self)
        self._status, self._wanted = status, self._written + 1
        patience = float(self.exposure_time.get()) + self.answer_s
        self.acquire.put(1, wait=False)
        ALARM.after(patience, lambda: self._give_up(status, patience))
        return status

    def unstage(self) -> list[object]:
        """Stop what is in progress, and close the file."""
        for signal in (self.acquire, self.capture):
            if signal.connected:
                signal.put(0, wait=False)
        self._documents, self._status = None, None
        return list(super().unstage())

    def stop(self, *, success: bool = False) -> None:
        """Stop the exposure; frames that were written stay valid."""
        if self.acquire.connected:
            self.acquire.put(0, wait=False)

    def describe(self) -> dict[str, Any]:
        """Return the data key of the frames."""
        return {**super().describe(), self.image_key: self._dataset().data_key(f"PV:{self.prefix}HDF1:")}

    @property
    def hints(self) -> dict[str, list[str]]:
        """Nothing to plot: frames lie in a file."""
        return {"fields": []}

    def get_index(self) -> int:
        """Return how many frames were written since ``stage``."""
        return 0 if self._documents is None else self._written

    def collect_asset_docs(self, index: int | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield ``stream_resource`` and ``stream_datum`` documents of the frames up to `index`."""
        if self._documents is None:
            return iter(())
        return self._documents.upto(self.get_index() if index is None else index)

    def _dataset(self) -> StreamDataset:
        shape = (int(self.height.get()), int(self.width.get()))
        dtype = np.dtype(str(self.data_type.get()).lower()).str
        return StreamDataset(self.image_key, FRAMES_DATASET, shape, dtype, "photons", rows_per_chunk=1)

    def _put(self, signal: Any, value: Any) -> None:
        try:
            signal.put(value, wait=False)
            deadline = time.monotonic() + PUT_S
            while (now := signal.get()) != value:
                if time.monotonic() > deadline:
                    raise DeviceError(f"{signal.setpoint_pvname} was set to {value!r}, but stays {now!r}")
                time.sleep(LOOK_S)
        except (TimeoutError, DisconnectedError) as error:
            raise DeviceError(f"{signal.setpoint_pvname} does not answer: is the IOC running?") from error

    def _count(self, value: Any, **_: Any) -> None:
        """Take note of what the plugin has written."""
        self._written = int(value)
        if self._status is not None and self._written >= self._wanted:
            status, self._status = self._status, None
            status.set_finished()

    def _give_up(self, status: Any, seconds: float) -> None:
        if self._status is not status:
            return
        if self.captured.connected:
            with contextlib.suppress(TimeoutError, DisconnectedError):  # a monitor that was just restored may miss it
                self._count(self.captured.get(use_monitor=False, timeout=ASK_S))
        if self._status is status:
            self._status = None
            status.set_exception(DeviceError(self._complaint(seconds)))

    def _complaint(self, seconds: float) -> str:
        lost = variables_without_answer(self)
        if lost:
            reason = f"{', '.join(lost[:3])} do not answer any more: is the IOC running?"
        else:
            said = "; ".join(text for text in (self.message.get(), self.write_error.get()) if text) or "nothing"
            reason = f"{self.prefix}cam1: is in state {self.state.get()} and says {said}"
            self.acquire.put(0, wait=False)
        return (
            f"{self.name} gave no frame {self._wanted} in {seconds:.1f} s; {reason}; look at the detector and its "
            "trigger, what was measured so far is kept"
        )


class EpicsEiger(EpicsDetector):
    """An Eiger by ADEiger: one internally timed frame for each trigger, frames by its stream to the HDF5 plugin."""

    trigger_mode = Component(EpicsSignalWithRBV, "cam1:TriggerMode", kind="omitted")
    num_triggers = Component(EpicsSignalWithRBV, "cam1:NumTriggers", kind="omitted")
    data_source = Component(EpicsSignalWithRBV, "cam1:DataSource", kind="omitted")
    photon_energy = Component(EpicsSignalWithRBV, "cam1:PhotonEnergy", kind="config")
    threshold_energy = Component(EpicsSignalWithRBV, "cam1:ThresholdEnergy", kind="config")
    count_cutoff = Component(EpicsSignalRO, "cam1:CountCutoff_RBV", kind="config")

    def stage(self) -> list[object]:
        """Open a new file; internal series of one frame, data by stream."""
        for signal, value in ((self.trigger_mode, 0), (self.num_triggers, 1), (self.data_source, 2)):
            self._put(signal, value)
        return super().stage()

    def tune(self, energy_kev: float) -> None:
        """Set the photon energy, and the threshold to half of it."""
        self._put(self.photon_energy, energy_kev * 1e3)
        self._put(self.threshold_energy, energy_kev * 500.0)
