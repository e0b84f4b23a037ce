"""areaDetector with ophyd-async, by Channel Access or PV Access, named as the classic one."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ophyd_async.core import (
    DetectorTriggerLogic,
    SignalR,
    SignalRW,
    StaticPathProvider,
    StreamableDataProvider,
    StrictEnum,
    TriggerInfo,
)
from ophyd_async.epics.adcore import (
    ADAcquireLogic,
    ADBaseIO,
    ADHDFDataLogic,
    ADWriterFactory,
    AreaDetector,
    NDArrayDescription,
    NDFileHDF5IO,
    prepare_exposures,
)
from ophyd_async.epics.core import epics_signal_r, epics_signal_rw_rbv

from ptycho_bluesky.devices.epics._async_release import Released
from ptycho_bluesky.devices.epics._client import need_protocol
from ptycho_bluesky.devices.epics._detector import ANSWER_S
from ptycho_bluesky.errors import DeviceError

__all__ = ["AsyncEpicsDetector", "AsyncEpicsEiger"]


class EigerSource(StrictEnum):  # type: ignore[misc]
    """Where ADEiger's driver takes frames from."""

    NONE = "None"
    FILE_WRITER = "FileWriter"
    STREAM = "Stream"


@dataclass
class _Trigger(DetectorTriggerLogic):  # type: ignore[misc]
    """Exposures timed by the detector, or begun by a trigger from outside, e.g. of a flyer."""

    driver: ADBaseIO
    mode: SignalRW[str]

    async def prepare_internal(self, num: int, livetime: float, deadtime: float) -> None:
        await self._choose("Internal")
        await prepare_exposures(self.driver, num, livetime, deadtime)

    async def prepare_edge(self, num: int, livetime: float) -> None:
        await self._choose("External")
        await prepare_exposures(self.driver, num, livetime)

    async def default_trigger_info(self) -> TriggerInfo:
        return TriggerInfo()

    async def _choose(self, mode: str) -> None:
        """Set the driver's own mode, which begins so: each driver has other names."""
        key = next(iter((await self.mode.describe()).values()))
        fitting = [choice for choice in key.get("choices", []) if choice.startswith(mode)]
        if not fitting:
            raise DeviceError(f"{self.mode.source} has no mode that begins with {mode!r}: {key.get('choices')}")
        await self.mode.set(fitting[0])


@dataclass
class _EigerTrigger(_Trigger):
    """ADEiger counts series: as many triggers as frames, one frame each, or one trigger for all."""

    triggers: SignalRW[int]

    async def prepare_internal(self, num: int, livetime: float, deadtime: float) -> None:
        await self.triggers.set(1)
        await super().prepare_internal(num, livetime, deadtime)

    async def prepare_edge(self, num: int, livetime: float) -> None:
        await self.triggers.set(num)
        await super().prepare_edge(1, livetime)


class _Files(ADHDFDataLogic):  # type: ignore[misc]
    datakey_suffix = "_image"


class AsyncEpicsDetector(Released, AreaDetector[ADBaseIO]):  # type: ignore[misc]
    """Any areaDetector with an HDF5 plugin; its frames are the data key ``detector_image``, in the plugin's file.

    It is stepped, and flown with triggers from outside (``prepare`` with EXTERNAL_EDGE).

    Parameters
    ----------
    prefix:
        Before ``cam1:`` and ``HDF1:``, with the protocol: ``"ca://BL:"`` or ``"pva://BL:"``.
    folder:
        Where the plugin writes; the same path here and on the IOC's machine.
    answer_s:
        Seconds by which a frame may come later than its exposure says, before it fails with a DeviceError.
    """

    def __init__(self, prefix: str, *, folder: Path | str, answer_s: float = ANSWER_S, name: str = "detector") -> None:
        need_protocol(prefix)
        self._answer_s = answer_s
        self.trigger_mode = epics_signal_rw_rbv(str, prefix + "cam1:TriggerMode")
        files = StaticPathProvider(_unique, Path(folder))
        driver = self._driver(prefix + "cam1:")

        def logic(writer: NDFileHDF5IO, frame: NDArrayDescription, driver: ADBaseIO, plugins: object) -> _Files:
            return _Files(frame, files, writer, driver, datakey_suffix="_image")

        writer = ADWriterFactory(NDFileHDF5IO, "HDF1:", "hdf", "_image", None, logic)
        super().__init__(
            driver,
            prefix,
            writer,
            acquire_logic=ADAcquireLogic(driver),
            trigger_logic=self._triggers(driver),
            config_sigs=[driver.manufacturer, driver.model, *self._settings()],
            name=name,
        )

    def set_name(self, name: str, *, child_name_separator: str | None = "_") -> None:
        """Name the detector and its signals."""
        super().set_name(name, child_name_separator=child_name_separator or "_")

    def _driver(self, prefix: str) -> ADBaseIO:
        return ADBaseIO(prefix)

    def _triggers(self, driver: ADBaseIO) -> DetectorTriggerLogic:
        return _Trigger(driver, self.trigger_mode)

    def _settings(self) -> list[SignalR[float]]:
        return []

    async def _wait_for_index(
        self, data_providers: Sequence[StreamableDataProvider], trigger_info: TriggerInfo, *args: Any, **kwargs: Any
    ) -> AsyncIterator[Any]:
        patience = trigger_info.livetime + trigger_info.deadtime + self._answer_s
        info = trigger_info.model_copy(update={"exposure_timeout": patience})
        try:
            async for update in super()._wait_for_index(data_providers, info, *args, **kwargs):
                yield update
        except TimeoutError as error:
            raise DeviceError(
                f"{self.name} gave no frame in {patience:.1f} s: {self.driver.acquire.source} was set; look at the "
                "detector and its trigger, and whether the IOC runs; what was measured so far is kept"
            ) from error


class AsyncEpicsEiger(AsyncEpicsDetector):
    """An Eiger by ADEiger: internal or external series, frames by its stream to the HDF5 plugin."""

    def _driver(self, prefix: str) -> ADBaseIO:
        self.data_source = epics_signal_rw_rbv(EigerSource, prefix + "DataSource")
        self.num_triggers = epics_signal_rw_rbv(int, prefix + "NumTriggers")
        self.photon_energy = epics_signal_rw_rbv(float, prefix + "PhotonEnergy")
        self.threshold_energy = epics_signal_rw_rbv(float, prefix + "ThresholdEnergy")
        self.count_cutoff = epics_signal_r(int, prefix + "CountCutoff_RBV")
        return ADBaseIO(prefix)

    def _triggers(self, driver: ADBaseIO) -> DetectorTriggerLogic:
        return _EigerTrigger(driver, self.trigger_mode, self.num_triggers)

    def _settings(self) -> list[SignalR[float]]:
        return [self.photon_energy, self.threshold_energy]

    async def tune(self, energy_kev: float) -> None:
        """Set the photon energy, and the threshold to half of it."""
        await self.photon_energy.set(energy_kev * 1e3)
        await self.threshold_energy.set(energy_kev * 500.0)


def _unique(device_name: str | None = None) -> str:
    return f"{device_name or 'detector'}-{uuid.uuid4().hex[:12]}"
