"""Several processes train one network: the same weights in all, and those of one process with the whole batch."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from ptycho_bluesky.errors import InferenceError
from ptycho_bluesky.inference import TrainingOptions
from ptycho_bluesky.inference._batches import Batches
from ptycho_bluesky.inference._ranks import Ranks
from ptycho_bluesky.inference._simulation import simulate_shard


def started(script: Path, pairs: Path, out: Path, **environment: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, str(script), str(pairs), str(out)], env={**os.environ, **environment})


def test_two_ranks_train_as_one(tmp_path):
    shard = simulate_shard((3,), 32, 16)
    fields = ("frames", "objects", "probes", "good", "owner")
    np.savez(tmp_path / "pairs.npz", **{name: getattr(shard, name) for name in fields})
    script = Path(__file__).with_name("training_rank.py")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    ranks = [started(script, tmp_path / "pairs.npz", tmp_path / f"{r}.npz", RANK=str(r), **common) for r in (0, 1)]
    alone = started(script, tmp_path / "pairs.npz", tmp_path / "alone.npz")
    assert [process.wait(120) for process in (*ranks, alone)] == [0, 0, 0]
    first, second, whole = (dict(np.load(tmp_path / f"{name}.npz")) for name in ("0", "1", "alone"))
    assert len(first.pop("curves")) == 2
    assert len(second.pop("curves")) == 0  # the first one validates
    whole.pop("curves")
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name])
        np.testing.assert_allclose(value, whole[name], atol=2e-4)


def test_ranks_see_other_frames():
    options = TrainingOptions(batch=8, shard=16)
    batches = [Batches(options, 16, None, None, rank, 2) for rank in (0, 1)]
    a, b = (each(0).frames for each in batches)
    for each in batches:
        each.close()
    assert a.shape == b.shape == (4, 16, 16)
    assert not torch.equal(a, b)


def test_half_an_environment_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(InferenceError, match=r"RANK.* is not set"), Ranks.joined(torch.device("cpu")):
        pass
