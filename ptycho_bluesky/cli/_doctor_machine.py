"""What the machine has: disk, graphics card, clock, ports, EPICS and Jupyter's libraries."""

from __future__ import annotations

import ctypes
import email.utils
import importlib.util
import os
import socket
import time
from importlib.metadata import PackageNotFoundError, version

from ptycho_bluesky.cli._finding import Finding
from ptycho_bluesky.config import settings

__all__ = ["clock", "disk", "epics", "graphics", "notebook", "ports"]

WRITTEN = 32 << 20
SLOW_BYTES_S = 50e6
"""A disk that writes less holds up a detector of 100 frames of 512 x 512 a second."""

TIME_ERROR = 5
"""What adjtimex(2) returns where nothing keeps the clock."""

SKEW_S = 1.0
WATCH_PORT = 8060


def disk() -> Finding:
    """Measure how fast the home folder is written."""
    home = settings().home
    home.mkdir(parents=True, exist_ok=True)
    probe, block = home / f".speed-{os.getpid()}", os.urandom(1 << 20)
    try:
        began = time.perf_counter()
        with probe.open("wb") as file:
            for _ in range(WRITTEN >> 20):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
        rate = WRITTEN / (time.perf_counter() - began)
    finally:
        probe.unlink(missing_ok=True)
    text = f"{rate * 1e-6:.0f} MB/s into the home folder"
    if rate < SLOW_BYTES_S:
        return Finding("disk", "WARN", f"{text}: slow; set PTYCHO_BLUESKY_HOME to a local disk")
    return Finding("disk", "OK", text)


def graphics() -> Finding:
    """Look for graphics cards, and whether all that uses them is there."""
    import torch

    if not torch.cuda.is_available():
        return Finding("GPU", "OK", f"none; {settings().threads} CPU threads are used")
    names = ", ".join(_card(k) for k in range(torch.cuda.device_count()))
    if importlib.util.find_spec("cupy") is None:
        major = (torch.version.cuda or "12").partition(".")[0]
        return Finding(
            "GPU",
            "WARN",
            f"{names}; without CuPy reconstructions take torch: pip install 'ptycho-bluesky[cuda{major}]'",
        )
    return Finding("GPU", "OK", names)


def _card(index: int) -> str:
    import torch

    free, total = (b / 2**30 for b in torch.cuda.mem_get_info(index))
    return f"{torch.cuda.get_device_name(index)} ({free:.0f} of {total:.0f} GiB free)"


def clock() -> Finding:
    """Tell whether the clock is kept right: streams of several computers are joined by time."""
    room = ctypes.create_string_buffer(256)  # struct timex; modes = 0: it is only read
    try:
        kept = ctypes.CDLL(None).adjtimex(room) != TIME_ERROR
    except (OSError, AttributeError):
        return Finding("clock", "WARN", "cannot be looked at here")
    skew = _skew()
    if skew is not None and abs(skew) > SKEW_S:
        return Finding(
            "clock", "WARN", f"{abs(skew):.1f} s from that of the Tiled server; start chrony or ntpd on both"
        )
    if not kept:
        text = "nothing keeps it right (no NTP); start chrony or ntpd where positions are joined to frames by time"
        return Finding("clock", "WARN", text)
    return Finding(
        "clock", "OK", "kept by NTP" + ("" if skew is None else f", {abs(skew):.1f} s from the Tiled server's")
    )


def _skew() -> float | None:
    """Return by how much the configured Tiled server's clock is ahead, seconds; None where there is none."""
    import httpx

    uri = settings().tiled_uri
    if uri is None:
        return None
    try:
        date = httpx.get(uri, timeout=5.0, follow_redirects=True).headers.get("date", "")
        return email.utils.parsedate_to_datetime(date).timestamp() - time.time()
    except (httpx.HTTPError, httpx.InvalidURL, TypeError, ValueError):
        return None  # said under Tiled


def ports() -> Finding:
    """Try to listen on this machine."""
    with socket.socket() as any_port:
        any_port.bind(("127.0.0.1", 0))
    with socket.socket() as usual:
        usual.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            usual.bind(("127.0.0.1", WATCH_PORT))
        except OSError:
            return Finding("ports", "WARN", f"{WATCH_PORT} is taken; `ptycho-bluesky watch --port 0` takes another")
    return Finding("ports", "OK", f"loopback can be listened on, {WATCH_PORT} (watch) is free")


def epics() -> Finding:
    """Say which EPICS clients there are and where they look."""
    clients = {"epics": "pyepics", "caproto": "caproto", "aioca": "aioca", "p4p": "p4p", "pvaccess": "pvapy"}
    there = [name for module, name in clients.items() if importlib.util.find_spec(module) is not None]
    if not there:
        return Finding("EPICS", "OK", "no client; for EPICS devices: pip install 'ptycho-bluesky[epics]'")
    names = ("EPICS_CA_ADDR_LIST", "EPICS_CA_AUTO_ADDR_LIST", "EPICS_PVA_ADDR_LIST", "OPHYD_CONTROL_LAYER")
    told = ", ".join(f"{name}={os.environ[name]}" for name in names if name in os.environ)
    where = told or "the whole subnet is asked: EPICS_CA_ADDR_LIST narrows that"
    if os.environ.get("EPICS_CA_AUTO_ADDR_LIST", "").upper() == "NO" and not os.environ.get("EPICS_CA_ADDR_LIST"):
        return Finding("EPICS", "FAIL", "EPICS_CA_AUTO_ADDR_LIST=NO, but EPICS_CA_ADDR_LIST is empty: nobody is asked")
    return Finding("EPICS", "OK", f"{', '.join(there)}; {where}")


def notebook() -> Finding:
    """Say what there is of Jupyter."""
    found, missing = [], []
    for name in ("ipykernel", "ipywidgets", "anywidget", "jupyterlab"):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(name)
    if missing:
        how = "the dashboard in notebooks: pip install 'ptycho-bluesky[notebook]'; in browsers: ptycho-bluesky watch"
        return Finding("notebook", "OK", f"no {', '.join(missing)}. For {how}")
    return Finding("notebook", "OK", ", ".join(found))
