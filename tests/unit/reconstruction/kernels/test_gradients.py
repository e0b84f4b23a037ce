"""The likelihood's slope and curvature by fused passes, against torch in float64."""

from __future__ import annotations

from dataclasses import replace

import numba
import numpy as np
import pytest
import torch

from ptycho_bluesky.experiment import Geometry, fermat
from ptycho_bluesky.optics import FarField, NearField, simulate_dataset
from ptycho_bluesky.reconstruction._amplitudes import BAD_PIXEL, MemoryAmplitudes
from ptycho_bluesky.reconstruction._groups import ProbeGroups
from ptycho_bluesky.reconstruction._problem import Problem, prepare
from ptycho_bluesky.reconstruction.engines._batch_model import BatchProblem
from ptycho_bluesky.reconstruction.engines._cpu_sums import CpuSums
from ptycho_bluesky.reconstruction.engines._likelihood import Likelihood, Point
from ptycho_bluesky.reconstruction.kernels import _strips as layout
from ptycho_bluesky.transforms import load, logarithm, store

GEOMETRY = Geometry(energy_kev=8.8, distance_m=0.475, detector_pixel_m=75e-6)
NEAR = {"pixel_size_m": 1e-7, "wavelength_m": 1e-10, "distance_m": 2e-3}
FRAMES = 100
"""Enough for two threads."""


def problem_of(size: int, modes: int, far: bool, seed: int) -> Problem:
    """Return a hundred frames in blocks of 100 / 2, with bad pixels, that belong to two probes in turn."""
    rng, pixel = np.random.default_rng(seed), GEOMETRY.pixel_size_m(size)
    obj = np.exp(1j * rng.normal(0, 0.5, (size + 40, size + 40))).astype(np.complex64)
    y, x = np.indices((size, size)) - size / 2
    probe = np.exp(-(y**2 + x**2) / 18 + 0.1j * x * y).astype(np.complex64)[None]
    pattern = fermat(30 * pixel, 30 * pixel, 2.6 * pixel)
    pattern = replace(pattern, positions=pattern.positions[:FRAMES])
    found = prepare(simulate_dataset(obj, probe, pattern, GEOMETRY, 20_000), modes)
    amplitude = found.amplitudes.of(np.arange(FRAMES))
    amplitude[:, rng.random((size, size)) < 0.05] = BAD_PIXEL
    probes = np.stack([found.start.probe[0], found.start.probe[0] * 0.9])
    return replace(
        found,
        amplitudes=MemoryAmplitudes(amplitude, found.start.corners, 100),
        sets=np.arange(FRAMES) % 2,
        propagator=FarField(size) if far else NearField(size, **NEAR),
        start=replace(found.start, probe=probes, background=rng.gamma(2, 0.2, (size, size)).astype(np.float32)),
    )


def likelihoods(
    problem: Problem, noise: str, background: bool, threads: int = 1
) -> tuple[Likelihood, Likelihood, ProbeGroups]:
    """Return the one of the passes and the one in torch, in double precision."""
    start = problem.start if background else replace(problem.start, background=None)
    groups = problem.groups(start, 2)
    single, double = (BatchProblem(problem, "cpu", 1, 16, kind) for kind in (torch.float32, torch.float64))
    sums = CpuSums(problem, groups, threads)
    options = (start, groups, noise, 0.1, 0.0, background)
    return Likelihood(single, *options, sums), Likelihood(double, *options), groups


def moved(point: Point, seed: int, scale: float) -> tuple[Point, Point]:
    """Return a place that is no solution, and a direction, both in float32."""
    rng = np.random.default_rng(seed)

    def noise(tensor: torch.Tensor, scale: float) -> torch.Tensor:
        values = rng.normal(0, scale, tuple(tensor.shape))
        if tensor.is_complex():
            values = values + 1j * rng.normal(0, scale, tuple(tensor.shape))
        return torch.from_numpy(values).to(tensor.dtype)

    way = None if point.background is None else noise(point.background, 0.3)
    direction = Point(noise(point.object, 0.3), noise(point.probe, scale), way)
    return Point(point.object + noise(point.object, 0.2), point.probe, point.background), direction


def double(point: Point) -> Point:
    background = None if point.background is None else point.background.double()
    return Point(point.object.to(torch.complex128), point.probe.to(torch.complex128), background)


def assert_close(found: torch.Tensor | None, expected: torch.Tensor | None) -> None:
    if found is None or expected is None:
        assert found is None and expected is None
        return
    assert float((found - expected).abs().max()) < 1e-4 * float(expected.abs().max())


