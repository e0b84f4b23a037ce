"""An areaDetector's NTNDArray over pvAccess."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ptycho_bluesky.errors import SourceError
from ptycho_bluesky.stream._optional import optional
from ptycho_bluesky.stream.simulators._compress import Compression, Compressor
from ptycho_bluesky.stream.simulators._detector import Exposure

__all__ = ["PvaTransmitter"]

VALUES = {"uint8": "ubyteValue", "uint16": "ushortValue", "uint32": "uintValue"}
TYPES = {"uint8": 5, "uint16": 6, "uint32": 7}
"""pvData's numbers of scalar types, by which a codec says what was compressed."""
CONTAINER = 12
"""areaDetector sends bslz4 without the header of the HDF5 filter."""


class PvaTransmitter:
    """Serves one record; a restart takes the server down and up again.

    Parameters
    ----------
    pv:
        Name of the record. Interfaces and ports: EPICS_PVAS_INTF_ADDR_LIST and its relatives.
    compression:
        Of the frames: ``none``, ``lz4``, ``bslz4`` or ``blosc``.

    Raises
    ------
    SourceError
        When pvapy (extra ``epics``) is missing.
    """

    def __init__(self, pv: str, compression: Compression = "none") -> None:
        self.uri = f"pva://{pv}"
        self._pv, self._pva = pv, optional("pvaccess", "epics")
        self._compressor = Compressor(compression)
        self._server: Any = None
        self._made: dict[tuple[int, int], Any] = {}

    def begin(self, series: int, first: Exposure) -> None:
        """Bring a server up, its record still empty, whatever `series` it is and what `first` looks like."""
        self.close()
        self._server = self._pva.PvaServer()
        self._server.addRecord(self._pv, self._pva.NtNdArray())
        self._server.start()

    def send(self, exposure: Exposure) -> bool:
        """Update the record. Whether anybody sees it cannot be known here."""
        record = self._record(exposure)
        record["uniqueId"] = exposure.index
        fraction, whole = math.modf(exposure.time)
        record["timeStamp"] = self._pva.PvTimeStamp(int(whole), int(fraction * 1e9))
        self._server.update(self._pv, record)
        return True

    def _record(self, exposure: Exposure) -> Any:
        if not exposure.corrupt and exposure.key in self._made:
            return self._made[exposure.key]
        pva, pixels, codec = self._pva, exposure.pixels, self._compressor.compression
        name = pixels.dtype.name
        if name not in VALUES:
            raise SourceError(f"frames are {name}; a simulated areaDetector sends {', '.join(VALUES)}")
        record = pva.NtNdArray()
        record["dimension"] = [pva.PvDimension(n, 0, n, 1, False) for n in pixels.shape[::-1]]
        record["uncompressedSize"] = pixels.nbytes
        if codec == "none" and not exposure.corrupt:
            record["codec"] = pva.PvCodec("", pva.PvInt(0))
            record["compressedSize"], record["value"] = pixels.nbytes, {VALUES[name]: pixels.ravel()}
        else:
            body = self._compressor(exposure)[CONTAINER if codec == "bslz4" else 0 :]
            record["codec"] = pva.PvCodec(codec, pva.PvInt(TYPES[name]))
            record["compressedSize"], record["value"] = len(body), {"ubyteValue": np.frombuffer(body, np.uint8)}
        if not exposure.corrupt:
            self._made[exposure.key] = record
        return record

    def end(self, series: int) -> None:
        """Do nothing: pvAccess has no way to say it."""

    def close(self) -> None:
        """Take the server down."""
        if self._server is not None:
            self._server.stop()
            self._server = None
