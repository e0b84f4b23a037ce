"""areaDetector's HDF5 plugin: captures frames into files that others read while they grow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy.typing as npt

from ptycho_bluesky.devices._stream_file import FRAMES_DATASET, StreamDataset, StreamFile
from ptycho_bluesky.devices.ioc._records import Records
from ptycho_bluesky.errors import DeviceError

__all__ = ["FilePlugin", "array_records"]

COMPRESSIONS = ("None", "N-bit", "szip", "zlib", "Blosc", "BSLZ4", "LZ4", "JPEG")


def array_records(records: Records, prefix: str, port: str, frame: npt.NDArray[Any]) -> None:
    """Add what every areaDetector driver and plugin has (``NDArrayBase.template``); `frame` gives shape and type."""
    height, width = frame.shape
    kinds = ("Int8", "UInt8", "Int16", "UInt16", "Int32", "UInt32", "Int64", "UInt64", "Float32", "Float64")
    records.read_only(prefix + "PortName_RBV", port)
    records.read_only(prefix + "UniqueId_RBV", 0)
    records.add(prefix + "NDAttributesFile", "", long=True)
    sizes = {"ArraySizeX": width, "ArraySizeY": height, "ArraySizeZ": 0}
    for name, size in {**sizes, "ArraySize0": width, "ArraySize1": height, "ArraySize2": 0}.items():
        records.pair(prefix + name, size)
    records.pair(prefix + "ColorMode", 0, choices=("Mono", "Bayer", "RGB1", "RGB2", "RGB3"))
    records.pair(prefix + "DataType", [k.lower() for k in kinds].index(frame.dtype.name), choices=kinds)
    records.pair(prefix + "ArrayCounter", 0)
    records.read_only(prefix + "ADCoreVersion_RBV", "3.13")
    records.read_only(prefix + "DriverVersion_RBV", "1.0")


class FilePlugin:
    """The process variables of ``NDFileHDF5.template`` that clients use; Stream mode alone.

    Parameters
    ----------
    records, prefix:
        Where they are added, e.g. under ``"HDF1:"``.
    frame:
        (H, W) one like those to come.
    """

    def __init__(self, records: Records, prefix: str, frame: npt.NDArray[Any]) -> None:
        self._records, self._prefix, self._frame = records, prefix, frame
        self._file: StreamFile | None = None
        array_records(records, prefix, "HDF1", frame)
        for name, value in {
            "NDArrayPort": "CAM", "NDArrayAddress": 0, "QueueSize": 1000, "NumCapture": 0, "NumExtraDims": 0,
            "NumFramesChunks": 1,
        }.items():  # fmt: skip
            records.pair(prefix + name, value)
        records.pair(prefix + "EnableCallbacks", 1, choices=("Disable", "Enable"))
        for name, value in {"FileName": "frames", "FileTemplate": "%s%s.h5", "XMLFileName": ""}.items():
            records.pair(prefix + name, value, long=True)
        records.pair(prefix + "FilePath", "", long=True, on_put=self._set_path)
        records.read_only(prefix + "FilePathExists_RBV", 0, choices=("No", "Yes"))
        records.read_only(prefix + "FullFileName_RBV", "", long=True)
        records.pair(prefix + "FileNumber", 0)
        records.pair(prefix + "AutoIncrement", 1, choices=("No", "Yes"))
        records.pair(prefix + "CreateDirectory", 0)
        records.pair(prefix + "FileWriteMode", 2, choices=("Single", "Capture", "Stream"))
        records.read_only(prefix + "NumCaptured_RBV", 0)
        records.pair(prefix + "Capture", False, choices=("Done", "Capture"), on_put=self._set_capture)
        records.read_only(prefix + "WriteStatus", 0, choices=("Write OK", "Write error"))
        records.read_only(prefix + "WriteMessage", "", long=True)
        records.pair(prefix + "PositionMode", False)
        records.pair(prefix + "Compression", 0, choices=COMPRESSIONS)
        records.pair(prefix + "SWMRMode", True)
        records.pair(prefix + "ChunkSizeAuto", True, choices=("No", "Yes"))
        records.pair(prefix + "LazyOpen", False, choices=("No", "Yes"))
        records.add(prefix + "FlushNow", 0, choices=("Done", "Flush"), on_put=self._flushed)

    def write(self, frame: npt.NDArray[Any]) -> None:
        """Append a frame (H, W), where the plugin captures."""
        if self._file is None:
            return
        try:
            self._file.append({"image": frame[None]})
        except DeviceError as error:
            self._fail(str(error))
            return
        self._post("NumCaptured_RBV", self._file.written)
        self._post("ArrayCounter", self._file.written)

    def close(self) -> None:
        """Close the file."""
        file, self._file = self._file, None
        if file is not None:
            file.close()

    async def _set_path(self, path: str) -> None:
        folder = Path(path)
        if self._get("CreateDirectory") and not folder.is_dir():
            folder.mkdir(parents=True, exist_ok=True)
        self._post("FilePath", path if path.endswith("/") else path + "/")
        self._post("FilePathExists_RBV", int(folder.is_dir()))

    async def _set_capture(self, value: int) -> None:
        self.close()
        if value:
            path = self._full_name()
            self._post("FullFileName_RBV", path)
            row = self._frame
            sets = [StreamDataset("image", FRAMES_DATASET, row.shape, row.dtype.str, rows_per_chunk=1)]
            try:
                self._file = StreamFile(Path(path), sets)
            except DeviceError as error:
                self._fail(str(error))
                self._post("Capture", 0)
                raise
            self._post("NumCaptured_RBV", 0)
            self._post("WriteStatus", 0)
            if self._get("AutoIncrement"):
                self._post("FileNumber", self._get("FileNumber") + 1)
        self._post("Capture", value)

    def _full_name(self) -> str:
        template, values = self._get("FileTemplate"), (self._get("FilePath"), self._get("FileName"))
        numbered = template.count("%") > 2
        return str(template % ((*values, self._get("FileNumber")) if numbered else values))

    async def _flushed(self, value: int) -> None:
        """Every frame is flushed as it comes: nothing is left to do."""

    def _fail(self, message: str) -> None:
        self._post("WriteStatus", 1)
        self._post("WriteMessage", message[:250])

    def _get(self, name: str) -> Any:
        return self._records[self._prefix + name].value

    def _post(self, name: str, value: Any) -> None:
        self._records[self._prefix + name].post(value)
