"""Letting go of an asynchronous device whose IOC is gone, without hiding why the scan failed."""

from __future__ import annotations

import asyncio
import logging

from ophyd_async.core import AsyncStatus, Device

from ptycho_bluesky.errors import DeviceError

__all__ = ["Released"]

logger = logging.getLogger(__name__)

RELEASE_S = 5.0
"""Seconds that an IOC has to take the end of a scan."""


class Released(Device):  # type: ignore[misc]
    """The mixin whose ``unstage`` reports an IOC that does not answer instead of failing.

    What fails in the clean-up of a plan is what the user sees; it must not stand in front of the fault that ended it.
    """

    @AsyncStatus.wrap  # type: ignore[untyped-decorator]
    async def unstage(self) -> None:
        """Return to rest."""
        try:
            await asyncio.wait_for(super().unstage().task, RELEASE_S)
        except (TimeoutError, DeviceError) as error:
            logger.error("%s was left as it is, its IOC does not answer: %s", self.name, error)
