"""A console of its own for the EPICS tests: an IOC on free ports of the loopback, and scans through it.

``python epics_client.py CASE FOLDER`` prints one JSON object; pytest's own process has no EPICS client.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SIZE = 64
FIELD_UM = 1.2
SEED = 5


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def isolate() -> None:
    """Send all EPICS traffic of this process and its children to ports that nobody else has."""
    ca, repeater, pva, broadcast = map(str, free_ports(4))
    os.environ.update(
        OPHYD_CONTROL_LAYER="caproto", EPICS_CA_ADDR_LIST="127.0.0.1", EPICS_CA_AUTO_ADDR_LIST="NO",
        EPICS_CA_SERVER_PORT=ca, EPICS_CA_REPEATER_PORT=repeater, EPICS_CAS_INTF_ADDR_LIST="127.0.0.1",
        EPICS_PVA_ADDR_LIST="127.0.0.1", EPICS_PVA_AUTO_ADDR_LIST="NO", EPICS_PVA_BROADCAST_PORT=broadcast,
        EPICS_PVAS_SERVER_PORT=pva, EPICS_PVAS_BROADCAST_PORT=broadcast,
    )  # fmt: skip


class Ioc:
    """``ptycho-bluesky ioc`` in a process of its own."""

    def __init__(self, *options: str) -> None:
        self.options = options
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "ptycho_bluesky.cli", "ioc", "--json", *self.options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        ready = json.loads(self.process.stdout.readline())
        assert ready["ready"] and ready["variables"] > 200

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(10)


@contextmanager
def ioc(*options: str) -> Iterator[Ioc]:
    server = Ioc("--frame-size", str(SIZE), "--field", str(FIELD_UM), "--speedup", "20", "--ideal-stage", *options)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.stop()


def beamline(folder: Path) -> Any:
    """The beamline that the IOC simulates, here for its metadata and pattern, and as what should come out."""
    from ptycho_bluesky.devices import simulated_beamline

    side = FIELD_UM * 1e-6
    return simulated_beamline(
        frame_size=SIZE, field_m=(side, side), folder=folder, speedup=20, stage_errors=None, seed=SEED
    )


def pattern() -> Any:
    from ptycho_bluesky.experiment import fermat

    return fermat(FIELD_UM * 1e-6, FIELD_UM * 1e-6, 4e-7)


def scan(
    stage: Any, detector: Any, metadata: Any, on_event: Callable[[int], None] = lambda number: None
) -> dict[str, Any]:
    """Run the plan; return frames, positions, documents' counts and the error, if there was one."""
    import h5py
    import numpy as np
    from bluesky import RunEngine

    from ptycho_bluesky.plans import ptycho_scan
    from ptycho_bluesky.stream import Frame, RunReader

    found, counts, stops = [], {}, []
    reader = RunReader(metadata)

    def receive(name: str, doc: dict[str, Any]) -> None:
        counts[name] = counts.get(name, 0) + 1
        found.extend(reader.feed(name, doc))
        if name == "stop":
            stops.append(doc["exit_status"])
        if name == "event" and on_event is not None:
            on_event(doc["seq_num"])

    engine = scan.engine = getattr(scan, "engine", None) or RunEngine({}, context_managers=[])  # type: ignore[attr-defined]
    token, error = engine.subscribe(receive), None
    try:
        engine(ptycho_scan([detector], stage.y, stage.x, pattern(), metadata=metadata, min_overlap=None))
    except Exception as failed:  # noqa: BLE001, what the user sees is what is tested
        error = f"{failed.__cause__ or failed}"
    finally:
        engine.unsubscribe(token)
    frames, positions = [], []
    for item in found:
        if isinstance(item, Frame):
            frames.append(item.pixels)
            positions.append((item.y, item.x))
        else:
            with h5py.File(item.frames.path, swmr=True) as file:
                frames.extend(file[item.frames.dataset][item.frames.start : item.frames.stop])
            positions.extend(zip(item.y, item.x, strict=True))
    return {
        "frames": np.array(frames), "positions": np.array(positions), "counts": counts, "error": error,
        "exit_status": stops[-1] if stops else None,
    }  # fmt: skip


def devices(kind: str, folder: Path, **options: Any) -> tuple[Any, Any]:
    """Stage and detector of a kind: classic, or asynchronous by one of the protocols."""
    from ptycho_bluesky.devices import epics

    folder.mkdir(exist_ok=True)
    stall = {"stall_s": options["patience_s"]} if "patience_s" in options else {}
    answer = {"answer_s": options["patience_s"]} if "patience_s" in options else {}
    if kind == "classic":
        return epics.EpicsStage("SIM:", **stall), epics.EpicsEiger("SIM:", folder=folder, **answer)
    prefix = f"{kind}://SIM:"
    return epics.AsyncEpicsStage(prefix, **stall), epics.AsyncEpicsEiger(prefix, folder=folder, **answer)


def put(name: str, value: Any) -> None:
    from p4p.client.thread import Context

    with Context("pva", nt=False) as context:
        context.put(name, {"value": value}, timeout=5)


def wire(folder: Path) -> dict[str, Any]:
    """All that one sound IOC is needed for: the same plan by all kinds of devices, and the code of a page."""
    return {**same(folder), "unanswered": unanswered(folder)}


