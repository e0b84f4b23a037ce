"""The widget without a browser: its messages, its thread, what a notebook keeps; and the browser's module as text."""

from __future__ import annotations

import base64
import io
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ptycho_bluesky.jupyter import ACTIONS, SimulatedSource, Snapshot, page, script, style
from ptycho_bluesky.jupyter._kernel import KernelEar
from ptycho_bluesky.jupyter._still import bundle

pytest.importorskip("anywidget", reason="needs anywidget (extra 'notebook')")

from ptycho_bluesky.jupyter import Dashboard


class Sent(list[tuple[dict[str, Any], list[Any]]]):
    """What a dashboard has sent, and a way to wait for it."""

    def wait(self, kind: str) -> dict[str, Any]:
        end = time.monotonic() + 10
        while time.monotonic() < end:
            for header, _ in list(self):
                if header["t"] == kind:
                    return header
            time.sleep(0.005)
        raise AssertionError(f"no {kind} among {[h['t'] for h, _ in self]}")


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Sent:
    found = Sent()
    monkeypatch.setattr(Dashboard, "send", lambda _, header, buffers=None: found.append((header, buffers)))
    return found


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for name in ("display", "update_display"):
        monkeypatch.setattr(f"ptycho_bluesky.jupyter._widget.{name}", lambda data, **_: found.append(data))
    return found


@pytest.fixture
def dashboard(sent: Sent, shown: list[dict[str, Any]]) -> Iterator[Any]:
    made = Dashboard(SimulatedSource(frames=300, frames_per_second=1000))
    yield made
    made.close()


def say(dashboard: Any, **message: Any) -> None:
    """As a browser does, through the widget's own way in."""
    dashboard._handle_custom_msg({"viewer": "a", **message}, [])


def test_a_browser_that_greets_is_sent_everything_from_another_thread(dashboard: Any, sent: Sent) -> None:
    say(dashboard, t="hello")
    for kind in ("news", "path", "frame", "canvas", "tiles"):
        say(dashboard, t="ack", n=sent.wait(kind)["n"])
    assert threading.current_thread() is not dashboard._thread


def test_a_click_is_answered(dashboard: Any, sent: Sent) -> None:
    say(dashboard, t="act", id="1", action="dispatch", job="")
    assert sent.wait("reply")["ok"] is True
    assert len(dashboard.source.snapshot().jobs) == 1


def test_closing_ends_the_thread_and_leaves_the_picture(dashboard: Any, shown: list[dict[str, Any]]) -> None:
    dashboard._ipython_display_()
    widget = "application/vnd.jupyter.widget-view+json"
    assert shown[-1][widget]["model_id"] == dashboard.model_id
    time.sleep(0.02)
    dashboard.close()
    assert not dashboard._thread.is_alive()
    assert widget not in shown[-1]
    assert {"image/png", "text/plain"} <= set(shown[-1])
    dashboard.close()


def test_the_picture_has_both_maps_and_shows_what_was_not_measured() -> None:
    now = [0.0]
    source = SimulatedSource(size=256, frames=100, clock=lambda: now[0])
    assert set(bundle(source.snapshot(), source.image(0))) == {"text/plain"}
    now[0] = 0.5
    data = bundle(source.snapshot(), source.image(0))
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(data["image/png"]))))
    assert picture.shape == (256, 2 * 256 + 8, 3)
    assert (picture[-1, 0] == (214, 214, 214)).all()
    assert (picture[30, 30] != (214, 214, 214)).any()
    assert "50 of 100 frames" in data["text/plain"]


def test_words_of_a_doubtful_image() -> None:
    text = bundle(Snapshot(title="star", trusted=False, doubt="the probe is not known"), None)["text/plain"]
    assert text.endswith("do not trust it: the probe is not known")


def test_the_comm_takes_messages_in_the_thread_that_the_browser_chose() -> None:
    class Comm:
        def _reply_subshell_for(self, data: Any, default: Any) -> Any:
            return None

    comm = Comm()
    KernelEar.listen(comm)
    assert comm._reply_subshell_for is None
    KernelEar.listen(None)


def test_an_ear_tells_a_busy_main_thread_from_a_free_one() -> None:
    class Loop:
        def __init__(self) -> None:
            self.calls: list[Any] = []

        def add_callback(self, call: Any) -> None:
            self.calls.append(call)

    ear, answers = KernelEar(), []
    ear._loop = loop = Loop()

    def ask(busy: bool) -> None:
        answers.append(ear.hears())
        time.sleep(0.35)
        if not busy:
            loop.calls.pop()()
        answers.append(ear.hears())

    for busy in (False, True):
        worker = threading.Thread(target=ask, args=(busy,))
        worker.start()
        worker.join()
    assert answers == [True, True, True, False]


def test_the_module_is_what_anywidget_and_other_pages_need() -> None:
    text = script()
    assert "export default { render }" in text
    assert "export { mount, socketLink }" in text
    assert all(f'"{action}"' in text for action in ACTIONS)
    assert "http://" not in text.replace("http://www.w3.org", ""), "nothing is loaded from elsewhere"
    assert "https://" not in text + style()


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node to parse JavaScript")
def test_the_module_parses(tmp_path: Path) -> None:
    module = tmp_path / "dashboard.mjs"
    module.write_text(script())
    done = subprocess.run(["node", "--check", module], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_a_page_is_complete_and_its_title_is_only_text() -> None:
    text = page("/feed", "star </title><script>")
    assert "&lt;/title>&lt;script>" in text
    assert 'socketLink("/feed")' in text