@pytest.mark.parametrize("noise", ["gaussian", "poisson"])
@pytest.mark.parametrize("background", [False, True], ids=["dark", "background"])
@pytest.mark.parametrize("far", [True, False], ids=["far", "near"])
@pytest.mark.parametrize(("size", "modes"), [(16, 1), (20, 3)])
def test_slope_and_curvature_are_those_of_torch_in_float64(noise, background, far, size, modes):
    problem = problem_of(size, modes, far, seed=size + modes)
    ours, theirs, groups = likelihoods(problem, noise, background)
    assert len(groups.sets) > 4 and len(problem.amplitudes.blocks) == 1
    point, direction = moved(ours.start, 3, float(np.abs(problem.start.probe).mean()))
    found, expected = ours.slope(point), theirs.slope(double(point))
    assert found.loss == pytest.approx(expected.loss, rel=1e-4)
    assert found.r_factor == pytest.approx(expected.r_factor, rel=1e-4)
    for one, other in ((found.gradient, expected.gradient), (found.downhill, expected.downhill)):
        assert_close(one.object, other.object)
        assert_close(one.probe, other.probe)
        assert_close(one.background, other.background)
    assert ours.curvature(point, direction) == pytest.approx(
        theirs.curvature(double(point), double(direction)), rel=1e-4
    )


def test_threads_agree_and_repeat_themselves_bit_by_bit():
    problem = problem_of(20, 2, far=True, seed=5)
    slopes, bends = [], []
    for threads in (1, 2, 2):
        ours, _, _ = likelihoods(problem, "poisson", background=True, threads=threads)
        point, direction = moved(ours.start, 3, 1.0)
        slopes.append(ours.slope(point))
        bends.append(ours.curvature(point, direction))
    one, two, again = (slope.gradient for slope in slopes)
    assert_close(two.object, one.object)
    assert_close(two.probe, one.probe)
    for name in ("object", "probe", "background"):
        assert torch.equal(getattr(two, name), getattr(again, name))
    assert bends[1] == bends[2] == pytest.approx(bends[0], rel=1e-5)
    assert slopes[1].loss == slopes[2].loss == pytest.approx(slopes[0].loss, rel=1e-5)


def test_blocks_sum_up():
    problem = problem_of(16, 1, far=True, seed=6)
    amplitudes = problem.amplitudes
    assert isinstance(amplitudes, MemoryAmplitudes)
    cut = replace(problem, amplitudes=MemoryAmplitudes(amplitudes.array, problem.start.corners, 30))
    assert len(cut.amplitudes.blocks) == 4
    (whole, _, _), (parts, _, _) = (likelihoods(p, "gaussian", background=True) for p in (problem, cut))
    point, direction = moved(whole.start, 3, 1.0)
    one, other = whole.slope(point), parts.slope(point)
    assert_close(other.gradient.object, one.gradient.object)
    assert_close(other.gradient.background, one.gradient.background)
    assert parts.curvature(point, direction) == pytest.approx(whole.curvature(point, direction), rel=1e-5)


@pytest.mark.parametrize("far", [True, False], ids=["far", "near"])
@pytest.mark.parametrize("background", [False, True], ids=["dark", "background"])
def test_the_r_factor_counts_the_background(far, background):
    problem = problem_of(20, 2, far, seed=7)
    start = problem.start if background else replace(problem.start, background=None)
    groups = problem.groups(start, 2)
    judges = (CpuSums(problem, groups), BatchProblem(problem, "cpu", 1, 16, torch.float64))
    one, other = (judge.r_factor(start, groups) for judge in judges)
    assert one == pytest.approx(other, rel=1e-5)


def test_a_number_that_is_not_finite_shows_up_in_the_loss():
    problem = problem_of(16, 1, far=True, seed=8)
    for noise in ("gaussian", "poisson"):
        ours, _, _ = likelihoods(problem, noise, background=False)
        ours.start.object[25, 25] = np.nan
        assert np.isnan(ours.slope(ours.start).loss)


@pytest.mark.parametrize("size", [16, 20, 60])
@pytest.mark.parametrize("far", [True, False], ids=["far", "near"])
def test_patterns_come_back_from_the_order_of_the_passes(size, far):
    optics = layout.optics_for(size, np.empty((0, 0), np.complex64) if far else np.ones((size, size), np.complex64))
    frame = np.random.default_rng(0).random((size, size)).astype(np.float32)
    met = layout.met_of(frame, optics)
    assert np.count_nonzero(met) == np.count_nonzero(frame)
    np.testing.assert_array_equal(layout.frame_of(met, optics), frame)


@numba.njit
def _logarithms(values, found):
    for k in range(0, len(values), 16):
        store(found, (k,), logarithm(load(values, (k,))))


def test_logarithms_are_good_to_the_last_bits():
    values = np.exp(np.random.default_rng(0).uniform(-60, 60, 4096)).astype(np.float32)
    values[:512] = np.random.default_rng(1).uniform(0.7, 1.5, 512)
    found = np.empty_like(values)
    _logarithms(values, found)
    np.testing.assert_allclose(found, np.log(values.astype(np.float64)), rtol=3e-7, atol=1e-7)
