"""A small ProbeViT, a probe with some structure everywhere, and frames."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ptycho_bluesky.config import settings
from ptycho_bluesky.inference import ProbeViT, ProbeViTSizes
from ptycho_bluesky.inference.backends._example import example_frames

N = 32


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """Exported networks and choices of each test in a folder of its own."""
    monkeypatch.setenv("PTYCHO_BLUESKY_HOME", str(tmp_path))
    settings.cache_clear()
    yield tmp_path
    settings.cache_clear()


@pytest.fixture(scope="session")
def network() -> ProbeViT:
    torch.manual_seed(0)
    sizes = ProbeViTSizes(size=N, width=32, depth=1, heads=2, features=2, hidden=16, iterations=3)
    made = ProbeViT(sizes).eval()
    with torch.no_grad():  # a network that changes something
        for layer in (made.head, made.refine[-2]):
            layer.weight.mul_(10)
    return made


@pytest.fixture(scope="session")
def probe() -> np.ndarray:
    rng, x = np.random.default_rng(1), np.arange(N) - N // 2
    main = np.exp(-(x[:, None] ** 2 + x[None] ** 2) * (1 / 50 - 0.02j))
    waves = np.stack([main, 0.1 * main * x]) + 3e-3 * (rng.normal(size=(2, N, N)) + 1j * rng.normal(size=(2, N, N)))
    return (waves / np.linalg.norm(waves)).astype(np.complex64)


@pytest.fixture(scope="session")
def good() -> np.ndarray:
    made = np.ones((N, N), bool)
    made[4:6, 10:20] = made[0, 0] = False
    return made


@pytest.fixture(scope="session")
def frames(probe, good) -> np.ndarray:
    made = example_frames(probe, good, 10)
    made[2, 7, 8], made[3, 0, 5], made[4, 31, 31] = 60_000, 50_000, 40_000  # hot pixels, also at the edge
    made[5] = 0
    return made
