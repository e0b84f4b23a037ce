"""The feed: what a browser is sent, how much of it, and what becomes of what it says."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ptycho_bluesky.errors import PlanError
from ptycho_bluesky.jupyter import ACTIONS, Feed, SimulatedSource
from ptycho_bluesky.jupyter._encode import LAYERS
from ptycho_bluesky.jupyter._feed import WINDOW


class Browser:
    """Keeps what it was sent as the page does, and acknowledges when told."""

    def __init__(self, **options: Any) -> None:
        self.now = 0.0
        self.hearing = True
        self.source = SimulatedSource(clock=lambda: self.now, **options)
        self.feed = Feed(self.source, self.take, hearing=lambda: self.hearing, clock=lambda: self.now)
        self.messages: list[dict[str, Any]] = []
        self.layers: dict[str, np.ndarray] = {}

    def take(self, header: dict[str, Any], buffers: Any) -> None:
        self.messages.append(header)
        if header["t"] == "canvas":
            self.layers = {
                n: np.zeros(header["shape"], np.uint16 if r[2] == 16 else np.uint8) for n, r in LAYERS.items()
            }
        if header["t"] == "tiles":
            for name, buffer in zip(header["layers"], buffers, strict=True):
                data = zlib.decompress(buffer) if header["deflate"] else buffer
                values, at = np.frombuffer(data, self.layers[name].dtype), 0
                for row, column, height, width in header["places"]:
                    part = values[at : at + height * width].reshape(height, width)
                    self.layers[name][row : row + height, column : column + width] = part
                    at += height * width

    def say(self, kind: str, viewer: str = "a", **more: Any) -> None:
        self.feed.hear({"t": kind, "viewer": viewer, **more})

    def acknowledge(self, viewer: str = "a") -> None:
        self.say("ack", viewer, n=self.messages[-1]["n"] if self.messages else 0)

    def run(self, seconds: float, step: float = 0.04, answering: bool = True) -> list[dict[str, Any]]:
        """Let time go by; returns the messages that came meanwhile."""
        before = len(self.messages)
        end = self.now + seconds
        while self.now < end:
            self.now += step
            self.feed.tick()
            if answering:
                self.acknowledge()
        return self.messages[before:]

    def kinds(self) -> set[str]:
        return {m["t"] for m in self.messages}

    def right(self) -> bool:
        """Whether the page has the image of the source, pixel by pixel."""
        whole = self.source.image(0)
        assert whole is not None
        truth = np.full(whole.shape, np.nan, np.float32)
        for tile in whole.tiles:
            truth[tile.rows, tile.columns] = tile.phase
        low, high, bits = LAYERS["phase"]
        code = self.layers["phase"].astype(float)
        shown = np.where(code == 0, np.nan, low + (code - 1) / ((1 << bits) - 2) * (high - low))
        return bool(np.allclose(shown, truth, atol=1e-3, equal_nan=True))


def test_nobody_looks_nothing_is_sent() -> None:
    browser = Browser()
    assert browser.run(2.0) == []


def test_the_page_has_the_image_and_all_the_news() -> None:
    browser = Browser(size=200, frames=400)
    browser.say("hello")
    browser.run(5.0)
    assert browser.kinds() == {"news", "path", "frame", "canvas", "tiles"}
    assert browser.right()
    news = [m for m in browser.messages if m["t"] == "news"][-1]
    assert (news["engine"], news["inferred"], news["actions"]) == ("idle", 400, list(ACTIONS))


def test_no_more_than_three_messages_are_on_their_way_and_the_latest_wins() -> None:
    browser = Browser()
    browser.say("hello")
    browser.run(1.0)
    first = browser.run(3.0, answering=False)
    assert len(first) <= WINDOW + 4, "one turn may say several things; then all is quiet"
    browser.acknowledge()
    browser.run(0.2)
    assert browser.right(), "what changed meanwhile came at once, in its latest state"


def test_a_slow_line_gets_less_at_a_time_and_compressed() -> None:
    browser = Browser(frames=16384, frames_per_second=400)
    browser.say("hello")
    for _ in range(40):  # each message takes half a second
        browser.now += 0.5
        browser.feed.tick()
        browser.now += 0.5
        for message in browser.messages[-5:]:
            browser.say("ack", n=message["n"])
    sizes = [sum(h * w for _, _, h, w in m["places"]) * 4 for m in browser.messages if m["t"] == "tiles"]
    assert [m["deflate"] for m in browser.messages if m["t"] == "tiles"][-1] is True
    assert sizes[-1] <= 1 << 16 < max(sizes)


def test_a_second_viewer_gets_all_and_the_slower_one_sets_the_pace() -> None:
    browser = Browser()
    browser.say("hello")
    browser.run(3.0)
    before = len(browser.messages)
    browser.say("hello", "b")
    browser.now += 0.04
    browser.feed.tick()
    browser.acknowledge("a")
    browser.acknowledge("b")
    browser.run(0.4, answering=False)
    assert {"canvas", "path", "news"} <= {m["t"] for m in browser.messages[before:]}
    assert browser.feed.viewers == 2
    quiet = browser.run(2.0)  # only a answers
    assert len(quiet) <= WINDOW + 4
    browser.run(5.0)
    assert browser.feed.viewers == 1, "who says nothing for five seconds is gone"


def test_who_is_gone_is_forgotten() -> None:
    browser = Browser()
    browser.say("hello")
    browser.say("bye")
    assert browser.feed.viewers == 0
    assert browser.run(1.0) == []
    browser.say("ack", "stranger", n=5)
    assert browser.feed.viewers == 0


def test_while_the_kernel_is_deaf_images_go_on_and_all_of_them_again_now_and_then() -> None:
    browser = Browser()
    browser.feed.expect_viewer()  # displayed, but its greeting waits behind the cell
    browser.hearing = False
    came = browser.run(12.0, answering=False)
    assert 10 < len(came) < 120
    assert sum(m["t"] == "canvas" for m in came) >= 2
    assert browser.feed.viewers == 1


def test_overlays_are_sent_to_those_who_look_at_them() -> None:
    browser = Browser()
    browser.say("hello")
    browser.run(1.0)
    assert all(m["layers"] == ["phase", "amplitude"] for m in browser.messages if m["t"] == "tiles")
    browser.say("show", layers=["phase", "amplitude", "confidence", "secrets"], job="")
    came = browser.run(0.5)
    assert all(m["layers"] == ["phase", "amplitude", "confidence"] for m in came if m["t"] == "tiles")
    assert browser.layers["confidence"].any()


def test_the_picture_of_a_job_comes_when_asked_for_and_again_when_it_is_better() -> None:
    browser = Browser()
    browser.say("hello")
    browser.run(0.5)
    browser.say("act", id="1", action="dispatch")
    browser.run(3.0)
    assert "picture" not in browser.kinds()
    browser.say("show", layers=["phase"], job="simulated-0001")
    came = [m for m in browser.run(20.0) if m["t"] == "picture"]
    assert len(came) > 3
    assert [m["final"] for m in came][-1] is True
    assert came[0]["final"] is False


@pytest.mark.parametrize(
    ("action", "after"), [("pause", "paused"), ("abort", "idle"), ("stop_and_keep", "idle"), ("dispatch", "running")]
)
def test_an_action_is_done_and_answered(action: str, after: str) -> None:
    browser = Browser()
    browser.say("hello")
    browser.run(0.5)
    browser.say("act", id="7", action=action)
    reply = browser.messages[-1]
    assert (reply["t"], reply["id"], reply["ok"]) == ("reply", "7", True)
    assert browser.source.state == after


def test_what_cannot_be_done_is_said_and_nothing_breaks(monkeypatch: pytest.MonkeyPatch) -> None:
    browser = Browser()
    browser.say("hello")
    browser.run(0.5)
    for action, words in (
        ("resume", "the scan is running"),
        ("explode", "not allowed"),
        ("cancel_job", "does not run"),
    ):
        browser.say("act", id=action, action=action, job="nothing")
        assert browser.messages[-1]["ok"] is False
        assert words in browser.messages[-1]["text"]
    monkeypatch.setattr(type(browser.source), "actions", property(lambda _: ()))
    browser.say("act", id="8", action="pause")
    assert "not allowed" in browser.messages[-1]["text"]
    assert browser.source.state == "running"
    for nonsense in ({}, {"t": "ack"}, {"t": "show", "viewer": "a", "layers": []}, {"t": "unheard of"}):
        browser.feed.hear(nonsense)


def test_a_source_that_stumbles_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    browser = Browser()
    browser.say("hello")

    def stumble() -> None:
        raise PlanError("no news today")

    good: Callable[[], Any] = browser.source.snapshot
    browser.source.snapshot = stumble  # type: ignore[method-assign, assignment]
    browser.run(1.0)
    assert len([r for r in caplog.records if "stumbled" in r.message]) == 1
    browser.source.snapshot = good  # type: ignore[method-assign]
    browser.run(1.0)
    assert "news" in browser.kinds()


def test_a_new_run_clears_the_canvas() -> None:
    browser = Browser(size=128, frames=100, repeat=True)
    browser.say("hello")
    browser.run(1.5)
    runs = [m["run"] for m in browser.messages if m["t"] == "canvas"]
    assert runs == ["simulated-run-1", "simulated-run-2"]
