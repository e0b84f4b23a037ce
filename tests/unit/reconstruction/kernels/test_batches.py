"""Sweeps by batches: one frame at a time is the sequential rule, each is visited once, and how models are judged."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ptycho_bluesky.reconstruction._problem import prepare
from ptycho_bluesky.reconstruction.kernels import Steps
from ptycho_bluesky.reconstruction.kernels._batches import BatchKernels, rpie_update
from ptycho_bluesky.reconstruction.kernels._numba import CpuKernels
from ptycho_bluesky.reconstruction.kernels._torch import TorchWaves

STEPS = Steps(object=0.8, probe=0.5, alpha_object=0.5, alpha_probe=1.0)


@pytest.fixture(scope="module")
def problem(star):
    return prepare(star.dataset, 2)


def test_a_batch_of_one_sweeps_as_the_sequential_kernels_do(problem):
    groups = problem.groups(problem.start, 1)
    one, sequential = BatchKernels(problem, "cpu", threads=1, batch=1), CpuKernels(problem, 1)
    a = one.sweep(problem.start, groups, STEPS, np.random.default_rng(0))
    b = sequential.sweep(problem.start, groups, STEPS, np.random.default_rng(0))
    assert a.error == pytest.approx(b.error, rel=0.02)  # the same rule, frames in another order


def test_all_frames_are_visited_once_a_sweep_and_those_of_a_batch_lie_apart(problem):
    kernels = BatchKernels(problem, "cpu", threads=1, batch=8)
    (block,) = kernels._frames.load([0])
    batches = list(kernels._batches(block, np.random.default_rng(0)))
    assert sorted(np.concatenate(batches)) == list(range(len(problem)))
    corners = problem.start.corners[block.frames]
    apart = [np.linalg.norm(corners[b][:, None] - corners[b][None], axis=-1) for b in batches]
    assert np.mean([d[np.triu_indices(len(d), 1)].mean() for d in apart]) > 30


def test_the_r_factor_is_that_of_numpy_with_the_best_scale_over_good_pixels(problem):
    groups = problem.groups(problem.start, 1)
    kernels = BatchKernels(problem, "cpu", threads=1)
    assert kernels.r_factor(problem.start, groups) == pytest.approx(
        CpuKernels(problem, 1).r_factor(problem.start, groups), rel=1e-5
    )


def test_frames_that_overlap_do_not_overshoot():
    """The same frame many times in a batch moves the object no further than once."""
    rng = np.random.default_rng(0)

    def field(*shape: int) -> torch.Tensor:
        return torch.from_numpy(rng.normal(size=shape) + 1j * rng.normal(size=shape))

    waves = TorchWaves(torch.device("cpu"), torch.empty(0, 0))
    obj, probes = torch.ones(20, 20, dtype=torch.complex128), field(1, 1, 16, 16)
    true = waves.exit_waves(field(20, 20), probes, torch.tensor([0]), torch.tensor([[2, 1]]))
    for count in (1, 12):
        groups, corners = torch.zeros(count, dtype=torch.long), torch.tensor([[2, 1]]).repeat(count, 1)
        moved = obj.clone()
        difference = true.repeat(count, 1, 1, 1) - waves.exit_waves(moved, probes, groups, corners)
        rpie_update(waves, moved, probes.clone(), difference, groups, corners, Steps(1, 0, 0.1, 1))
        left = true - waves.exit_waves(moved, probes, groups[:1], corners[:1])
        assert torch.linalg.vector_norm(left) < torch.linalg.vector_norm(difference[0])
