"""The live image as pvAccess records and as arrays in Tiled."""

from __future__ import annotations

import queue
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ptycho_bluesky.config import settings
from ptycho_bluesky.errors import SourceError
from ptycho_bluesky.stream import LiveView
from ptycho_bluesky.stream.outputs import TiledOutput, check_outputs

Shown = tuple[str, Callable[..., None]]


def test_outputs_that_are_none_are_refused_together() -> None:
    with pytest.raises(SourceError, match=r"2 faults.*'carrier-pigeon://loft'.*'pva://'.*give pva://PREFIX"):
        check_outputs(["carrier-pigeon://loft", "pva://a", "pva://"])


def test_the_image_as_pvaccess_records_while_tiled_is_away(
    shown: Shown, loopback: dict[str, str], tmp_path: Path
) -> None:
    pytest.importorskip("pvaccess", reason="needs pvapy (extra epics)")
    name, add = shown
    add(0, 0)
    command = [
        sys.executable,
        "-m",
        "ptycho_bluesky.stream.outputs",
        name,
        "pva://test:live",
        "tiled+http://127.0.0.1:9",
    ]
    serving = subprocess.Popen(command, env=loopback, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        add(40, 50)
        for record in ("Phase", "Confidence"):
            path = str(tmp_path / f"{record}.npy")
            watch = [sys.executable, str(Path(__file__).with_name("monitor.py")), f"test:live:{record}", "2", path]
            subprocess.run(watch, env=loopback, check=True, timeout=60)
        with LiveView(name) as view:
            image = view.image()
            end = time.monotonic() + 20
            while "Connect" not in (states := view.status().outputs).get("tiled+http://127.0.0.1:9", ""):
                assert time.monotonic() < end, states
                time.sleep(0.05)
        assert states["pva://test:live"] == "ok"
        assert image is not None
        np.testing.assert_array_equal(np.load(tmp_path / "Phase.npy"), image.phase)
        np.testing.assert_array_equal(np.load(tmp_path / "Confidence.npy"), image.confidence)
    finally:
        begun = time.monotonic()
        assert serving.stdin is not None
        serving.stdin.close()
        serving.wait(20)
    assert time.monotonic() - begun < 15, "an output that hangs does not keep the process"


@pytest.fixture
def tiled(catalog_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    from ptycho_bluesky.catalog import connect

    client = connect()
    monkeypatch.setenv("PTYCHO_BLUESKY_TILED_API_KEY", client.context.api_key)
    settings.cache_clear()
    yield client
    client.context.close()
    settings.cache_clear()


@pytest.mark.filterwarnings(
    r"ignore:connect\(\) must be used as a context manager:DeprecationWarning"
)  # Tiled's client
def test_the_image_in_tiled_grows_piece_by_piece_and_a_subscriber_sees_it(shown: Shown, tiled: Any) -> None:
    name, add = shown
    sizes: list[int] = []
    pieces: queue.Queue[Any] = queue.Queue()

    def hear(update: Any) -> None:
        pieces.put(update.data())

    subscription: Any = None
    output = TiledOutput(str(tiled.context.api_uri), name)
    with LiveView(name) as view:
        number = 0
        for k, (y, x) in enumerate([(0, 0), (200, 230), (10, 20)]):
            add(y, x)
            changes = view.changes(number)
            assert changes is not None
            output.show(changes)
            number = changes.number
            if k == 0:
                hook = output._client.context.http_client.event_hooks
                send = {**hook, "request": [*hook["request"], lambda r: sizes.append(len(r.content))]}
                output._client.context.http_client.event_hooks = send
                continue
            image = view.image()
            assert image is not None
            found = tiled["live", name]
            for key in ("phase", "amplitude", "confidence"):
                np.testing.assert_array_equal(found[key].read(), getattr(image, key))
            said = found.metadata
            assert (said["run_uid"], said["frames"], said["number"]) == ("run", k + 1, number)
            assert said["origin"] == pytest.approx(image.origin) and said["pixel_size"] == pytest.approx(1e-8)
            if subscription is None:
                subscription = found["phase"].subscribe()
                subscription.new_data.add_callback(hear)
                subscription.start_in_thread()
        assert image is not None
        np.testing.assert_array_equal(pieces.get(timeout=30), image.phase[:256, :256])
        subscription.disconnect()
    assert 0 < max(sizes) < 1_000_000
    output.close()
