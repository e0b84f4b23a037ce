"""A process in which OpenVINO has computed still takes signals: without its stack given back, Ctrl-C would end it."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import faulthandler, signal
faulthandler.enable()  # gives the main thread a stack for signals, as pytest and IPython do
import numpy as np
from torch import nn
from ptycho_bluesky.inference.backends._openvino import OpenVinoBackend
frames = np.random.default_rng(0).random((2, 1, 16, 16), np.float32)
backend = OpenVinoBackend(nn.Conv2d(1, 16, 3).eval(), frames, "bf16", 2)
backend(frames)
signal.signal(signal.SIGINT, lambda *_: print("taken", flush=True))
signal.raise_signal(signal.SIGINT)
"""


def test_a_signal_after_openvino() -> None:
    pytest.importorskip("openvino", reason="openvino is not installed (extra edge)")
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stdout) == (0, "taken\n"), done.stderr[-1000:]
