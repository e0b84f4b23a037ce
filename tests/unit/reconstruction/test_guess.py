"""A probe that nobody gave is found from the mean pattern."""

import logging
from dataclasses import replace

import numpy as np
import pytest

from ptycho_bluesky.reconstruction import reconstruct
from ptycho_bluesky.reconstruction._guess import curved


def test_the_star_is_recovered_without_a_probe(star, caplog):
    with caplog.at_level(logging.INFO):
        result = reconstruct(replace(star.dataset, probe=None), options={"modes": 2, "epochs": 40})
    assert "guessed from the mean pattern" in caplog.text
    assert star.correlation(result) > 0.95


@pytest.mark.parametrize("diameter", [-30.0, 16.0, 40.0])
def test_a_curved_pupil_has_the_width_asked_for_and_keeps_its_power(diameter):
    f = np.hypot(np.fft.fftfreq(64)[:, None], np.fft.fftfreq(64)[None])
    pupil = (f < 0.2).astype(np.complex64)
    probe = curved(pupil, diameter)
    y, x = np.indices(probe.shape) - 32
    light = np.abs(probe) ** 2
    inside = light[np.hypot(y, x) <= abs(diameter) / 2 + 2].sum() / light.sum()
    narrower = light[np.hypot(y, x) <= abs(diameter) / 4].sum() / light.sum()
    assert inside > 0.85 and narrower < 0.5
    assert light.sum() == pytest.approx((np.abs(pupil) ** 2).sum() / 64**2, rel=1e-4)


@pytest.mark.parametrize("count", [1, 2])
def test_one_or_two_frames_are_no_reason_to_fail(star, count):
    few = replace(star.dataset.subset(slice(0, count)), probe=None)
    assert np.isfinite(reconstruct(few, options={"epochs": 2}).r_factor)


def test_frames_at_one_place_are_no_reason_to_fail(star):
    few = replace(star.dataset.subset(slice(0, 5)), probe=None)
    still = replace(few, positions=np.zeros((5, 2)))
    assert np.isfinite(reconstruct(still, options={"epochs": 2}).r_factor)
