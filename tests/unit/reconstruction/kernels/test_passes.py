"""Both kernel sets against a plain float64 reference, and the mathematics that they rest on."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ptycho_bluesky.reconstruction.kernels import _passes as fast
from ptycho_bluesky.reconstruction.kernels import _torch as plain
from ptycho_bluesky.reconstruction.kernels._protocol import Steps

AXES = np.array([1, 2])
FAR = np.empty((0, 0), np.complex64)
STEPS = Steps(object=0.7, probe=0.4, alpha_object=0.3, alpha_probe=0.6)


def near(size: int) -> np.ndarray:
    f = np.fft.fftfreq(size)
    return np.exp(-9j * (f[:, None] ** 2 + f[None] ** 2)).astype(np.complex64)


def case(seed: int, modes: int, size: int, bad: bool = False):
    rng = np.random.default_rng(seed)

    def field(*shape: int) -> np.ndarray:
        return (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64)

    amplitude = rng.gamma(2, 2, (size, size)).astype(np.float32)
    if bad:
        amplitude[rng.random((size, size)) < 0.2] = -1
    return field(size + 9, size + 7), 2 * field(modes, size, size), amplitude


def tensors(obj, probe, y, x, dtype=torch.complex128):
    index = plain._patch_index(torch.tensor([[y, x]]), probe.shape[-1], obj.shape[-1])
    return torch.from_numpy(obj).to(dtype), torch.from_numpy(probe)[None].to(dtype), index


@pytest.mark.parametrize("transfer", [FAR, near(16)], ids=["far", "near"])
@pytest.mark.parametrize("modes", [1, 3])
@pytest.mark.parametrize("bad", [False, True], ids=["all good", "bad pixels"])
def test_one_frame_moves_object_and_probe_alike_in_numba_and_in_torch_float64(transfer, modes, bad):
    obj, probe, amplitude = case(7, modes, 16, bad)
    o, p, index = tensors(obj, probe, 3, 5)
    t = torch.from_numpy(transfer)
    waves = plain.to_detector(plain.exit_waves(o, p, index), t)
    waves, error = plain.project(waves, torch.from_numpy(amplitude).double()[None])
    plain.update(o, p, torch.zeros(1, dtype=torch.long), index, plain.to_sample(waves, t), STEPS)

    mine = probe.copy()[None]
    seen = fast.sweep(
        np.array([0]), np.array([[3, 5]]), np.array([0]), amplitude[None], obj, mine, np.empty_like(probe), AXES,
        transfer, *(np.float32(v) for v in (STEPS.alpha_object, STEPS.alpha_probe, STEPS.object, STEPS.probe)),
    )  # fmt: skip
    assert seen == pytest.approx(float(error), rel=1e-5)
    np.testing.assert_allclose(obj, o.numpy(), atol=2e-5)
    np.testing.assert_allclose(mine[0], p[0].numpy(), atol=2e-5)


def test_evaluate_sums_over_good_pixels_alone():
    obj, probe, amplitude = case(1, 2, 16, bad=True)
    waves = np.fft.fft2(probe * obj[2:18, 4:20], norm="ortho")
    modulus, good = np.sqrt((np.abs(waves) ** 2).sum(0)), amplitude >= 0
    found = fast.evaluate(
        np.array([0]), np.array([[2, 4]]), np.array([0]), amplitude[None], obj, probe[None], np.empty_like(probe), AXES,
        FAR, np.float32(0.8),
    )  # fmt: skip
    a, m = amplitude[good], modulus[good]
    assert found == pytest.approx((np.abs(0.8 * m - a).sum(), (m * a).sum(), (m * m).sum()), rel=1e-5)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([8, 10, 15, 16]), st.integers(1, 3), st.booleans())
def test_propagation_is_unitary_and_its_way_back_the_adjoint(seed, size, modes, far):
    _, a, _ = case(seed, modes, size)
    _, b, _ = case(seed + 1, modes, size)
    transfer, scale = (FAR, 1 / size) if far else (near(size), 1.0)
    there, back = a.copy(), b.copy()
    fast.to_detector(there, AXES, transfer)
    fast.to_sample(back, AXES, transfer)
    there, back = there * np.float32(scale), back * np.float32(scale)
    assert np.linalg.norm(there) == pytest.approx(np.linalg.norm(a), rel=1e-5)
    assert np.vdot(b, there) == pytest.approx(np.vdot(back, a), rel=1e-4, abs=1e-3)
    torch_there = plain.to_detector(torch.from_numpy(a)[None], torch.from_numpy(transfer))[0].numpy()
    np.testing.assert_allclose(there, torch_there, atol=1e-4)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 4))
def test_projection_gives_the_measured_modulus_leaves_bad_pixels_and_is_idempotent(seed, modes):
    _, waves, amplitude = case(seed, modes, 12, bad=True)
    before = waves.copy()
    error = fast.project(waves, amplitude, np.float32(1))
    modulus, bad = np.sqrt((np.abs(waves) ** 2).sum(0)), amplitude < 0
    np.testing.assert_allclose(modulus[~bad], amplitude[~bad], rtol=1e-3, atol=1e-5)
    np.testing.assert_array_equal(waves[:, bad], before[:, bad])
    old = np.sqrt((np.abs(before) ** 2).sum(0))
    assert error == pytest.approx(np.abs(old - amplitude)[~bad].sum(), rel=1e-5)
    assert fast.project(waves, amplitude, np.float32(1)) < 1e-3 * error


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 3), st.floats(0.1, 1))
def test_a_step_never_raises_the_error_of_its_own_frame(seed, modes, alpha):
    obj, probe, amplitude = case(seed, modes, 16)

    def sweep(step: float) -> float:
        return fast.sweep(
            np.array([0]), np.array([[1, 2]]), np.array([0]), amplitude[None], obj, probe[None], np.empty_like(probe),
            AXES, FAR, np.float32(alpha), np.float32(alpha), np.float32(step), np.float32(0),
        )  # fmt: skip

    first = sweep(1.0)
    assert sweep(0.0) <= first * (1 + 1e-5)


def test_a_batch_of_overlapping_frames_does_not_overshoot():
    obj, probe, _ = case(3, 1, 16)
    obj = np.ones_like(obj)
    o, p, index = tensors(obj, probe, 2, 2)
    index, p = index.repeat(4, 1, 1), p
    target = 2 * plain.exit_waves(o, p, index)
    steps = Steps(object=1, probe=0, alpha_object=0, alpha_probe=1)
    plain.update(o, p, torch.zeros(4, dtype=torch.long), index, target, steps)
    np.testing.assert_allclose(o.numpy()[2:18, 2:18], 2, rtol=1e-6)
