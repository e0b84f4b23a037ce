"""``watch`` in a browser: two viewers, a key, no buttons, and nothing that its own security policy forbids."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import uvicorn
from jupyter_lab import WAIT_MS, Lab, free_port

from ptycho_bluesky._session._watch import watch_app
from ptycho_bluesky.jupyter import SimulatedSource

pytestmark = [pytest.mark.xdist_group("browser"), pytest.mark.timeout(300)]

PAINTED = "() => document.querySelector('.pb')?.dashboard.paints.length > 3"


class Shown(SimulatedSource):
    """The simulated beamline, without its buttons."""

    actions = ()

    def close(self) -> None:
        """Nothing is held."""


@pytest.fixture
def address() -> Iterator[str]:
    app = watch_app(lambda: Shown(size=256, frames=400, frames_per_second=200.0, repeat=True), "the-key")
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield f"http://127.0.0.1:{port}/"
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


def test_two_viewers_on_the_wall(lab: Lab, address: str) -> None:
    complaints: list[str] = []
    pages = []
    for scheme in ("light", "dark"):
        page = lab.browser.new_page(viewport={"width": 1280, "height": 860}, color_scheme=scheme)
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(f"{address}?key=the-key", timeout=WAIT_MS)
        pages.append(page)
    for page in pages:
        page.wait_for_function(PAINTED, timeout=WAIT_MS)
        assert page.locator("[data-action=abort]:visible").count() == 0
        assert page.evaluate("() => document.documentElement.scrollWidth <= window.innerWidth")
    grounds = [page.evaluate("() => getComputedStyle(document.body).backgroundColor") for page in pages]
    assert grounds[0] != grounds[1]
    assert [complaint for complaint in complaints if "favicon" not in complaint] == []
    stranger = lab.browser.new_page()
    answer = stranger.goto(f"{address}?key=another", timeout=WAIT_MS)
    assert answer is not None
    assert answer.status == 401
    for page in (*pages, stranger):
        page.close()
