"""The dashboard in JupyterLab and Chromium, measured: rate, latency, cost in the kernel, buttons, memory.

``python benchmarks/dashboard.py paint|buttons|memory|soak``; each starts a JupyterLab of its own on the loopback, with
a 512 x 512 image and a RunEngine that scans in the same kernel meanwhile. ``soak`` does without JupyterLab: the feed
talks to nobody and the page to a script, which takes a minute where ``memory`` takes many. One line of JSON is printed.
"""

from __future__ import annotations

import argparse
import contextlib
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

import psutil
from engine_source import notes
from jupyter_lab import Lab, chromium, lab
from playwright.sync_api import Page

from ptycho_bluesky.jupyter import Feed, SimulatedSource, script
from ptycho_bluesky.jupyter._encode import LAYERS

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


PLAYER = """
let listener = null;
const link = { send() {}, interrupt: null, listen(taker) { listener = taker; return () => {}; } };
window.board = mount(document.getElementById("dashboard"), link);
const say = (header, buffers = []) => listener({ n: 0, heard: 0, time: Date.now() / 1000, ...header }, buffers);
const news = NEWS;
say({ t: "news", ...news });
say({ t: "canvas", run: "r", shape: [512, 512], origin: [0, 0], pixel: 2e-8, layers: LAYERS });
const tile = () => new DataView(Uint16Array.from({ length: 4096 }, (_, i) => i).buffer);
window.play = async (from, count) => {
  for (let i = from; i < from + count; i++) {
    const place = [64 * (i % 8), 64 * (Math.floor(i / 8) % 8), 64, 64];
    const header = { t: "tiles", layers: ["phase", "amplitude"], places: [place], frames: i, deflate: false };
    say({ ...header, n: i }, [tile(), tile()]);
    if (i % 20 === 0) say({ t: "news", n: i, ...news, inferred: i });
    if (i % 200 === 0) await new Promise((done) => requestAnimationFrame(done));
  }
  await board.queue;
};
"""


def soak(messages: int) -> dict[str, Any]:
    """Memory of a feed, and of a page, over very many messages: at first, and after each eighth of them."""
    now, sent = [0.0], [0]
    source = SimulatedSource(frames=4096, repeat=True, clock=lambda: now[0])
    feed = Feed(source, lambda header, _: sent.__setitem__(0, header["n"]), clock=lambda: now[0])
    feed.hear({"t": "hello", "viewer": "a"})
    kernel, steps = [], 9
    for step in range(steps):
        while sent[0] < messages * step / (steps - 1):
            now[0] += 0.04
            feed.tick()
            feed.hear({"t": "ack", "viewer": "a", "n": sent[0]})
        kernel.append(round(psutil.Process().memory_info().rss / 2**20, 1))
    news = json.dumps({**vars(source.snapshot()), "actions": []})
    player = PLAYER.replace("NEWS", news).replace("LAYERS", json.dumps(LAYERS))
    pages = []
    with chromium() as browser:
        page = browser.new_page()
        page.set_content(f'<main id="dashboard"></main><script type="module">{script()}{player}</script>')
        session = page.context.new_cdp_session(page)
        page.wait_for_function("() => window.play")
        for step in range(steps):
            if step:
                for part in range(0, messages // (steps - 1), 2500):
                    page.evaluate(f"() => play({1 + part}, 2500)")
            session.send("HeapProfiler.collectGarbage")
            used = session.send("Runtime.getHeapUsage")
            pages.append(round((used["usedSize"] + used.get("backingStorageSize", 0)) / 2**20, 1))
    return {"messages": messages, "kernel_MiB": kernel, "page_MiB": pages}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["paint", "buttons", "memory", "soak"])
    parser.add_argument("--seconds", type=float, default=30, help="how long to look (paint)")
    parser.add_argument("--whole", action="store_true", help="every pixel is new in each image (paint)")
    parser.add_argument("--messages", type=int, default=100_000, help="how many (memory)")
    parser.add_argument("--limit", type=float, default=3600, help="seconds at most (memory)")
    given = parser.parse_args()
    with contextlib.ExitStack() as stack:
        if given.what == "soak":
            result = soak(given.messages)
        else:
            root = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            jupyter = stack.enter_context(lab(root))
            result = {
                "paint": lambda: paint(jupyter, root, given.seconds, given.whole),
                "buttons": lambda: buttons(jupyter, root),
                "memory": lambda: memory(jupyter, root, given.messages, given.limit),
            }[given.what]()
    load = [round(n, 1) for n in os.getloadavg()]
    print(json.dumps({"what": given.what, **result, "load": load, "cores": os.cpu_count()}))


if __name__ == "__main__":
    main()
