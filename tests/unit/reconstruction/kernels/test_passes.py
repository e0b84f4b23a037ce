"""The fused passes against plain torch in float64, and the mathematics that they rest on."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ptycho_bluesky.reconstruction.kernels import _passes as passes
from ptycho_bluesky.reconstruction.kernels import _strips as layout
from ptycho_bluesky.reconstruction.kernels._batches import rpie_update
from ptycho_bluesky.reconstruction.kernels._protocol import Steps
from ptycho_bluesky.reconstruction.kernels._torch import TorchWaves

FAR = np.empty((0, 0), np.complex64)
STEPS = Steps(object=0.7, probe=0.4, alpha_object=0.3, alpha_probe=0.6)
SIZES = [16, 20, 32, 60]
"""Whole strips of 16 columns, and not."""


def near(size: int) -> np.ndarray:
    f = np.fft.fftfreq(size)
    return np.exp(-9j * (f[:, None] ** 2 + 0.7 * f[None] ** 2 + 0.3 * f[None])).astype(np.complex64)


def case(seed: int, modes: int, size: int, bad: bool = False):
    rng = np.random.default_rng(seed)

    def field(*shape: int) -> np.ndarray:
        return (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64)

    amplitude = rng.gamma(2, 2, (size, size)).astype(np.float32)
    if bad:
        amplitude[rng.random((size, size)) < 0.2] = -1
    return field(size + 9, size + 7), 2 * field(modes, size, size), amplitude


def complex_of(tile: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    inner = tile[1 : shape[0] + 1, :, 1 : shape[1] + 1]
    return inner[:, 0] + 1j * inner[:, 1]


def visit(obj, probe, amplitude, corner, transfer=FAR, steps=STEPS, find_shifts=False):
    """One frame by the fused passes: error, object, probe and shift afterwards."""
    size = probe.shape[-1]
    tile, strips = layout.tile_of(obj), layout.strips_of(probe[None])
    visits, shifts = np.array([[0, *corner, 0]]), np.zeros((1, 2 if find_shifts else 0))
    pace = passes.Pace(steps.object, steps.probe, steps.alpha_object, steps.alpha_probe)
    error = passes.sweep(
        visits, amplitude[None], tile, strips, layout.optics_for(size, transfer), layout.room_for(size, len(probe)),
        pace, shifts,
    )  # fmt: skip
    return error, complex_of(tile, obj.shape), layout.waves_of(strips, size)[0], shifts[0]


def visit_in_torch(obj, probe, amplitude, corner, transfer=FAR):
    """The same in float64."""
    waves_of = TorchWaves(torch.device("cpu"), torch.from_numpy(transfer.astype(np.complex128)))
    o, p = torch.from_numpy(obj.astype(np.complex128)), torch.from_numpy(probe.astype(np.complex128))[None]
    groups, corners = torch.zeros(1, dtype=torch.long), torch.tensor([list(corner)])
    exit_waves = waves_of.exit_waves(o, p, groups, corners)
    waves, error = waves_of.project(
        waves_of.to_detector(exit_waves.clone()), torch.from_numpy(amplitude.astype(np.float64))[None]
    )
    difference = waves_of.to_sample(waves) - exit_waves
    shift = waves_of.shifts(difference, o, p, groups, corners)
    rpie_update(waves_of, o, p, difference, groups, corners, STEPS)
    return float(error), o.numpy(), p[0].numpy(), shift[0].numpy()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("far", [True, False], ids=["far", "near"])
@pytest.mark.parametrize("modes", [1, 3])
@pytest.mark.parametrize("bad", [False, True], ids=["all good", "bad pixels"])
@pytest.mark.parametrize("corner", [(3, 5), (0, 0)], ids=["inside", "at the border"])
def test_one_frame_moves_object_and_probe_as_in_torch_float64(size, far, modes, bad, corner):
    obj, probe, amplitude = case(7, modes, size, bad)
    transfer = FAR if far else near(size)
    error, o, p, shift = visit_in_torch(obj, probe, amplitude, corner, transfer)
    for find_shifts in (False, True):
        seen, moved, learnt, found = visit(obj, probe, amplitude, corner, transfer, find_shifts=find_shifts)
        assert seen == pytest.approx(error, rel=1e-5)
        np.testing.assert_allclose(moved, o, atol=4e-5)
        np.testing.assert_allclose(learnt, p, atol=4e-5)
        if find_shifts:
            np.testing.assert_allclose(found, shift, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("far", [True, False], ids=["far", "near"])
def test_evaluate_sums_over_good_pixels_alone(size, far):
    obj, probe, amplitude = case(1, 2, size, bad=True)
    background = np.random.default_rng(2).gamma(2, 1, (size, size)).astype(np.float32)
    transfer = FAR if far else near(size)
    plain = TorchWaves(torch.device("cpu"), torch.from_numpy(transfer))
    waves = plain.to_detector(torch.from_numpy(probe * obj[2 : size + 2, 4 : size + 4])).numpy()
    modulus, good = np.sqrt((np.abs(waves) ** 2).sum(0) + background), amplitude >= 0
    optics = layout.optics_for(size, transfer)
    found = passes.evaluate(
        np.array([[0, 2, 4, 0]]), amplitude[None], layout.tile_of(obj), layout.strips_of(probe[None]),
        optics, layout.room_for(size, 2), layout.met_of(background, optics), 0.8,
    )  # fmt: skip
    a, m = amplitude[good], modulus[good]
    assert found == pytest.approx((np.abs(0.8 * m - a).sum(), (m * a).sum(), (m * m).sum()), rel=1e-5)


def test_the_order_of_visits_counts_and_each_takes_its_own_row_corner_and_probe():
    obj, probe, first = case(2, 1, 32)
    _, other, second = case(3, 1, 32)
    tile, strips = layout.tile_of(obj), layout.strips_of(np.stack([probe, other]))
    visits = np.array([[1, 0, 2, 0], [0, 5, 1, 1]])
    pace = passes.Pace(STEPS.object, STEPS.probe, STEPS.alpha_object, STEPS.alpha_probe)
    error = passes.sweep(
        visits, np.stack([first, second]), tile, strips, layout.optics_for(32, FAR), layout.room_for(32, 1), pace,
        np.zeros((2, 0)),
    )  # fmt: skip
    one, o, p, _ = visit_in_torch(obj, probe, second, (0, 2))
    two, o, q, _ = visit_in_torch(o, other, first, (5, 1))
    assert error == pytest.approx(one + two, rel=1e-5)
    np.testing.assert_allclose(complex_of(tile, obj.shape), o, atol=1e-4)
    np.testing.assert_allclose(layout.waves_of(strips, 32), [p, q], atol=1e-4)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 3), st.floats(0.1, 1), st.sampled_from(SIZES))
def test_a_step_never_raises_the_error_of_its_own_frame(seed, modes, alpha, size):
    obj, probe, amplitude = case(seed, modes, size)
    step = Steps(object=1, probe=0, alpha_object=alpha, alpha_probe=alpha)
    first, moved, same, _ = visit(obj, probe, amplitude, (1, 2), steps=step)
    second, *_ = visit(moved, same, amplitude, (1, 2), steps=step)
    assert second <= first * (1 + 1e-5)


def test_a_number_that_is_not_finite_shows_up_in_the_error_and_the_object():
    obj, probe, amplitude = case(4, 1, 32)
    obj[20, 20] = np.nan
    error, moved, learnt, _ = visit(obj, probe, amplitude, (3, 3))
    assert np.isnan(error) and np.isnan(moved).any() and np.isnan(learnt).any()


@pytest.mark.parametrize("size", SIZES)
def test_waves_come_back_from_strips_and_what_pads_them_is_zero(size):
    _, probe, _ = case(5, 2, size)
    strips = layout.strips_of(probe)
    assert strips.ctypes.data % 64 == 0
    np.testing.assert_array_equal(layout.waves_of(strips, size), probe)
    assert np.count_nonzero(strips) == 2 * probe.size


def test_a_tile_repeats_the_edges_of_its_part_of_the_object():
    obj, _, _ = case(6, 1, 16)
    tile = layout.tile_of(obj)
    wide = np.pad(obj, 1, mode="edge")
    np.testing.assert_array_equal(tile[:, 0, : wide.shape[1]] + 1j * tile[:, 1, : wide.shape[1]], wide)


def test_tiles_are_averaged_with_their_illumination():
    obj = np.full((30, 34), 5 + 1j, np.complex64)
    _, probe, _ = case(8, 2, 16)
    merged, weights = np.zeros_like(obj), np.zeros(obj.shape, np.float32)
    expected, light = np.zeros(obj.shape, complex), np.zeros(obj.shape)
    for value, corner, shape in ((1 + 2j, (0, 2), (20, 22)), (3 - 1j, (8, 6), (21, 20))):
        tile = layout.tile_of(np.full(shape, value, np.complex64))
        weight = np.zeros((shape[0], shape[1] + 16), np.float32)
        layout.illuminate(layout.strips_of(probe), np.array([[0, 1, 2, 0], [0, 3, 4, 0]]), weight)
        layout.add_tile(tile, weight, *corner, 0, 30, merged, weights)
        for y, x in ((1, 2), (3, 4)):
            y, x = y + corner[0], x + corner[1]
            light[y : y + 16, x : x + 16] += (np.abs(probe) ** 2).sum(0)
            expected[y : y + 16, x : x + 16] += value * (np.abs(probe) ** 2).sum(0)
    layout.settle(merged, weights, 0, 30, obj)
    np.testing.assert_allclose(obj, np.where(light > 0, expected / np.maximum(light, 1e-20), 5 + 1j), rtol=1e-5)
