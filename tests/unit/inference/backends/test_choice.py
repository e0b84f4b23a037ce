"""What "auto" picks, and what it says."""

from __future__ import annotations

import time

import numpy as np
import pytest

from ptycho_bluesky.errors import InferenceError
from ptycho_bluesky.inference.backends import BackendOptions, Made, choose, probe_engine

FRAMES = np.ones((2, 8, 8), np.float32)


class Fake:
    """An engine that takes its time and is wrong by a share."""

    def __init__(self, name: str, precision: str, seconds: float, wrong: float) -> None:
        self.name, self.precision, self._seconds, self._wrong = name, precision, seconds, wrong

    def __call__(self, frames):
        time.sleep(self._seconds)
        wave = np.exp(1j * np.linspace(0, 3, frames.size)).reshape(frames.shape)
        wave = wave + self._wrong * wave.std()
        return Made(np.angle(wave).astype(np.float32), np.abs(wave).astype(np.float32), None)


class Fakes:
    """Makes engines by a table from (name, precision) to (seconds, wrong); what is not in it cannot be had."""

    def __init__(self, **table) -> None:
        self.table, self.made = table, []

    def __call__(self, options: BackendOptions) -> Fake:
        self.made.append(options)
        key = f"{options.name}_{options.precision}"
        if key not in self.table:
            raise InferenceError(f"{options.name} is not installed")
        return Fake(options.name, options.precision, *self.table[key])


def test_the_fastest_that_is_exact_enough_is_picked_and_kept():
    fakes = Fakes(torch_f32=(0.02, 0), openvino_bf16=(0.004, 0.01), openvino_f32=(0.01, 0), torch_bf16=(0.001, 0.2))
    choice = choose(fakes, "net", FRAMES, BackendOptions())
    assert (choice.options.name, choice.options.precision) == ("openvino", "bf16")
    assert "openvino in bf16" in choice.reason
    assert "allowed 2%" in choice.reason
    table = {f"{row.name} {row.precision}": row for row in choice.table}
    assert table["onnxruntime f32"].fault == "onnxruntime is not installed"
    assert table["torch bf16"].share == pytest.approx(0.2, rel=0.1)
    fakes.made.clear()
    assert choose(fakes, "net", FRAMES, BackendOptions()) == choice
    assert not fakes.made  # as measured before
    assert choose(fakes, "other", FRAMES, BackendOptions()).options == choice.options
    assert fakes.made


def test_what_is_asked_for_is_not_chosen_otherwise(home):
    fakes = Fakes(torch_f32=(0.001, 0), openvino_f32=(0.005, 0), openvino_bf16=(0.002, 0))
    choice = choose(fakes, "net", FRAMES, BackendOptions(precision="bf16"))
    assert (choice.options.name, choice.options.precision) == ("openvino", "bf16")
    for path in (home / "backends").glob("choice-*.json"):
        path.write_text("{}")  # a file that cannot be read is as none
    assert choose(fakes, "net", FRAMES, BackendOptions(precision="bf16")).options == choice.options


def test_where_nothing_is_exact_enough_all_is_said():
    fakes = Fakes(torch_f32=(0.001, 0), openvino_bf16=(0.001, 0.3), torch_bf16=(0.001, 0.3))
    with pytest.raises(InferenceError, match=r"torch bf16: off by \d+.\d%; openvino bf16: off by"):
        choose(fakes, "net", FRAMES, BackendOptions(precision="bf16"))


def test_auto_on_a_real_network(network, probe, good, frames, monkeypatch):
    monkeypatch.setattr("ptycho_bluesky.inference.backends._choice.SECONDS", 0.02)
    auto = probe_engine(network, probe, good, "auto", "test")
    exact = probe_engine(network, probe, good)
    light = (np.abs(probe) ** 2).sum(axis=0)
    gap = np.angle(np.exp(1j * (auto(frames).phase - exact(frames).phase)))
    assert np.sqrt((gap**2 * light).sum() / light.sum() / len(gap)) < 0.05
    assert auto(frames).misfit is not None
    with pytest.raises(InferenceError, match="there is no backend 'abacus'"):
        probe_engine(network, probe, good, "abacus")
