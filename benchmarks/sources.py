"""How fast frames arrive: each source at full speed over loopback, beside its transport's bare loop and a plain copy.

``python benchmarks/sources.py`` prints one JSON object: for frames of 512x512 uint16 (simulated diffraction patterns of
1e6 photons), from a simulated detector in another process. ``source``: frames a second through ``open_source``, that
is checked, decompressed and queued. ``bare``: the same messages taken off the transport and thrown away. Processor time
is that of the receiving process, which shares its cores with the sender. pvAccess has no back-pressure, so it is
measured at given rates too, with the frames that its monitor lost.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

SIZE, PATTERNS, PHOTONS = 512, 16, 1e6
QUIET_S = 1.5
KINDS = {
    "ring": ("ring", "none"),
    "hdf5-bslz4": ("hdf5", "bslz4"),
    "hdf5-none": ("hdf5", "none"),
    "eiger-cbor-bslz4": ("cbor", "bslz4"),
    "eiger-json-bslz4": ("json", "bslz4"),
    "eiger-json-lz4": ("json", "lz4"),
    "eiger-json-none": ("json", "none"),
    "pva-none": ("pva", "none"),
    "pva-bslz4": ("pva", "bslz4"),
}


def loopback() -> None:
    """Keep pvAccess on loopback and on ports of its own; before pvaccess is imported."""
    chosen = {"EPICS_PVA_ADDR_LIST": "127.0.0.1", "EPICS_PVA_AUTO_ADDR_LIST": "NO"}
    chosen |= {"EPICS_PVAS_INTF_ADDR_LIST": "127.0.0.1", "EPICS_PVAS_BEACON_ADDR_LIST": "127.0.0.1"}
    for side in ("PVA", "PVAS"):
        chosen |= {f"EPICS_{side}_SERVER_PORT": "25075", f"EPICS_{side}_BROADCAST_PORT": "25076"}
    for name, value in chosen.items():
        os.environ.setdefault(name, value)


def send(kind: str, compression: Any, address: str, frames: int, rate: float) -> None:
    """Be the detector: send `frames` frames, as a process of its own."""
    from ptycho_bluesky.stream import simulators as s

    patterns = s.simulated_patterns(PATTERNS, SIZE, photons=PHOTONS)
    detector: Any
    if kind == "ring":
        detector = s.RingTransmitter(address, capacity_mb=64, patience_s=10)
    elif kind == "hdf5":
        detector = s.Hdf5Transmitter(Path(address), compression)
    elif kind == "pva":
        detector = s.PvaTransmitter(address, compression)
    else:
        detector = s.EigerTransmitter(int(address), kind, compression, buffered=200)  # type: ignore[arg-type]
    detector.begin(0, s.Exposure(0, time.time(), patterns[0], (0, 0)))
    time.sleep(2.0 if kind in ("pva", "ring") else 0.0)
    began, processor = time.perf_counter(), time.process_time()
    for k in range(frames):
        if rate and (left := began + k / rate - time.perf_counter()) > 0:
            time.sleep(left)
        detector.send(s.Exposure(k, time.time(), patterns[k % PATTERNS], (k % PATTERNS, 0)))
    took, busy = time.perf_counter() - began, time.process_time() - processor
    detector.end(0)
    if kind == "pva":
        time.sleep(QUIET_S)
    detector.close()
    print(json.dumps({"sent_per_second": round(frames / took), "sender_processor": round(busy / took, 2)}))


def through_source(uri: str) -> tuple[int, float, dict[str, Any]]:
    """Return frames received, seconds from the first to the last, and the source's counts."""
    from ptycho_bluesky.stream.sources import SourceEnded, open_source

    got, first, last = 0, None, time.perf_counter() + 20
    with open_source(uri) as source:
        while time.perf_counter() < last + QUIET_S:
            try:
                new = source.read(0.1)
            except SourceEnded:
                break
            if new:
                last = time.perf_counter()
                if first is None:  # the first batch starts the clock
                    first = last
                else:
                    got += len(new)
        return got, last - (first or 0.0), source.counts.to_dict()


def bare(kind: str, uri: str, address: str) -> tuple[int, float, dict[str, Any]]:
    """Do as :func:`through_source` does, with nothing but the transport."""
    stamps: list[float] = []
    lost = 0
    if kind == "ring":
        from ptycho_bluesky.errors import PtychoError
        from ptycho_bluesky.stream import FrameRing

        while True:
            try:
                ring = FrameRing.attach(address)
                break
            except (PtychoError, ValueError, FileNotFoundError):
                time.sleep(0.02)
        ring.become_consumer()
        while ring.wait(QUIET_S if stamps else 20.0):
            stamps += [time.perf_counter() for record in ring.take(32) if record.frame is not None]
            ring.commit()
        ring.close()
    elif kind == "hdf5":
        import h5py

        with h5py.File(address, "r") as file:
            data = file["/entry/data/data"]
            for row in range(len(data)):
                data.id.read_direct_chunk((row, 0, 0))
                stamps.append(time.perf_counter())
    elif kind == "pva":
        import pvaccess

        numbers: list[int] = []

        def count(update: Any) -> None:
            if update["value"][0]:
                numbers.append(update["uniqueId"])
                stamps.append(time.perf_counter())

        channel, end = pvaccess.Channel(address), time.perf_counter() + 20
        channel.subscribe("count", count)
        channel.startMonitor("record[queueSize=100]field()")
        while time.perf_counter() < (stamps[-1] + QUIET_S if stamps else end):
            time.sleep(0.05)
        channel.stopMonitor()
        lost = numbers[-1] - numbers[0] + 1 - len(numbers)
    else:
        import zmq

        context = zmq.Context()
        socket = context.socket(zmq.PULL)
        socket.connect(uri.replace("eiger", "tcp"))
        while socket.poll(20_000 if not stamps else int(QUIET_S * 1000)):
            socket.recv_multipart(copy=False)
            stamps.append(time.perf_counter())
        context.destroy(linger=0)
    return len(stamps), stamps[-1] - stamps[0], {"dropped": lost}


