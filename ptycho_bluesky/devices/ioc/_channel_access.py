"""Records served by Channel Access, with caproto."""

from __future__ import annotations

import asyncio
from typing import Any

import caproto
import numpy as np
from caproto.asyncio.server import Context

from ptycho_bluesky.devices.ioc._records import Record, Records

__all__ = ["serve_channel_access"]

TEXT_LENGTH = 256
"""Of long texts, as areaDetector has it."""


class _Outbox:
    """Posts of all records, sent in their order by one task: a motor's readback is out before its end is."""

    def __init__(self) -> None:
        self._waiting: asyncio.Queue[tuple[Any, Any]] = asyncio.Queue()

    def add(self, channel: Any, value: Any) -> None:
        self._waiting.put_nowait((channel, value))

    async def flushed(self) -> None:
        await self._waiting.join()

    async def run(self) -> None:
        while True:
            channel, value = await self._waiting.get()
            try:
                await channel.write(value, verify_value=False)
            finally:
                self._waiting.task_done()


class _Served:
    """The mixin that hands a client's put to the record; what the record posts then is what clients read."""

    record: Record
    outbox: _Outbox

    async def verify_value(self, value: Any) -> Any:
        if isinstance(value, list | tuple) and len(value) == 1:
            value = value[0]
        await self.record.put(value)
        await self.outbox.flushed()
        raise caproto.SkipWrite


class _Double(_Served, caproto.ChannelDouble):  # type: ignore[misc]
    pass


class _Integer(_Served, caproto.ChannelInteger):  # type: ignore[misc]
    pass


class _String(_Served, caproto.ChannelString):  # type: ignore[misc]
    pass


class _Char(_Served, caproto.ChannelChar):  # type: ignore[misc]
    async def write_from_dbr(self, data: Any, data_type: Any, metadata: Any, *, flags: int = 0) -> None:
        """Take a text as a waveform of characters, its end a zero; caproto cannot read the empty one."""
        text = np.asarray(data).tobytes().split(b"\0")[0].decode("latin-1")
        await self.write(text, flags=flags)


class _Enum(_Served, caproto.ChannelEnum):  # type: ignore[misc]
    pass


def _channel(record: Record, outbox: _Outbox) -> Any:
    value = record.value
    limits: dict[str, Any] = {}
    if record.limits is not None:
        for end, limit in zip(("lower", "upper"), record.limits, strict=True):
            limits |= {f"{end}_ctrl_limit": limit, f"{end}_disp_limit": limit}
    if record.choices:
        channel: Any = _Enum(value=record.choices[value], enum_strings=record.choices)
    elif isinstance(value, float):
        channel = _Double(value=value, units=record.units, precision=record.precision, **limits)
    elif isinstance(value, int):
        channel = _Integer(value=value, units=record.units, **limits)
    elif record.long:
        channel = _Char(value=value, max_length=TEXT_LENGTH)
    else:
        channel = _String(value=value)
    channel.record, channel.outbox = record, outbox
    shown = (lambda v: record.choices[v]) if record.choices else (lambda v: v)
    record.watchers.append(lambda v: outbox.add(channel, shown(v)))
    return channel


async def serve_channel_access(records: Records, interface: str) -> None:
    """Serve all records but images, until cancelled; the port is that of ``EPICS_CA_SERVER_PORT``."""
    outbox = _Outbox()
    served = {r.name: _channel(r, outbox) for r in records if isinstance(r.value, float | int | str)}
    sending = asyncio.ensure_future(outbox.run())
    try:
        await Context(served, [interface]).run()
    finally:
        sending.cancel()
