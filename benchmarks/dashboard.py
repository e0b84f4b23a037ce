"""The dashboard in JupyterLab and Chromium, measured: rate, latency, cost in the kernel, buttons, memory.

``python benchmarks/dashboard.py paint|buttons|memory``; each starts a JupyterLab of its own on the loopback, with a
512 x 512 image and a RunEngine that scans in the same kernel meanwhile. One line of JSON is printed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "browser"))

from engine_source import notes
from jupyter_lab import Lab, lab
from playwright.sync_api import Page

SOURCE = """from engine_source import Costs, EngineSource
from ptycho_bluesky.jupyter import Dashboard
source = EngineSource({log!r}, points=100_000, blocking={blocking}, frames=4096, frames_per_second={rate}, repeat=True)
d = Dashboard(source, rate_hz={hz})
costs = Costs(d, {costs!r})
{more}
d"""
START = "source.start()"
SCAN = "import time\ntime.sleep(1)\nsource.RE(source.plan())"
RENEW = """
real = source.image
def image(since):  # every tile is new each time
    source._number += 1
    source._numbers[:] = source._number
    return real(since)
source.image = image"""
ONE_TILE = """
real = source.image
def image(since):  # one tile is new each time
    source._number += 1
    source._numbers[0, 0] = source._number
    return real(since)
source.image = image
d._tick_s = 0.002"""
READY = "() => document.querySelector('.pb')?.dashboard.paints.length > 20"


def told(file: Path) -> dict[str, Any]:
    return dict(json.loads(file.read_text()))


def cells(root: Path, more: str = START, blocking: bool = False, rate: float = 120, hz: float = 40) -> list[str]:
    paths = {"log": str(root / "log"), "costs": str(root / "costs")}
    text = SOURCE.format(**paths, more=more, blocking=blocking, rate=rate, hz=hz)
    return [text, SCAN] if blocking else [text]


def paint(jupyter: Lab, root: Path, seconds: float, whole: bool) -> dict[str, Any]:
    """Images a second and their age when painted; processor time of the kernel for each."""
    with jupyter.notebook("paint", cells(root, START + (RENEW if whole else ""))) as page:
        page.wait_for_function(READY, timeout=60_000)
        page.wait_for_timeout(3000)
        page.evaluate("() => { document.querySelector('.pb').dashboard.paints.length = 0 }")
        before, began = told(root / "costs"), time.time()
        page.wait_for_timeout(seconds * 1000)
        paints = page.evaluate("() => document.querySelector('.pb').dashboard.paints")
        after, took = told(root / "costs"), time.time() - began
    spent = {k: (after[k] - before[k]) * 1e3 / len(paints) for k in ("thread", "source", "hear")}
    ages = sorted(age for _, age in paints)
    return {
        "painted_hz": round((len(paints) - 1) / (paints[-1][0] - paints[0][0]) * 1e3, 1),
        "latency_ms_median": round(statistics.median(ages), 1),
        "latency_ms_p95": round(ages[int(0.95 * len(ages))], 1),
        "kernel_ms_an_image": round(spent["thread"] + spent["hear"] - spent["source"], 2),
        "of_which_acknowledgements": round(spent["hear"], 2),
        "source_ms_an_image": round(spent["source"], 2),
        "scan_events_a_second": round((after["events"] - before["events"]) / took, 1),
    }


def click(page: Page, log: Path, action: str, wanted: Callable[[dict[str, Any]], bool], clicks: int = 1) -> float:
    button = page.locator(f"[data-action={action}]:visible:enabled").first
    button.wait_for(timeout=30_000)
    page.wait_for_timeout(1000)
    after, clicked = len(notes(log)), time.time()
    for _ in range(clicks):
        button.click()
    while True:
        found = [n["time"] for n in notes(log)[after:] if wanted(n)]
        if found:
            return round(found[0] - clicked, 2)
        page.wait_for_timeout(10)


def buttons(jupyter: Lab, root: Path) -> dict[str, Any]:
    """Seconds from each click to its effect on the RunEngine (abort: both clicks)."""
    log, found = root / "log", {}
    with jupyter.notebook("thread", cells(root)) as page:
        page.wait_for_function(READY, timeout=60_000)
        found["pause"] = click(page, log, "pause", lambda n: n.get("state") == "paused")
        found["resume"] = click(page, log, "resume", lambda n: n.get("state") == "running")
        found["dispatch"] = click(page, log, "dispatch", lambda n: "begins" in n.get("job", ""))
        found["cancel_job"] = click(page, log, "cancel_job", lambda n: "cancelled" in n.get("job", ""))
        found["stop_and_keep"] = click(page, log, "stop_and_keep", lambda n: n.get("exit_status") == "success")
        page.evaluate("() => window.jupyterapp.commands.execute('notebook:run-all-cells')")
        found["abort"] = click(page, log, "abort", lambda n: n.get("exit_status") == "abort", clicks=2)
    deaf = "\nfrom ptycho_bluesky.jupyter._kernel import KernelEar\nKernelEar.listen = lambda *_: None\n"
    for name, before in (("pause_in_a_cell", ""), ("pause_in_a_cell_by_interrupt", deaf)):
        text, scan = cells(root, more="", blocking=True)
        with jupyter.notebook(name, [before + text, scan]) as page:
            page.wait_for_function(READY, timeout=60_000)
            page.wait_for_timeout(3000)
            found[name] = click(page, log, "pause", lambda n: n.get("state") == "paused")
    return found


def memory(jupyter: Lab, root: Path, messages: int, limit_s: float) -> dict[str, Any]:
    """Memory of kernel and page while very many messages go by, one tile in each."""
    samples: list[tuple[int, float, float]] = []
    with jupyter.notebook("memory", cells(root, START + ONE_TILE, hz=60)) as page:
        page.wait_for_function(READY, timeout=60_000)
        session = page.context.new_cdp_session(page)
        session.send("HeapProfiler.enable")
        end = time.time() + limit_s
        while time.time() < end:
            session.send("HeapProfiler.collectGarbage")
            used = session.send("Runtime.getHeapUsage")
            now = told(root / "costs")
            page_mib = (used["usedSize"] + used.get("backingStorageSize", 0)) / 2**20
            samples.append((now["messages"], now["rss"] / 2**20, page_mib))
            if now["messages"] >= messages:
                break
            page.wait_for_timeout(10_000)
    picked = [samples[round(k * (len(samples) - 1) / 8)] for k in range(9)] if len(samples) > 8 else samples
    return {"messages_kernel_MiB_page_MiB": [[n, round(a, 1), round(b, 1)] for n, a, b in picked]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["paint", "buttons", "memory"])
    parser.add_argument("--seconds", type=float, default=30, help="how long to look (paint)")
    parser.add_argument("--whole", action="store_true", help="every pixel is new in each image (paint)")
    parser.add_argument("--messages", type=int, default=100_000, help="how many (memory)")
    parser.add_argument("--limit", type=float, default=3600, help="seconds at most (memory)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, lab(Path(folder)) as jupyter:
        root = Path(folder)
        result = {
            "paint": lambda: paint(jupyter, root, given.seconds, given.whole),
            "buttons": lambda: buttons(jupyter, root),
            "memory": lambda: memory(jupyter, root, given.messages, given.limit),
        }[given.what]()
    load = [round(n, 1) for n in os.getloadavg()]
    print(json.dumps({"what": given.what, **result, "load": load, "cores": os.cpu_count()}))


if __name__ == "__main__":
    main()
