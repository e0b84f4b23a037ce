"""The dashboard outside of JupyterLab: Voila, notebooks turned into pages, and a page of its own."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import nbformat
import pytest
from jupyter_lab import WAIT_MS, Lab, environment, free_port, server, write_notebook
from nbclient import NotebookClient

from ptycho_bluesky.jupyter import Feed, SimulatedSource, pack, page

pytestmark = [pytest.mark.xdist_group("browser"), pytest.mark.timeout(300)]

SHOW = "from ptycho_bluesky.jupyter import Dashboard, SimulatedSource\nd = Dashboard(SimulatedSource(frames=1024)); d"
PAINTED = "() => document.querySelector('.pb')?.dashboard.paints.length > 3"


def test_voila_shows_the_same(lab: Lab, tmp_path: Path) -> None:
    pytest.importorskip("voila", reason="needs voila (extra 'test')")
    write_notebook(tmp_path / "live.ipynb", [SHOW])
    port = free_port()
    command = [sys.executable, "-m", "voila", "live.ipynb", "--no-browser", f"--port={port}", "--Voila.ip=127.0.0.1"]
    with server(command, f"http://127.0.0.1:{port}/voila/static/style.css", tmp_path / "log", environment(tmp_path)):
        shown = lab.browser.new_page()
        shown.goto(f"http://127.0.0.1:{port}/", timeout=2 * WAIT_MS, wait_until="domcontentloaded")
        shown.wait_for_function(PAINTED, timeout=2 * WAIT_MS)
        shown.click("[data-action=pause]")
        shown.wait_for_selector(".pb[data-state=paused]", timeout=WAIT_MS)
        shown.close()


def test_a_saved_notebook_keeps_the_last_picture(tmp_path: Path) -> None:
    path = tmp_path / "saved.ipynb"
    write_notebook(path, [SHOW, "import time\ntime.sleep(0.5)\nd.close()"])
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=60).execute()
    (output,) = (o for o in notebook.cells[0].outputs if o.output_type == "display_data")
    assert output.data["image/png"]
    assert "application/vnd.jupyter.widget-view+json" not in output.data
    assert "frames in the image" in output.data["text/plain"]


def test_a_page_of_its_own_over_a_websocket(lab: Lab) -> None:
    """The messages packed as for ``watch``; the page acknowledges, asks and acts by JSON."""
    source = SimulatedSource(frames=1024, frames_per_second=400)
    shown = lab.browser.new_page()
    feeds: list[Feed] = []

    def serve(socket: Any) -> None:
        feeds.append(Feed(source, lambda header, buffers: socket.send(pack(header, buffers))))
        socket.on_message(lambda text: feeds[-1].hear(json.loads(text)))

    def until(condition: str) -> None:
        end = time.monotonic() + WAIT_MS / 1000
        while not shown.evaluate(condition):
            assert time.monotonic() < end, condition
            if feeds:
                feeds[-1].tick()
            shown.wait_for_timeout(20)

    shown.route_web_socket("**/feed", serve)
    shown.route("**/wall", lambda route: route.fulfill(body=page("/feed", "wall"), content_type="text/html"))
    shown.goto("http://127.0.0.1:9/wall")
    until(PAINTED)
    shown.click("[data-action=stop_and_keep]")
    until("() => document.querySelector('.pb').dataset.state === 'idle'")
    assert source.exit_status == "success"
    shown.close()
