"""The beam's centre, found from frames."""

from __future__ import annotations

import numpy as np
import pytest

from ptycho_bluesky.inference import load_model
from ptycho_bluesky.inference._centre import CentreFinder, beam_shift
from ptycho_bluesky.inference._fitting import Fitting, fit_probe
from ptycho_bluesky.inference._simulation import random_design
from ptycho_bluesky.optics import zone_plate_probe

N = 64


def scan(seed: int):
    probe = random_design(N, np.random.default_rng(seed))
    expected = np.fft.fftshift((np.abs(np.fft.fft2(probe, norm="ortho")) ** 2).sum(axis=0))
    return probe, expected


@pytest.mark.parametrize("shift", [(0.0, 0.0), (0.3, -0.2), (1.0, 2.0), (-4.0, 3.0)])
def test_shift_of_the_beam_itself(shift):
    probe, expected = scan(3)
    x = np.arange(N) / N
    ramp = np.exp(2j * np.pi * (shift[0] * x[:, None] + shift[1] * x[None]))
    moved = np.fft.fftshift((np.abs(np.fft.fft2(probe * ramp, norm="ortho")) ** 2).sum(axis=0))
    assert beam_shift(moved, expected) == pytest.approx(shift, abs=0.1)


def test_frames_off_centre_give_the_same_patches():
    rng, wavelength = np.random.default_rng(5), 1.4e-10
    optics = {"diameter_m": 180e-6, "outermost_zone_m": 50e-9, "central_stop_m": 60e-6, "defocus_m": 300e-6}
    given = zone_plate_probe(128, wavelength * 0.95 / (128 * 75e-6), wavelength, **optics)[None]
    smooth = np.hypot(np.fft.fftfreq(128)[:, None], np.fft.fftfreq(128)) < 0.05
    objects = np.exp(1j * np.fft.ifft2(np.fft.fft2(rng.standard_normal((8, 128, 128))) * smooth).real)
    waves = np.fft.fft2(given * objects[:, None], norm="ortho")
    mean = 3e5 * np.fft.fftshift((np.abs(waves) ** 2).sum(axis=1), axes=(1, 2)) / (np.abs(given) ** 2).sum()
    frames = rng.poisson(mean).astype(np.float32)
    model = load_model()
    centred, off = model.for_probe(given, None, 128), model.for_probe(given, None, 128)
    a, b = centred(frames), off(np.roll(frames, (4, -1), (1, 2)))
    assert centred.centre_shift == (0, 0)
    assert off.centre_shift == (4, -1)
    np.testing.assert_array_equal(a.phase, b.phase)


def test_estimate_is_steady_and_follows_a_drift():
    probe, expected = scan(7)
    finder = CentreFinder(Fitting(N, N), probe, np.ones((N, N), bool))
    frames = np.random.default_rng(0).poisson(1e4 * expected, (16, N, N)).astype(np.float32)
    for _ in range(4):
        np.testing.assert_array_equal(finder(frames), frames)
    for _ in range(200):
        finder(np.roll(frames, 3, 1))
    assert finder.shift == (3, 0)


def test_empty_and_flat_frames_move_nothing():
    probe, _ = scan(2)
    finder = CentreFinder(Fitting(N, N), probe, np.ones((N, N), bool))
    finder(np.zeros((3, N, N), np.float32))
    finder(np.ones((3, N, N), np.float32))
    assert finder.shift == (0, 0)


def test_binned_frames_are_moved_in_detector_pixels():
    probe = random_design(N, np.random.default_rng(11))
    narrow = np.zeros((len(probe), 256, 256), np.complex64)
    narrow[:, 96:160, 96:160] = probe
    fitting = fit_probe(narrow, 256, N)
    finder = CentreFinder(fitting, fitting.probe(narrow), np.ones((N, N), bool))
    expected = np.fft.fftshift((np.abs(np.fft.fft2(narrow, norm="ortho")) ** 2).sum(axis=0))
    frame = np.roll(1e5 * expected, (4, -4), (0, 1)).astype(np.float32)[None]
    finder(frame)
    assert fitting.binning == 4
    assert finder.shift == (4, -4)
