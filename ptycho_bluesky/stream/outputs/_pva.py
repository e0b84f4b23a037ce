"""The live image as areaDetector's NTNDArray records, for CS-Studio, ImageJ, c2dataviewer and the like."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import numpy.typing as npt

from ptycho_bluesky.stream._live_image import LiveChanges
from ptycho_bluesky.stream._optional import optional
from ptycho_bluesky.stream.outputs._mirror import Mirror

__all__ = ["PvaOutput"]


class PvaOutput:
    """Serves ``PREFIX:Phase``, ``PREFIX:Amplitude`` and ``PREFIX:Confidence``, float32 with NaN where nothing is known.

    ``uniqueId`` is the number of frames in the image. Interfaces and ports: EPICS_PVAS_INTF_ADDR_LIST etc.

    Parameters
    ----------
    prefix:
        Of the records' names.

    Raises
    ------
    SourceError
        When pvapy (extra ``epics``) is missing.
    """

    interval_s = 0.1

    def __init__(self, prefix: str) -> None:
        self._pva = optional("pvaccess", "epics")
        self._mirror = Mirror()
        self._names = {name: f"{prefix}:{name.capitalize()}" for name in ("phase", "amplitude", "confidence")}
        self._server = self._pva.PvaServer()
        for name in self._names.values():
            self._server.addRecord(name, self._pva.NtNdArray())
        self._server.start()

    def show(self, changes: LiveChanges) -> None:
        """Update the records."""
        self._mirror.take(changes)
        for name, record in self._names.items():
            self._server.update(record, self._array(self._mirror.maps[name], changes.frames))

    def _array(self, image: npt.NDArray[np.float32], frames: int) -> Any:
        pva, now = self._pva, time.time()
        made = pva.NtNdArray()
        made["codec"] = pva.PvCodec("", pva.PvInt(0))
        made["dimension"] = [pva.PvDimension(n, 0, n, 1, False) for n in image.shape[::-1]]  # the fastest first
        made["compressedSize"] = made["uncompressedSize"] = image.nbytes
        made["uniqueId"] = frames
        made["timeStamp"] = pva.PvTimeStamp(int(now), int(now % 1 * 1e9))
        made["value"] = {"floatValue": image.ravel()}
        return made

    def close(self) -> None:
        """Take the records away."""
        self._server.stop()
