"""The dashboard as a web page: who may look, what he gets, and that he cannot act."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from starlette.websockets import WebSocketDisconnect

from ptycho_bluesky._session._source import ViewSource
from ptycho_bluesky._session._watch import watch_app
from ptycho_bluesky.errors import SessionError
from ptycho_bluesky.jupyter import SimulatedSource
from ptycho_bluesky.stream import LiveBoard, live_views

with warnings.catch_warnings():  # that it will be called httpx2
    warnings.simplefilter("ignore")
    from starlette.testclient import TestClient

HERE, FEED = "http://127.0.0.1:8060", "ws://127.0.0.1:8060/feed"


class Shown(SimulatedSource):
    """The simulated beamline, without its buttons."""

    actions = ()

    def __init__(self) -> None:
        super().__init__(size=128, frames=16, frames_per_second=1e4)
        self.closed = False

    def close(self) -> None:
        self.closed = True


def unpacked(message: bytes) -> tuple[dict[str, Any], list[bytes]]:
    length = int.from_bytes(message[:4], "little")
    header, at, buffers = json.loads(message[4 : 4 + length]), 4 + length, []
    for size in header["sizes"]:
        buffers.append(message[at : at + size])
        at += -(-size // 8) * 8
    return header, buffers


def test_the_page_of_this_machine() -> None:
    with TestClient(watch_app(Shown), base_url=HERE) as client:
        page = client.get("/")
        assert page.status_code == 200
        assert "socketLink" in page.text
        assert not re.search(r"(src|href)\s*=\s*[\"']?(https?:)?//", page.text)  # nothing comes from elsewhere
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert client.get("/health").json() == {"viewers": 0}


def test_who_may_not_look() -> None:
    with TestClient(watch_app(Shown), base_url="http://evil.example") as client:  # a name that was made to lead here
        assert client.get("/").status_code == 401
        with pytest.raises(WebSocketDisconnect), client.websocket_connect("ws://evil.example/feed"):
            pass
    with TestClient(watch_app(Shown), base_url=HERE) as client:
        headers = {"origin": "http://evil.example"}  # another site's page
        with pytest.raises(WebSocketDisconnect), client.websocket_connect(FEED, headers=headers):
            pass


def test_beyond_this_machine_with_a_key_alone() -> None:
    with TestClient(watch_app(Shown, "secret"), base_url="http://beamline:8060") as client:
        assert [client.get(where).status_code for where in ("/", "/?key=secre", "/?key=secret")] == [401, 401, 200]
        with pytest.raises(WebSocketDisconnect), client.websocket_connect(FEED):
            pass
        with client.websocket_connect(f"{FEED}?key=secret") as socket:
            socket.send_text('{"t": "hello", "viewer": "a"}')
            assert unpacked(socket.receive_bytes())[0]["t"] == "news"


def test_two_viewers_see_the_image_and_none_can_act() -> None:
    made: list[Shown] = []

    def make() -> Any:
        made.append(Shown())
        return made[-1]

    with TestClient(watch_app(make), base_url=HERE) as client:
        with client.websocket_connect(FEED) as first, client.websocket_connect(FEED) as second:
            assert client.get("/health").json() == {"viewers": 2}
            for socket in (first, second):
                socket.send_text("nonsense")
                socket.send_text('{"t": "hello", "viewer": "a"}')
                seen: dict[str, Any] = {}
                while "tiles" not in seen:
                    header, buffers = unpacked(socket.receive_bytes())
                    seen[header["t"]] = header, buffers
                    socket.send_text(json.dumps({"t": "ack", "viewer": "a", "n": header["n"]}))
                header, buffers = seen["tiles"]
                pixels = np.frombuffer(buffers[0], np.uint16)
                assert pixels.size == sum(h * w for _, _, h, w in header["places"])
                assert pixels.any()
                assert seen["news"][0]["actions"] == []
            first.send_text('{"t": "act", "action": "abort", "id": 5}')
            while (header := unpacked(first.receive_bytes())[0])["t"] != "reply":
                first.send_text(json.dumps({"t": "ack", "viewer": "a", "n": header["n"]}))
            assert (header["ok"], header["id"]) == (False, 5)
        deadline = time.monotonic() + 20
        while client.get("/health").json() != {"viewers": 0} or not all(source.closed for source in made):
            assert time.monotonic() < deadline
            time.sleep(0.01)


# what it finds --------------------------------------------------------------------------------------------------------


def test_it_waits_for_a_session_and_finds_it(tmp_path: Path, use_home: Callable[[Path], Path]) -> None:
    use_home(tmp_path)
    name = f"watched-{os.getpid()}"
    source = ViewSource(name)
    assert source.snapshot().title == "waiting for a live session"
    assert source.image(0) is None
    with pytest.raises(SessionError, match="only shows"):
        source.act("abort")
    board = LiveBoard.create(name)
    try:
        status = {"state": "running", "run_uid": "r1", "frames": 10, "frames_expected": 50, "frames_per_second": 4.0}
        start = {"uid": "r1", "ptychography": BLOCK}
        board.write({**status, "pid": os.getpid(), "process_started": 0.0, "resume": {"start": start}})
        news = source.snapshot()
        assert (news.frames, news.seconds_left, news.live, news.path_points) == (10, 10.0, "failed", 9)
        middle = source.path().mean(axis=0)  # half a frame from where patches begin
        field_m = 12.398419843320026e-10 / 8.8 * 2.0 / 75e-6
        assert middle == pytest.approx([field_m / 2] * 2)
        board.write({**status, "resume": {"start": None}})
        assert source.snapshot().path_points == 9  # it is the same run
    finally:
        board.close()
        board.segment.unlink()
    assert name not in live_views()
    assert source.snapshot().frames == 0
    source.close()


BLOCK = {
    "frames_key": "f",
    "position_keys": ["y", "x"],
    "position_unit": "um",
    "geometry": {"energy_kev": 8.8, "distance_m": 2.0, "detector_pixel_m": 75e-6},
    "pattern": {
        "name": "raster",
        "parameters": {"height_m": 4e-7, "width_m": 4e-7, "step_m": 2e-7},
        "num_points": 9,
    },
}


@pytest.mark.timeout(120)
def test_the_command_serves_and_leaves_when_told(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ptycho_bluesky.cli", "watch", "--port", "0", "--key", "k", "--json"]
    environment = os.environ | {"PTYCHO_BLUESKY_HOME": str(tmp_path)}
    with subprocess.Popen(command, env=environment, stdout=-1, stderr=-1, text=True) as process:
        assert process.stderr is not None
        assert process.stdout is not None
        address = process.stderr.readline().split()[2]
        try:
            page = httpx.get(address, trust_env=False, timeout=60)
        finally:
            process.send_signal(signal.SIGTERM)
        assert page.status_code == 200
        assert json.loads(process.stdout.read()) == {"address": address.partition("?")[0], "state": "ended"}
        assert process.wait(60) == 0


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    from ptycho_bluesky.cli._watch import _listen
    from ptycho_bluesky.errors import ConfigurationError

    with _listen("127.0.0.1", 0) as taken, pytest.raises(ConfigurationError, match="choose another --port"):
        _listen("127.0.0.1", taken.getsockname()[1])
