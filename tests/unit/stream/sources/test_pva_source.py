"""pvAccess, in processes whose EPICS variables keep them on loopback and on ports of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pvaccess", reason="needs pvapy (extra epics)")


@pytest.fixture(scope="module")
def done(loopback: dict[str, str]) -> dict[str, Any]:
    script = Path(__file__).with_name("pva_at_work.py")
    ended = subprocess.run(
        [sys.executable, "-W", "error", script], env=loopback, capture_output=True, text=True, timeout=110, check=False
    )
    assert ended.returncode == 0, ended.stderr
    said: dict[str, Any] = json.loads(ended.stdout)
    return said


@pytest.mark.parametrize("codec", ["none", "lz4", "bslz4", "blosc"])
def test_frames_and_their_faults(done: dict[str, Any], codec: str) -> None:
    said = done[codec]
    assert said["numbers"] == [0, 1, 2, 5, 4, 6, 9]
    assert said["same"]
    assert said["timed"]
    corrupt = {} if codec == "none" else {f"{codec} data cannot be decompressed": 1}
    other = {"uint16 of shape (16, 32) in a series of uint16 of shape (32, 32)": 1}
    assert said["damaged"] == corrupt | other
    assert (said["dropped"], said["reordered"], said["repeated"]) == (1 + (codec == "none"), 1, 1)


def test_a_server_that_is_gone_and_back(done: dict[str, Any]) -> None:
    said = done["restart"]
    assert said["first"] == [[0, k] for k in range(10)]
    assert said["second"] == [[1, k] for k in range(5)]
    assert said["nothing"] == []
    assert said["waited"] < 2
    assert said["restarts"] == 1
    assert "'test:again' is gone; waiting for it" in said["fault"]


def test_what_the_record_held_before_is_left_out(done: dict[str, Any]) -> None:
    assert done["stale"] == {"numbers": [0, 1], "series": [0, 0]}


def test_two_processes(loopback: dict[str, str]) -> None:
    """The simulator and ``receive``; however late the client finds the server, the counts must add up."""
    command = [sys.executable, "-W", "error", "-m", "ptycho_bluesky.cli"]
    more = ["--frames", "4000", "--rate", "200", "--size", "32", "--compression", "bslz4", "--fault", "drop-every=5"]
    detector = subprocess.Popen(
        [*command, "simulate", "pva", "test:two", *more], env=loopback, stderr=subprocess.DEVNULL
    )
    try:
        receive = [
            *command,
            "receive",
            "pva://test:two",
            "--frames",
            "100",
            "--seconds",
            "60",
            "--silence",
            "60",
            "--json",
        ]
        ended = subprocess.run(receive, env=loopback, capture_output=True, text=True, timeout=90, check=False)
    finally:
        detector.terminate()
        detector.wait(20)
    assert ended.returncode == 0, ended.stderr
    assert detector.returncode == 0
    said = json.loads(ended.stdout)
    assert said["frames"] >= 100
    assert said["shape"] == [32, 32]
    assert said["counts"]["received"] >= 100
    assert said["counts"]["dropped"] >= said["frames"] // 5
    assert said["counts"]["damaged"] == {}
