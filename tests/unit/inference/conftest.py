"""Fixtures of the network's tests."""

from __future__ import annotations

import pytest
import torch

from ptycho_bluesky.inference import ProbeViT, ProbeViTModel, ProbeViTSizes

SMALL = ProbeViTSizes(size=32, width=16, depth=1, heads=2, features=2, hidden=8, iterations=2)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def small() -> ProbeViTModel:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return ProbeViTModel("small", ProbeViT(SMALL).eval(), "", {"seed": 1})