def same(folder: Path) -> dict[str, Any]:
    """The same plan through all kinds of EPICS devices, each from the same seed; then the page's code."""
    import numpy as np

    from ptycho_bluesky.devices.epics import connect_devices

    metadata, result = beamline(folder / "metadata").metadata, {}
    with ioc("--detector", "eiger", "--seed", str(SEED)) as server:
        scan_engine()
        for kind in ("classic", "pva", "ca"):
            stage, detector = devices(kind, folder / kind)
            connect_devices(stage, detector)
            put("SIM:Seed", SEED)
            got = scan(stage, detector, metadata)
            np.savez(folder / f"{kind}.npz", frames=got.pop("frames"), positions=got.pop("positions"))
            result[kind] = got
            if kind == "pva":
                result["flown"] = flown(detector)
        result["page"] = page(folder)
        result["exit"] = server.stop()
    return result


def flown(detector: Any) -> dict[str, int]:
    """Frames of triggers that come from outside, as a flyer gives them: counts of documents and of frames told."""
    import bluesky.plan_stubs as bps
    import bluesky.preprocessors as bpp
    from ophyd_async.core import DetectorTrigger, TriggerInfo

    counts: dict[str, int] = {"frames": 0}

    def count(name: str, doc: dict[str, Any]) -> None:
        counts[name] = counts.get(name, 0) + 1
        if name == "stream_datum":
            counts["frames"] += doc["indices"]["stop"] - doc["indices"]["start"]

    @bpp.stage_decorator([detector])
    @bpp.run_decorator(md={})
    def plan() -> Any:
        yield from bps.prepare(
            detector, TriggerInfo(number_of_events=5, trigger=DetectorTrigger.EXTERNAL_EDGE), wait=True
        )
        yield from bps.declare_stream(detector, name="primary", collect=True)
        yield from bps.kickoff(detector, wait=True)
        for number in range(5):
            put("SIM:cam1:Trigger", number)
        yield from bps.collect_while_completing([detector], [detector], 0.1, "primary")

    token = scan.engine.subscribe(count)  # type: ignore[attr-defined]
    scan.engine(plan())  # type: ignore[attr-defined]
    scan.engine.unsubscribe(token)  # type: ignore[attr-defined]
    return counts


def faults(folder: Path) -> dict[str, Any]:
    """Break something after the third event of a scan; then mend it and scan again with the same devices."""
    from ptycho_bluesky.devices.epics import connect_devices

    metadata, result = beamline(folder / "metadata").metadata, {}
    with ioc("--detector", "eiger") as server:
        scan_engine()
        for kind, names in (("classic", ("stall", "hang", "restarted")), ("pva", ("stall", "hang", "lost"))):
            stage, detector = devices(kind, folder / kind, patience_s=1.5)
            connect_devices(stage, detector)
            for name in names:
                break_it, mend_it = FAULTS[name]
                broken = scan(
                    stage, detector, metadata, lambda number, do=break_it: do(server) if number == 3 else None
                )
                mend_it(server)
                connect_devices(stage, detector, timeout_s=20)
                mended = scan(stage, detector, metadata)
                result[f"{kind}-{name}"] = {
                    "frames": len(broken["frames"]), "error": broken["error"], "exit_status": broken["exit_status"],
                    "frames_after": len(mended["frames"]), "exit_status_after": mended["exit_status"],
                    "error_after": mended["error"],
                }  # fmt: skip
    return result


def restart(server: Ioc) -> None:
    server.kill()
    server.start()


FAULTS: dict[str, tuple[Callable[[Ioc], None], Callable[[Ioc], None]]] = {
    "stall": (lambda _: put("SIM:Fault:Stage", 1), lambda _: put("SIM:Fault:Stage", 0)),
    "hang": (lambda _: put("SIM:Fault:Detector", 1), lambda _: put("SIM:Fault:Detector", 0)),
    "lost": (Ioc.kill, Ioc.start),
    "restarted": (restart, lambda _: None),
}


def unanswered(folder: Path) -> dict[str, Any]:
    """Devices with no IOC behind them."""
    from ptycho_bluesky.devices.epics import AsyncEpicsStage, EpicsDetector, connect_devices
    from ptycho_bluesky.errors import DeviceError

    said = {}
    for kind, device in (("ca", EpicsDetector("NO:", folder=folder)), ("pva", AsyncEpicsStage("pva://NO:"))):
        try:
            connect_devices(device, timeout_s=0.5)
        except DeviceError as error:
            said[kind] = str(error)
    return said


def page(folder: Path) -> dict[str, Any]:
    """Run the code of a page of the documentation, classic and asynchronous."""
    counts: dict[str, Any] = {}
    for name in ("page-classic", "page-asynchronous"):
        space: dict[str, Any] = {"__name__": "__main__"}
        exec(compile((folder / f"{name}.py").read_text(), name, "exec"), space)
        counts[name] = dict(Counter(kind for kind, _ in space["documents"]))
    return counts


def scan_engine() -> None:
    """Make the RunEngine, whose event loop asynchronous devices connect in."""
    from bluesky import RunEngine

    scan.engine = getattr(scan, "engine", None) or RunEngine({}, context_managers=[])  # type: ignore[attr-defined]


def main() -> None:
    isolate()
    case, folder = sys.argv[1], Path(sys.argv[2])
    began = time.monotonic()
    result = globals()[case](folder)
    sys.stdout.write(json.dumps({**result, "seconds": time.monotonic() - began}))
    sys.stdout.flush()
    os._exit(0)  # clients of EPICS keep threads that wait for the network


if __name__ == "__main__":
    main()
