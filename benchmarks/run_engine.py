"""What live inference costs a scan: a bare RunEngine against the same with the callback, repetitions interleaved.

``python benchmarks/run_engine.py`` prints one JSON object. The network of the edge process is replaced by one that
returns at once (``--model`` takes a real one), since it is the console that is measured; both share the cores.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

import bluesky.plan_stubs as bps
import numpy as np
from bluesky import RunEngine

import ptycho_bluesky
from ptycho_bluesky.callbacks import LiveInference
from ptycho_bluesky.experiment import PtychographyMetadata
from ptycho_bluesky.inference._protocol import Patches

LIMIT_MS = 0.2


class Instant:
    """A network that costs nothing: flat patches."""

    def for_probe(self, probe, pixel_size_m, frame_size, /, *, mask=None):
        weight = np.ones((frame_size, frame_size), np.float32)
        return lambda frames: Patches(np.zeros(frames.shape, np.float32), None, weight)


class Detector:
    """Reads a frame and a position, with no motion and no exposure: the RunEngine's own floor."""

    name, parent = "detector", None

    def __init__(self, size: int) -> None:
        rng = np.random.default_rng(0)
        self.frames = rng.poisson(3, (16, size, size)).astype(np.uint16)
        self.count = 0

    def describe(self):
        array = {"dtype": "array", "shape": list(self.frames.shape[1:]), "source": "benchmark"}
        number = {"dtype": "number", "shape": [], "source": "benchmark"}
        return {"frame": array, "y": number, "x": number}

    def read(self):
        self.count += 1
        now, (row, column) = time.time(), divmod(self.count % 300, 20)
        data = {"frame": self.frames[self.count % 16], "y": 4.0 * row, "x": 4.0 * column}
        return {key: {"value": value, "timestamp": now} for key, value in data.items()}

    def describe_configuration(self):
        return {}

    def read_configuration(self):
        return {}


def scan(detector: Detector, events: int):
    block = PtychographyMetadata(frames_key="frame", position_keys=("y", "x"), position_unit="px").to_start()
    yield from bps.open_run({"ptychography": block})
    for _ in range(events):
        yield from bps.create("primary")
        yield from bps.read(detector)
        yield from bps.save()
    yield from bps.close_run()


class Timed:
    """A callback, and how long each of its events took."""

    def __init__(self, callback) -> None:
        self.callback, self.ms = callback, []

    def __call__(self, name, doc) -> None:
        start = time.perf_counter()
        self.callback(name, doc)
        if name == "event":
            self.ms.append((time.perf_counter() - start) * 1e3)


def measure(events: int, size: int, repetitions: int, model: str) -> dict:
    RE, detector = RunEngine({}), Detector(size)
    ms: dict[str, list[float]] = {"bare": [], "live": []}
    dropped = inferred = 0
    with tempfile.TemporaryDirectory() as folder, LiveInference(model, folder=Path(folder)) as live:
        live.wait_ready(120)
        timed = Timed(live)
        for repetition in range(repetitions + 1):  # the first one warms up and does not count
            for name in ("bare", "live") if repetition % 2 else ("live", "bare"):
                token = RE.subscribe(timed) if name == "live" else None
                start = time.perf_counter()
                RE(scan(detector, events))
                ms[name].append((time.perf_counter() - start) / events * 1e3)
                if token is not None:
                    RE.unsubscribe(token)
                    result = live.wait(120)  # the edge process rests while the bare scan runs
                    dropped, inferred = dropped + result["frames_dropped"], inferred + result["frames_inferred"]
            if repetition == 0:
                timed.ms.clear()
    bare, with_live = (statistics.median(values[1:]) for values in (ms["bare"], ms["live"]))
    p50, p95, p99 = (float(v) for v in np.percentile(timed.ms, [50, 95, 99]))
    return {
        "benchmark": "run_engine",
        "bare_ms_per_event": round(bare, 4),
        "live_ms_per_event": round(with_live, 4),
        "added_ms_per_event": round(with_live - bare, 4),
        "callback_ms_p50": round(p50, 4),
        "callback_ms_p95": round(p95, 4),
        "callback_ms_p99": round(p99, 4),
        "callback_ms_mean": round(statistics.fmean(timed.ms), 4),
        "limit_ms": LIMIT_MS,
        "passed": p50 < LIMIT_MS,
        "events": events,
        "frame": [size, size],
        "repetitions": repetitions,
        "frames_inferred": inferred,
        "frames_dropped": dropped,
        "model": model,
    }


def machine() -> dict:
    return {
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cpus": os.cpu_count(),
        "load_average": [round(v, 2) for v in os.getloadavg()],
        "python": platform.python_version(),
        "ptycho_bluesky": ptycho_bluesky.__version__,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=300)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--model", default="run_engine:Instant")
    given = parser.parse_args()
    here = str(Path(__file__).parent)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))
    result = measure(given.events, given.size, given.repetitions, given.model) | {"machine": machine()}
    print(json.dumps(result, indent=1))
    return 0 if result["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
