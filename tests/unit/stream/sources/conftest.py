"""Simulated detectors as processes of their own, over loopback."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ptycho_bluesky.stream.sources import SourceEnded, SourceFrame

Start = Callable[..., "Simulator"]


class Simulator:
    """``ptycho-bluesky simulate``, with small frames."""

    def __init__(self, *arguments: object, environment: dict[str, str] | None = None) -> None:
        command = [sys.executable, "-W", "error", "-m", "ptycho_bluesky.cli", "simulate", *map(str, arguments)]
        command += ["--size", "32", "--json"]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            command, stdout=pipe, stderr=pipe, text=True, env=os.environ | (environment or {})
        )

    def report(self, timeout_s: float = 30.0) -> dict[str, Any]:
        """Wait for its end and return what it says it did."""
        out, err = self.process.communicate(timeout=timeout_s)
        assert self.process.returncode == 0, err
        said: dict[str, Any] = json.loads(out)
        return said

    def stop(self) -> None:
        self.process.kill()
        if not self.process.stdout.closed:  # type: ignore[union-attr]
            self.process.communicate(timeout=10)


@pytest.fixture
def simulate() -> Iterator[Start]:
    started: list[Simulator] = []

    def start(*arguments: object, **more: Any) -> Simulator:
        started.append(Simulator(*arguments, **more))
        return started[-1]

    yield start
    for simulator in started:
        simulator.stop()


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def read_until(source: Any, done: Callable[[list[SourceFrame]], bool], timeout_s: float = 20.0) -> list[SourceFrame]:
    """Read until `done` or the end of the series."""
    frames: list[SourceFrame] = []
    end = time.monotonic() + timeout_s
    while not done(frames):
        assert time.monotonic() < end, f"{len(frames)} frames, {source.counts}, {source.fault}"
        try:
            frames += source.read(0.2)
        except SourceEnded:
            break
    return frames


@pytest.fixture
def to_the_end() -> Callable[[Any], list[SourceFrame]]:
    return lambda source: read_until(source, lambda _: False)


@pytest.fixture
def reading() -> Callable[..., list[SourceFrame]]:
    return read_until
