"""Records served by PV Access, with p4p; images as NTNDArray."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import numpy as np
from p4p.nt import NTEnum, NTNDArray, NTScalar
from p4p.server import Server
from p4p.server.asyncio import SharedPV

from ptycho_bluesky.devices.ioc._records import Record, Records
from ptycho_bluesky.errors import DeviceError

__all__ = ["serve_pv_access"]


class _Handler:
    """Hands a client's put to the record, and answers when the record has done it."""

    def __init__(self, record: Record) -> None:
        self._record = record

    async def put(self, pv: Any, op: Any) -> None:
        value = op.value()["value"]
        try:
            await self._record.put(value["index"] if self._record.choices else value)
        except DeviceError as error:
            op.done(error=str(error))
        else:
            op.done()


def _variable(record: Record) -> Any:
    value = record.value
    if isinstance(value, np.ndarray):
        return _image(record)
    if record.choices:
        nt: Any = NTEnum()
        first: Any = nt.wrap({"index": value, "choices": list(record.choices)})

        def wrap(v: Any) -> Any:
            return nt.wrap({"index": v, "choices": list(record.choices)}, timestamp=time.time())
    else:
        code = "d" if isinstance(value, float) else "i" if isinstance(value, int) else "s"
        nt = NTScalar(code, display=True, control=True, form=code != "s")
        first = nt.wrap(value)
        if code != "s":
            first["display.units"] = record.units
            first["display.precision"] = record.precision if code == "d" else 0
            low, high = record.limits or (0, 0)
            for part in ("display", "control"):
                first[f"{part}.limitLow"], first[f"{part}.limitHigh"] = low, high

        def wrap(v: Any) -> Any:
            return nt.wrap(v, timestamp=time.time())

    pv = SharedPV(handler=_Handler(record), initial=first)
    record.watchers.append(lambda v: pv.post(wrap(v)))
    return pv


def _image(record: Record) -> Any:
    nt, numbers = NTNDArray(), iter(range(1, 2**62))
    pv = SharedPV(initial=nt.wrap(np.asarray(record.value)))

    def post(frame: Any) -> None:
        value = nt.wrap(np.asarray(frame), timestamp=time.time())
        value["uniqueId"] = next(numbers) % 2**31
        pv.post(value)

    record.watchers.append(post)
    return pv


async def serve_pv_access(records: Records, interface: str) -> None:
    """Serve all records, until cancelled; ports are those of ``EPICS_PVAS_SERVER_PORT`` and ``.._BROADCAST_PORT``."""
    variables = {record.name: _variable(record) for record in records}
    conf = {"EPICS_PVAS_INTF_ADDR_LIST": interface, "EPICS_PVAS_AUTO_BEACON_ADDR_LIST": "NO"}
    with Server(providers=[variables], conf={**conf, "EPICS_PVAS_BEACON_ADDR_LIST": interface}, useenv=True):
        await asyncio.Event().wait()
