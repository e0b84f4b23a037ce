"""What all callbacks together cost a scan: in steps beside the bare RunEngine, and 20,000 frames in flight at 2 kHz.

``ptycho-bluesky bench whole_scan`` prints one JSON object. Devices are the simulated ones (speedup a million in steps,
real time in flight); ``all`` has the Tiled writer with an embedded server, live inference with the shipped network, and
dispatch. In steps: milliseconds an event, bare and with all, and how much of it our callbacks spent in the RunEngine's
thread (an event, median and mean). In flight: frames lost anywhere, the share of the flight that callbacks spent in the
RunEngine's thread, and the time from the last stream datum to the stop document. The reconstruction is not waited for.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from bluesky import RunEngine

from ptycho_bluesky.callbacks import DispatchOnStop, LiveInference
from ptycho_bluesky.catalog import connect, stop_server, tiled_writer
from ptycho_bluesky.config import settings
from ptycho_bluesky.devices import simulated_beamline
from ptycho_bluesky.dispatch import cancel
from ptycho_bluesky.experiment import raster
from ptycho_bluesky.plans import ptycho_fly, ptycho_scan


class Timed:
    """A callback, and when and how long it worked."""

    def __init__(self, callback: Any) -> None:
        self.callback, self.took = callback, []

    def __call__(self, name: str, doc: dict[str, Any]) -> None:
        begin = time.perf_counter()
        self.callback(name, doc)
        self.took.append((name, begin, time.perf_counter() - begin))

    def seconds(self, *names: str) -> list[float]:
        return [took for name, _, took in self.took if name in names]


def steps(live: LiveInference, catalog: Any, dispatch: DispatchOnStop, points: int, runs: int) -> dict[str, Any]:
    beamline = simulated_beamline(folder=settings().home / "steps", speedup=1e6)
    side = beamline.pattern.step_m() * points**0.5
    pattern, stage, RE = raster(side, side, beamline.pattern.step_m()), beamline.stage, RunEngine()

    def scan() -> Any:
        return ptycho_scan([beamline.detector], stage.y, stage.x, pattern, metadata=beamline.metadata, min_overlap=None)

    ms: dict[str, list[float]] = {"bare": [], "all": []}
    ours: list[list[float]] = []
    for run in range(runs + 1):  # the first warms up
        for name in ("bare", "all") if run % 2 else ("all", "bare"):
            callbacks = [Timed(one) for one in (tiled_writer(catalog), live, dispatch)] if name == "all" else []
            tokens = [RE.subscribe(one) for one in callbacks]
            begin = time.perf_counter()
            RE(scan())
            if run:
                ms[name].append((time.perf_counter() - begin) / len(pattern) * 1e3)
            for token in tokens:
                RE.unsubscribe(token)
            if callbacks:
                statistics_of_run = live.wait(180)
                cancel(dispatch.job_ids[-1])
            if callbacks and run:
                ours.append([sum(v) * 1e3 for v in zip(*(one.seconds("event") for one in callbacks), strict=True)])
    return {
        "points": len(pattern),
        "bare_ms_per_event": round(statistics.median(ms["bare"]), 3),
        "all_ms_per_event": round(statistics.median(ms["all"]), 3),
        "our_callbacks_ms_median": round(statistics.median(v for run in ours for v in run), 4),
        "our_callbacks_ms_mean": round(statistics.fmean(v for run in ours for v in run), 4),
        "frames_dropped": statistics_of_run["frames_dropped"],
    }


def flight(live: LiveInference, catalog: Any, dispatch: DispatchOnStop, frames: int, rate: float) -> dict[str, Any]:
    side = frames**0.5
    beamline = simulated_beamline(
        folder=settings().home / "flight", frame_size=64, speedup=1.0, field_m=(6e-6, 6e-6), stage_errors=None
    )
    pattern = raster(5.9e-6, 5.9e-6, 5.9e-6 / (side - 1))
    RE = RunEngine()
    callbacks = [Timed(one) for one in (tiled_writer(catalog), live, dispatch)]
    for one in callbacks:
        RE.subscribe(one)
    counted: dict[str, Any] = {"last": 0.0, "frames": 0}

    def count(name: str, doc: dict[str, Any]) -> None:
        if name == "stream_datum":
            counted["last"] = time.perf_counter()
            counted["frames"] = max(counted["frames"], doc["indices"]["stop"])
        elif name == "stop":
            counted["stop"] = time.perf_counter()

    RE.subscribe(count)
    begin = time.perf_counter()
    RE(
        ptycho_fly(
            [beamline.detector], beamline.flyer, pattern, metadata=beamline.metadata,
            exposure_s=0.8 / rate, period_s=1 / rate, min_overlap=None,
        )
    )  # fmt: skip
    wall = time.perf_counter() - begin
    result = live.wait(300)
    cancel(dispatch.job_ids[-1])
    spent = sum(
        sum(one.seconds("start", "descriptor", "stream_resource", "stream_datum", "event")) for one in callbacks
    )
    return {
        "frames": len(pattern),
        "frames_per_second": rate,
        "wall_s": round(wall, 2),
        "frames_in_documents": counted["frames"],
        "frames_inferred": result["frames_inferred"],
        "frames_refused": result["frames_refused"],
        "frames_dropped": result["frames_dropped"],
        "inferred_per_second": result["frames_per_second"],
        "callbacks_share_of_wall": round(spent / wall, 5),
        "last_datum_to_stop_s": round(counted["stop"] - counted["last"], 4),
        "stop_callbacks_s": round(sum(sum(one.seconds("stop")) for one in callbacks), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=300)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--frames", type=int, default=20_000)
    parser.add_argument("--rate", type=float, default=2000.0, help="frames per second in flight")
    parser.add_argument("--only", choices=("steps", "flight"))
    parser.add_argument("--json", action="store_true", help="as all benchmarks: JSON is printed in any case")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        os.environ["PTYCHO_BLUESKY_HOME"] = home
        settings.cache_clear()
        report: dict[str, Any] = {
            "benchmark": "whole_scan",
            "machine": {"platform": platform.platform(), "cores": os.cpu_count(), "load": os.getloadavg()[0]},
        }
        catalog = connect()
        try:
            with LiveInference(folder=Path(home) / "live") as live:
                live.wait_ready(120)
                dispatch = DispatchOnStop()
                if given.only != "flight":
                    report["steps"] = steps(live, catalog, dispatch, given.points, given.runs)
                if given.only != "steps":
                    report["flight"] = flight(live, catalog, dispatch, given.frames, given.rate)
        finally:
            catalog.context.close()
            stop_server()
    print(json.dumps(report))


if __name__ == "__main__":
    main()
