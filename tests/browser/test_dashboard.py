"""The dashboard in JupyterLab: what is painted, what the buttons do to a RunEngine, and what survives what."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from engine_source import notes
from jupyter_lab import WAIT_MS, Lab
from playwright.sync_api import Page, expect

pytestmark = [pytest.mark.xdist_group("browser"), pytest.mark.timeout(300)]

SHOW = "from ptycho_bluesky.jupyter import Dashboard, SimulatedSource\n"
ENGINE = "from engine_source import EngineSource, notes\nsource = EngineSource({log!r}{more})\n"
DASHBOARD = "() => document.querySelector('.pb').dashboard"
PIXEL = """([name, row, column]) => document.querySelector('.pb')?.dashboard.mosaic.layers[name]?.value(row, column)"""


def seen(log: Path, wanted: Callable[[dict[str, Any]], bool], page: Page, after: int = 0) -> dict[str, Any]:
    """Return the first note that fits, once the kernel has written it."""
    end = time.monotonic() + WAIT_MS / 1000
    while time.monotonic() < end:
        for note in notes(log)[after:]:
            if wanted(note):
                return note
        page.wait_for_timeout(20)
    raise AssertionError(f"nothing fits among {notes(log)[after:]}")


def press(page: Page, log: Path, action: str, wanted: Callable[[dict[str, Any]], bool], clicks: int = 1) -> float:
    """Click a button and return the seconds until the kernel noted what was wanted."""
    button = page.locator(f"[data-action={action}]:visible").first
    expect(button).to_be_enabled(timeout=WAIT_MS)
    after = len(notes(log))
    clicked = page.evaluate("() => Date.now() / 1000")
    for _ in range(clicks):
        button.click()
    return float(seen(log, wanted, page, after)["time"] - clicked)


def state(name: str) -> Callable[[dict[str, Any]], bool]:
    return lambda note: note.get("state") == name


def test_each_button_reaches_the_run_engine(lab: Lab, tmp_path: Path) -> None:
    log = tmp_path / "log"
    cells = [SHOW + ENGINE.format(log=str(log), more=""), "source.start(); d = Dashboard(source); d"]
    with lab.notebook("buttons", cells) as page:
        press(page, log, "pause", state("paused"))
        press(page, log, "resume", state("running"))
        press(page, log, "dispatch", lambda note: "begins" in note.get("job", ""))
        press(page, log, "cancel_job", lambda note: "cancelled" in note.get("job", ""))
        press(page, log, "stop_and_keep", lambda note: note.get("exit_status") == "success")
        expect(page.locator(".pb-state")).to_have_text("idle", timeout=WAIT_MS)
        page.evaluate("() => window.jupyterapp.commands.execute('notebook:run-all-cells')")
        press(page, log, "abort", lambda note: note.get("exit_status") == "abort", clicks=2)


@pytest.mark.parametrize("subshells", [True, False], ids=["subshells", "interrupt"])
def test_pause_while_a_cell_runs_the_plan(lab: Lab, tmp_path: Path, subshells: bool) -> None:
    log = tmp_path / "log"
    deaf = (
        ""
        if subshells
        else "from ptycho_bluesky.jupyter._kernel import KernelEar\nKernelEar.listen = lambda *_: None\n"
    )
    cells = [
        deaf + SHOW + ENGINE.format(log=str(log), more=", blocking=True, points=1500"),
        "d = Dashboard(source); d",
        "import time\ntime.sleep(1)\nsource.RE(source.plan())",
    ]
    with lab.notebook(f"cell-{subshells}", cells) as page:
        seen(log, state("running"), page)
        expect(page.locator(".pb-state")).to_have_text("running", timeout=WAIT_MS)
        if not subshells:  # a browser knows that the kernel is deaf once it has answered in vain
            page.wait_for_function(f"({DASHBOARD})().acknowledged - ({DASHBOARD})().kernelHeard >= 5", timeout=WAIT_MS)
        press(page, log, "pause", state("paused"))
        expect(page.locator(".pb-state")).to_have_text("paused", timeout=WAIT_MS)


def test_pixels_reload_second_viewer_restart(lab: Lab, tmp_path: Path) -> None:
    """The value of a pixel is the sample's: at first, in a second page, after a reload; a restart begins anew."""
    cell = "source = SimulatedSource(frames=1024, frames_per_second=3000); d = Dashboard(source); d"
    truth = "from ptycho_bluesky.jupyter._simulated import _siemens_star\np, a = _siemens_star(512)\n"
    check = "from pathlib import Path\nPath({0!r}).write_text(f'{{p[256, 130]}} {{a[256, 130]}}')"
    told = tmp_path / "truth"
    with lab.notebook("pixels", [SHOW + cell, truth + check.format(str(told))]) as page:

        def right(where: Page) -> None:
            for name in ("phase", "amplitude"):
                where.wait_for_function(f"() => Number.isFinite(({PIXEL})(['{name}', 256, 130]))", timeout=WAIT_MS)
            phase, amplitude = (float(v) for v in told.read_text().split())
            assert where.evaluate(PIXEL, ["phase", 256, 130]) == pytest.approx(phase, abs=1e-3)
            assert where.evaluate(PIXEL, ["amplitude", 256, 130]) == pytest.approx(amplitude, abs=1e-3)

        page.wait_for_function(
            "() => document.querySelector('.pb-left')?.textContent.startsWith('1024')", timeout=WAIT_MS
        )
        right(page)
        page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
        second = lab.page("pixels")
        second.wait_for_selector(".pb", timeout=WAIT_MS)
        right(second)
        right(page)
        second.close()
        page.reload(wait_until="domcontentloaded")
        lab.ready(page)
        page.wait_for_selector(".pb", timeout=WAIT_MS)
        right(page)
        page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.restartKernel()")
        page.wait_for_function(
            "() => document.querySelector('.pb-silent') || !document.querySelector('.pb')", timeout=WAIT_MS
        )
        lab.ready(page)
        page.evaluate("() => window.jupyterapp.commands.execute('notebook:run-all-cells')")
        page.wait_for_selector(".pb:not(.pb-silent)", timeout=WAIT_MS)
        right(page)
