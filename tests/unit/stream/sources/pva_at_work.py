"""Run by a test in a process of its own, whose EPICS variables keep it on loopback: serves, monitors, and reports."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import numpy as np

from ptycho_bluesky.stream.simulators import Exposure, PvaTransmitter, simulated_patterns
from ptycho_bluesky.stream.sources import open_source

PATTERNS = simulated_patterns(4, 32)
PERIOD_S = 0.01


def wait(true: Any, timeout_s: float = 20.0) -> None:
    end = time.monotonic() + timeout_s
    while not true():
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(0.02)


def send(detector: PvaTransmitter, numbers: list[int], **changes: Any) -> None:
    for k in numbers:
        time.sleep(PERIOD_S)
        values = {"pixels": PATTERNS[k % 4], "key": (k % 4, 0)} | changes
        detector.send(Exposure(k, time.time(), **values))


def read(source: Any, quiet_s: float = 0.5) -> list[Any]:
    frames: list[Any] = []
    while new := source.read(quiet_s):
        frames += new
    return frames


def codec(name: Any) -> dict[str, Any]:
    """Frames through one codec: whole, dropped, swapped, doubled, corrupt, and of another shape."""
    detector = PvaTransmitter(f"test:{name}", name)
    detector.begin(0, Exposure(0, 0.0, PATTERNS[0], (0, 0)))
    with open_source(detector.uri) as source:
        wait(lambda: source.connected and not source._fresh)
        send(detector, [0, 1, 2, 5, 4, 5, 6])
        if name != "none":
            send(detector, [7], corrupt=True)
        send(detector, [8], pixels=PATTERNS[0][:16], key=(0, 1))
        send(detector, [9])
        frames = read(source)
        same = all(np.array_equal(frame.pixels, PATTERNS[frame.index % 4]) for frame in frames)
        timed = all(0 <= frame.arrived - frame.time < 5 for frame in frames)
    detector.close()
    return {"numbers": [f.index for f in frames], "same": same, "timed": timed, **source.counts.to_dict()}


def restart() -> dict[str, Any]:
    """A server that goes and comes back, while a reader waits."""
    detector = PvaTransmitter("test:again")
    detector.begin(0, Exposure(0, 0.0, PATTERNS[0], (0, 0)))
    with open_source(detector.uri) as source:
        wait(lambda: source.connected and not source._fresh)
        send(detector, list(range(10)))
        first = read(source)
        detector.close()
        wait(lambda: not source.connected)
        fault, begun = source.fault, time.monotonic()
        nothing = source.read(0.1)
        waited = time.monotonic() - begun
        detector.begin(1, Exposure(0, 0.0, PATTERNS[0], (0, 0)))
        wait(lambda: source.connected and not source._fresh)
        send(detector, list(range(5)))
        second = read(source)
    detector.close()
    return {
        "first": [(f.series, f.index) for f in first],
        "second": [(f.series, f.index) for f in second],
        "fault": fault,
        "nothing": nothing,
        "waited": waited,
        "restarts": source.counts.restarts,
    }


def stale() -> dict[str, Any]:
    """What a record holds from before is not a frame of this scan."""
    detector = PvaTransmitter("test:stale")
    detector.begin(0, Exposure(0, 0.0, PATTERNS[0], (0, 0)))
    send(detector, [500])
    with open_source(detector.uri) as source:
        wait(lambda: source.connected and not source._fresh)
        send(detector, [0, 1])
        frames = read(source)
    detector.close()
    return {"numbers": [f.index for f in frames], "series": [f.series for f in frames]}


if __name__ == "__main__":
    done: dict[str, Any] = {name: codec(name) for name in ("none", "lz4", "bslz4", "blosc")}
    done |= {"restart": restart(), "stale": stale()}
    sys.stdout.write(json.dumps(done))
