"""Waiting for classic statuses in an event loop."""

from __future__ import annotations

import asyncio
from typing import Any

__all__ = ["ended"]


async def ended(status: Any) -> None:
    """Wait for an ophyd status, done or failed; look at the status to know which."""
    loop, over = asyncio.get_running_loop(), asyncio.Event()
    status.add_callback(lambda _: loop.call_soon_threadsafe(over.set))
    await over.wait()
