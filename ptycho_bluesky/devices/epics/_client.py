"""Connecting to EPICS, and saying by name what does not answer."""

from __future__ import annotations

import importlib.util
import inspect
import time
from collections.abc import Iterator
from typing import Any

import ophyd
from bluesky.run_engine import call_in_bluesky_event_loop, get_bluesky_event_loop

from ptycho_bluesky.errors import ConfigurationError, DeviceError

__all__ = ["connect_devices", "need_client", "need_protocol", "variables_without_answer"]

CONNECT_S = 5.0
"""Seconds within which all process variables have to answer."""

MOST_NAMED = 8
"""Process variables that an error names; of more it tells the number."""


def need_client() -> None:
    """Raise ConfigurationError where ophyd has no EPICS client: classic devices would never connect."""
    layer = ophyd.get_cl().name
    if layer == "dummy":
        raise ConfigurationError(
            "ophyd runs without an EPICS client (its layer is 'dummy'): set OPHYD_CONTROL_LAYER to caproto or pyepics "
            "before Python starts, or take the asynchronous devices"
        )


def need_protocol(prefix: str) -> None:
    """Raise ConfigurationError where the library for a prefix's protocol is not installed."""
    library = {"ca": "aioca", "pva": "p4p"}.get(prefix.split("://")[0] if "://" in prefix else "pva")
    if library is None:
        raise ConfigurationError(f"{prefix!r} has an unknown protocol; allowed are ca:// and pva://")
    if importlib.util.find_spec(library) is None:
        raise ConfigurationError(
            f"{library} is not installed, which {prefix!r} needs: pip install 'ptycho-bluesky[epics]'"
        )


def variables_without_answer(device: Any) -> list[str]:
    """Return the names of the process variables of a classic device that are not connected."""
    names: list[str] = []
    for item in device.walk_signals(include_lazy=False):
        signal = item.item
        if not signal.connected:
            names += [pv for pv in (getattr(signal, "setpoint_pvname", None), getattr(signal, "pvname", None)) if pv]
    return sorted(set(names))


def connect_devices(*devices: Any, timeout_s: float = CONNECT_S) -> None:
    """Wait until all devices, classic or asynchronous, are connected.

    Asynchronous ones need a RunEngine, whose event loop they live in.

    Raises
    ------
    DeviceError
        Naming every process variable that did not answer within `timeout_s` seconds.
    """
    missing: list[str] = []
    deadline = time.monotonic() + timeout_s
    for device in devices:
        if inspect.iscoroutinefunction(getattr(type(device), "connect", None)):
            missing += _connect_asynchronous(device, timeout_s)
            continue
        while (names := variables_without_answer(device)) and time.monotonic() < deadline:
            time.sleep(0.02)
        missing += names
    if missing:
        named = ", ".join(missing[:MOST_NAMED]) + (
            f" and {len(missing) - MOST_NAMED} more" * (len(missing) > MOST_NAMED)
        )
        raise DeviceError(
            f"no answer from {named} within {timeout_s:g} s: is the IOC running, is the prefix right, and do "
            "EPICS_CA_ADDR_LIST or EPICS_PVA_ADDR_LIST lead there?"
        )


def _connect_asynchronous(device: Any, timeout_s: float) -> list[str]:
    from ophyd_async.core import NotConnectedError

    if get_bluesky_event_loop() is None:
        raise ConfigurationError(f"{device.name} is asynchronous and needs a RunEngine: make that first")

    async def connect() -> None:
        await device.connect(timeout=timeout_s, force_reconnect=True)

    try:
        call_in_bluesky_event_loop(connect(), timeout=timeout_s + 5)
    except NotConnectedError as error:
        return sorted(set(_leaves(error)))
    except TimeoutError:
        return [f"{device.name} (all of it)"]
    return []


def _leaves(error: Any) -> Iterator[str]:
    """Yield the process variables in ophyd-async's tree of errors."""
    inner = getattr(error, "sub_errors", None) or getattr(error, "_errors", None)
    if isinstance(inner, dict):
        for each in inner.values():
            yield from _leaves(each)
    else:
        yield str(inner if isinstance(inner, str) else error).split("://")[-1]
