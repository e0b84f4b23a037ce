"""Reconstruction on a GPU: as good as on a CPU, the same with and without graphs, with every engine and data type."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ptycho_bluesky.reconstruction import ENGINES, reconstruct
from ptycho_bluesky.reconstruction._problem import prepare
from ptycho_bluesky.reconstruction.kernels import Steps, _cuda_kernels, kernels_for
from ptycho_bluesky.reconstruction.kernels._batches import BatchKernels
from ptycho_bluesky.reconstruction.kernels._cuda_kernels import CudaKernels

pytestmark = pytest.mark.hardware

STEPS = Steps(object=0.8, probe=0.5, alpha_object=0.5, alpha_probe=1.0)


@pytest.fixture(scope="module")
def problem(scan):
    return prepare(scan, 2)


@pytest.fixture
def make_kernels(problem, cuda):
    pytest.importorskip("cupy", reason="CuPy is not installed (extras cuda12, cuda13)")
    waves = kernels_for(problem, cuda).waves
    return lambda **how: CudaKernels(problem, waves, **how)


def swept(kernels, problem, epochs=3):
    model, rng = problem.start, np.random.default_rng(3)
    for _ in range(epochs):
        result = kernels.sweep(model, problem.groups(model, 2), STEPS, rng)
        model = result.model
    return result


def test_a_sweep_is_that_of_the_cpu(problem, make_kernels):
    a, b = swept(make_kernels(batch=8), problem), swept(BatchKernels(problem, "cpu", batch=8), problem)
    assert a.error == pytest.approx(b.error, rel=0.01)
    assert np.linalg.norm(a.model.object - b.model.object) < 0.01 * np.linalg.norm(b.model.object)


@pytest.mark.parametrize("kernels", ["auto", "torch"])
def test_the_gpu_gets_where_the_cpu_gets(scan, cuda, kernels):
    """Frame by frame, an epoch brings more than by batches: four of these for one of those."""
    there = reconstruct(scan, "fast", {"modes": 2, "epochs": 160, "kernels": kernels}, device=cuda)
    here = reconstruct(scan, "fast", {"modes": 2, "epochs": 40})
    assert there.r_factor < 1.01 * here.r_factor


def test_graphs_change_nothing(problem, make_kernels):
    captured, eager = make_kernels(), make_kernels(graphs=False)
    a, b = swept(captured, problem), swept(eager, problem)
    assert captured._place._graph is not None and eager._place._graph is None
    assert a.error == pytest.approx(b.error, rel=1e-5)
    # Atomic additions come in another order each time.
    assert np.linalg.norm(a.model.object - b.model.object) < 1e-3 * np.linalg.norm(b.model.object)


@pytest.mark.parametrize("data_type", ["auto", "uint16", "float16"])
def test_smaller_types_of_frames_lead_to_the_same_place(problem, make_kernels, data_type):
    full, small = (swept(make_kernels(data_type=kind), problem) for kind in ("float32", data_type))
    assert small.error == pytest.approx(full.error, rel=1e-3)


def test_nothing_waits_for_the_gpu_until_the_model_comes_back(problem, make_kernels, monkeypatch):
    kernels, groups, rng = make_kernels(), problem.groups(problem.start, 2), np.random.default_rng(0)
    kernels.sweep(problem.start, groups, STEPS, rng)  # compiles and captures
    come_back = _cuda_kernels._here

    def waiting(tensors):
        torch.cuda.set_sync_debug_mode("default")
        return come_back(tensors)

    monkeypatch.setattr(_cuda_kernels, "_here", waiting)
    torch.cuda.set_sync_debug_mode("error")
    try:
        assert np.isfinite(kernels.sweep(problem.start, groups, STEPS, rng).error)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("engine", sorted(ENGINES))
def test_every_engine_runs(scan, cuda, engine):
    result = reconstruct(scan, engine, {"modes": 2, "epochs": 15}, device=cuda)
    assert result.r_factor < 0.15
    assert cuda in result.provenance["device"]