def preload(kind: str) -> None:
    """Import what the receiver needs, so that this is not measured."""
    import importlib

    for module in ("ptycho_bluesky.stream.sources", "h5py", "zmq", "cbor2", "dectris.compression", "blosc2"):
        importlib.import_module(module)
    if kind == "pva":
        importlib.import_module("pvaccess")


def free_port() -> int:
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def measure(name: str, frames: int, rate: float, how: str, folder: Path) -> dict[str, Any]:
    kind, compression = KINDS[name]
    port = free_port()
    address = {"ring": f"bench-{uuid.uuid4().hex}", "pva": "bench:Image", "hdf5": str(folder / f"{name}.h5")}.get(
        kind, str(port)
    )
    uri = {"ring": f"ring://{address}", "pva": f"pva://{address}", "hdf5": f"hdf5://{address}#/entry/data/data"}.get(
        kind, f"eiger://127.0.0.1:{port}"
    )
    sender = None
    if kind != "hdf5" or not Path(address).exists():
        command = [sys.executable, __file__, "--send", kind, compression, address, str(frames), str(rate)]
        sender = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        if kind == "hdf5":
            sender.communicate()
    preload(kind)
    processor = time.process_time()
    got, took, counts = through_source(uri) if how == "source" else bare(kind, uri, address)
    busy = time.process_time() - processor
    found = {"frames_per_second": round(got / took), "gbit_per_second": round(got / took * SIZE**2 * 16e-9, 1)}
    found |= {"processor_us_per_frame": round(1e6 * busy / max(1, got)), "lost": counts["dropped"]}
    if sender is not None and kind != "hdf5":
        found |= json.loads(sender.communicate(timeout=60)[0])
    return found


def floors() -> dict[str, float]:
    """Return microseconds for one frame: a copy, and each decoder alone."""
    from ptycho_bluesky.stream.simulators import compress, simulated_patterns
    from ptycho_bluesky.stream.sources import decompress

    patterns, target = simulated_patterns(PATTERNS, SIZE, photons=PHOTONS), np.empty((SIZE, SIZE), np.uint16)

    def least(work: Callable[[int], object]) -> float:
        times = []
        for _ in range(20):
            began = time.perf_counter()
            for k in range(PATTERNS):
                work(k)
            times.append((time.perf_counter() - began) / PATTERNS)
        return round(1e6 * min(times), 1)

    found = {"memcpy": least(lambda k: np.copyto(target, patterns[k]))}
    for codec in ("bslz4", "lz4", "blosc"):
        bodies = [compress(frame, codec) for frame in patterns]  # type: ignore[arg-type]
        found[codec] = least(lambda k, b=bodies, c=codec: decompress(b[k], c, "uint16", (SIZE, SIZE)))
        found[f"{codec}_ratio"] = round(patterns[0].nbytes / np.mean([len(body) for body in bodies]), 1)
    return found


def main() -> None:
    loopback()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=4000)
    parser.add_argument("--repetitions", type=int, default=3, help="the best of so many is reported")
    parser.add_argument("--only", nargs="*", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--pva-rates", nargs="*", type=float, default=[100, 1000, 2000], help="frames a second")
    parser.add_argument("--json", action="store_true", help="the only form there is")
    parser.add_argument("--send", nargs=5, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.send:
        kind, compression, address, frames, rate = given.send
        send(kind, compression, address, int(frames), float(rate))
        return
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in given.only:
            for how in ("source", "bare"):
                runs = [measure(name, given.frames, 0, how, Path(folder)) for _ in range(given.repetitions)]
                found.setdefault(name, {})[how] = max(runs, key=lambda run: run["frames_per_second"])
            Path(folder, f"{name}.h5").unlink(missing_ok=True)
        for rate in given.pva_rates if "pva-none" in given.only else []:
            found["pva-none"][f"at_{rate:g}_hz"] = measure("pva-none", int(3 * rate), rate, "source", Path(folder))
    machine = {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    print(json.dumps({"benchmark": "sources", **machine, "load": os.getloadavg()[0], "floor_us": floors(), **found}))


if __name__ == "__main__":
    main()
