"""The transform of a strip against NumPy's in float64."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptycho_bluesky.transforms import RADICES, aligned, can_transform, forward, inverse, plan_for

LENGTHS = [length for length in range(2, 1100) if can_transform(length)]


def columns(seed: int, length: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(length, 16)) + 1j * rng.normal(size=(length, 16))


def strip_of(waves: np.ndarray, rows: int) -> np.ndarray:
    strip = aligned((rows, 2, 16))
    strip[: len(waves), 0], strip[: len(waves), 1] = waves.real, waves.imag
    return strip


def waves_of(strip: np.ndarray, length: int) -> np.ndarray:
    return strip[:length, 0] + 1j * strip[:length, 1]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1000), st.sampled_from(LENGTHS))
def test_forward_is_the_transform_in_the_plans_order_and_inverse_brings_it_back(seed, length):
    plan, waves = plan_for(length), columns(seed, length)
    strip = strip_of(waves, length + 3)
    forward(strip, plan)
    spectrum = np.fft.fft(waves, axis=0)[plan.order]
    assert np.linalg.norm(waves_of(strip, length) - spectrum) < 3e-7 * np.linalg.norm(spectrum)
    inverse(strip, plan)
    assert np.linalg.norm(waves_of(strip, length) / length - waves) < 5e-7 * np.linalg.norm(waves)
    assert not strip[length:].any()


@pytest.mark.parametrize("radix", RADICES)
def test_each_radix_works_as_first_and_as_last_pass(radix):
    for length in (radix, radix * radix):
        plan, waves = plan_for(length), columns(radix, length)
        strip = strip_of(waves, length)
        forward(strip, plan)
        np.testing.assert_allclose(waves_of(strip, length), np.fft.fft(waves, axis=0)[plan.order], atol=2e-4)


@pytest.mark.parametrize("length", [64, 100, 128, 96, 256])
def test_the_order_holds_each_frequency_once(length):
    assert sorted(plan_for(length).order) == list(range(length))


@pytest.mark.parametrize("length", [1, 11, 13 * 16, 127])
def test_lengths_with_other_prime_factors_are_refused(length):
    assert not can_transform(length)
