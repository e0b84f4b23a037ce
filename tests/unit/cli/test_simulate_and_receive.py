"""``simulate`` and ``receive``: usage, reports, and errors in one line."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from ptycho_bluesky.cli import app
from ptycho_bluesky.errors import PtychoError
from ptycho_bluesky.experiment import PtychoDataset
from ptycho_bluesky.formats import save_dataset
from ptycho_bluesky.stream.simulators import (
    EigerTransmitter,
    Faults,
    SimulatorOptions,
    run_simulator,
    simulated_patterns,
)

runner = CliRunner()


def run(*arguments: Any) -> dict[str, Any]:
    done = runner.invoke(app, [*map(str, arguments), "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert done.stdout.count("\n") == 1
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@pytest.fixture(autouse=True)
def no_signals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pytest keeps its own handlers."""
    monkeypatch.setattr("signal.signal", lambda *_: None)


def test_a_recorded_dataset_through_a_file(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).poisson(9, (12, 32, 32)).astype(np.uint16)
    save_dataset(tmp_path / "scan.npz", PtychoDataset(frames, np.random.default_rng(1).uniform(0, 9, (12, 2))))
    path = tmp_path / "out.h5"
    sent = run("simulate", "hdf5", path, "-i", tmp_path / "scan.npz", "--frames", 24, "--rate", 0)
    assert (sent["sent"], sent["refused"], sent["series"]) == (24, 0, 1)
    got = run("receive", sent["uri"])
    assert (got["frames"], got["ended"], got["shape"], got["dtype"]) == (24, True, [32, 32], "uint16")
    assert got["counts"] == dict.fromkeys(got["counts"], 0) | {"received": 24, "damaged": {}}
    few = run("receive", sent["uri"], "--frames", 1, "--policy", "drop-oldest")
    assert not few["ended"]


@pytest.mark.parametrize(("dtype", "largest", "sent_as"), [("float32", 900.0, "uint16"), ("int32", 70_000, "uint32")])
def test_recorded_floats_and_signed_numbers_are_sent_as_counts(
    tmp_path: Path, dtype: str, largest: float, sent_as: str
) -> None:
    frames = np.zeros((6, 16, 16), dtype)
    frames[:, 3, 4] = largest
    save_dataset(tmp_path / "scan.npz", PtychoDataset(frames, np.random.default_rng(1).uniform(0, 9, (6, 2))))
    sent = run("simulate", "hdf5", tmp_path / "out.h5", "-i", tmp_path / "scan.npz", "--frames", 6, "--rate", 0)
    assert run("receive", sent["uri"])["dtype"] == sent_as


def test_a_detector_that_nobody_listens_to_says_so_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ptycho_bluesky.stream.simulators._eiger.LINGER_MS", 300)
    with pytest.raises(PtychoError, match=r"nobody took a frame from eiger://127.0.0.1:\d+ \(5 refused\); begin"):
        runner.invoke(app, ["simulate", "eiger", "0", "--frames", "5", "--size", "16"], catch_exceptions=False)


def test_what_is_wrong_is_counted() -> None:
    detector = EigerTransmitter(0, "json")
    options = SimulatorOptions(frames=50, rate_hz=0, faults=Faults(drop_every=10, corrupt_every=15))

    def send() -> None:
        run_simulator(detector, simulated_patterns(4, 32), options)
        detector.close()

    thread = threading.Thread(target=send)
    thread.start()
    counts = run("receive", detector.uri)["counts"]
    thread.join(30)
    assert (counts["received"], counts["dropped"]) == (43, 4)  # nobody can know of the last frame
    assert counts["damaged"] == {"bslz4 data cannot be decompressed": 2}


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["simulate", "ring", "test-cli", "--fault", "drop-every"], "has no '='"),
        (["simulate", "ring", "test-cli", "--fault", "drop-every=1", "--fault", "boom=2"], r"\(2 faults\).*drop_every"),
        (["simulate", "hdf5", "/nowhere/a.h5"], "cannot be written"),
        (["receive", "eiger://127.0.0.1:9", "--silence", "0.3"], "no frame came.*nothing answers"),
        (["receive", "tcp://a"], "give one of"),
    ],
)
def test_errors_say_what_to_do(arguments: list[str], text: str) -> None:
    with pytest.raises(PtychoError, match=text):
        runner.invoke(
            app, [*arguments, *(["--size", "32"] if arguments[0] == "simulate" else [])], catch_exceptions=False
        )
