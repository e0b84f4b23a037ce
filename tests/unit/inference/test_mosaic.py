import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptycho_bluesky.errors import InferenceError
from ptycho_bluesky.inference._mosaic import Mosaic

SIZE = 48


def truth(rows, columns):
    return 1.5 * np.sin(rows / 17.0) * np.cos(columns / 23.0) + 0.8 * np.sin((rows + columns) / 31.0)


def gaussian(size=SIZE, sigma=8.0):
    i = np.arange(size) - (size - 1) / 2
    return np.exp(-(i[:, None] ** 2 + i[None] ** 2) / (2 * sigma**2)).astype(np.float32)


def patch_at(corner):
    k = np.arange(SIZE)
    return truth(corner[0] + k[:, None], corner[1] + k[None]).astype(np.float32)


def error(mosaic, least=0.3):
    """Rms phase error over the covered field, the free constant removed."""
    phase, _, coverage, _ = mosaic.maps()
    r0, r1, c0, c1 = mosaic.field
    difference = phase - truth(np.arange(r0, r1)[:, None], np.arange(c0, c1)[None])
    inside = coverage > least
    phasor = np.exp(1j * difference[inside])
    return float(np.sqrt(np.mean(np.angle(phasor / phasor.mean()) ** 2)))


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**31), step=st.floats(5, 9), shift=st.floats(-500, 500))
def test_a_known_object_is_reached_at_sub_pixel_positions(seed, step, shift):
    rng, mosaic, weight = np.random.default_rng(seed), Mosaic(), gaussian()
    grid = np.arange(0, 60, step)
    for y in grid + shift:
        for x in grid - shift:
            corner = (y + rng.uniform(-1, 1), x + rng.uniform(-1, 1))
            mosaic.add(patch_at(corner) + np.float32(rng.uniform(-3, 3)), None, weight, corner)
    assert error(mosaic) < 5e-3
    assert np.nanmin(mosaic.maps()[1]) > 0.98, "patches of one object agree"


def test_islands_are_joined_whatever_the_order():
    rng, weight = np.random.default_rng(0), gaussian()
    corners = [(y + rng.random(), x + rng.random()) for y in range(0, 50, 8) for x in range(0, 50, 8)]
    results = []
    for order in (range(len(corners)), rng.permutation(len(corners))):
        mosaic = Mosaic()
        for k in order:
            mosaic.add(patch_at(corners[k]) + np.float32(rng.uniform(-3, 3)), None, weight, corners[k])
        results.append((mosaic.field, error(mosaic)))
    assert results[0][0] == results[1][0]
    assert max(r[1] for r in results) < 5e-3


def test_weights_are_conserved_and_nothing_is_made_up():
    mosaic, weight = Mosaic(), gaussian()
    mosaic.add(patch_at((0, 0)), None, weight, (10.3, -7.6))
    phase, amplitude, coverage, _ = mosaic.maps()
    assert coverage.sum() == pytest.approx(weight.sum(), rel=1e-3)
    assert np.isnan(phase[coverage < 0.05]).all() and np.isnan(amplitude[0, 0])
    assert np.isfinite(phase[coverage >= 0.05]).all()


def test_a_phase_that_wraps_stays_whole():
    mosaic, weight, k = Mosaic(), gaussian(), np.arange(SIZE)
    steep = lambda y, x: 0.35 * (y + k[:, None]) + 0.1 * (x + k[None])  # noqa: E731
    for y in np.arange(0, 40, 5.3):
        for x in np.arange(0, 40, 5.7):
            mosaic.add(np.angle(np.exp(1j * steep(y, x))).astype(np.float32), None, weight, (y, x))
    phase, _, coverage, _ = mosaic.maps()
    steps = np.angle(np.exp(1j * np.diff(phase, axis=0)))[(coverage > 0.5)[1:] & (coverage > 0.5)[:-1]]
    np.testing.assert_allclose(steps, 0.35, atol=0.02)


def test_amplitude_and_residual_are_weighted_means():
    mosaic, flat = Mosaic(), np.ones((SIZE, SIZE), np.float32)
    zero = np.zeros_like(flat)
    mosaic.add(zero, 0.8 * flat, flat, (0, 0), residual=0.1)
    mosaic.add(zero, 0.4 * flat, flat, (0, 0), residual=0.3)
    _, amplitude, coverage, residual = mosaic.maps()
    assert amplitude[5, 5] == pytest.approx(0.6) and residual[5, 5] == pytest.approx(0.2)
    assert coverage[5, 5] == pytest.approx(2)


def test_it_grows_in_every_direction_and_keeps_what_it_has():
    mosaic, weight = Mosaic(), gaussian()
    for corner in [(0, 0), (200, 10), (-150, 300), (-300.5, -400.25), (0.5, 0.5)]:
        mosaic.add(patch_at(corner), None, weight, corner)
    coverage = mosaic.maps()[2]
    assert coverage.sum() == pytest.approx(5 * weight.sum(), rel=1e-3)
    assert mosaic.field == (-301, 249, -401, 349)


def test_a_reserved_field_keeps_its_size():
    mosaic, weight = Mosaic(), gaussian()
    assert mosaic.reserve((-10, -20), (200, 300))
    before = mosaic.maps()[0].shape
    mosaic.add(patch_at((3, 4)), None, weight, (3, 4))
    assert mosaic.maps()[0].shape == before == (201, 301)


def test_positions_out_of_reach_are_refused():
    mosaic, weight = Mosaic(max_pixels=10**6), gaussian()
    mosaic.add(patch_at((0, 0)), None, weight, (0, 0))
    for bad in [(1e5, 1e5), (-1e9, 0), (1e300, 0), (float("nan"), 0)]:
        assert not mosaic.reserve(bad, (SIZE, SIZE))
    with pytest.raises(InferenceError, match="out of reach"):
        mosaic.add(patch_at((0, 0)), None, weight, (1e7, 0))
    assert mosaic.field == (0, SIZE + 1, 0, SIZE + 1)


def test_binned_maps_show_the_same_image():
    mosaic, flat = Mosaic(), np.ones((SIZE, SIZE), np.float32)
    mosaic.add(np.full_like(flat, 0.5), 0.7 * flat, flat, (0, 0))
    phase, amplitude, coverage, _ = mosaic.maps(binning=4)
    assert phase.shape == (12, 12)
    assert coverage[3, 3] == pytest.approx(1) and amplitude[3, 3] == pytest.approx(0.7)


def test_an_empty_mosaic_has_empty_maps():
    assert all(m.shape == (0, 0) for m in Mosaic().maps())


def test_a_tilted_image_is_levelled() -> None:
    """A beam off the detector's centre tilts every patch alike; the image shows the object, not the tilt."""
    mosaic, weight, k = Mosaic(), gaussian(), np.arange(SIZE)
    bump = lambda y, x: 0.8 * np.exp(-((y + k[:, None] - 40) ** 2 + (x + k[None] - 45) ** 2) / 60)  # noqa: E731
    steep = lambda y, x: 0.35 * (y + k[:, None]) - 0.2 * (x + k[None]) + bump(y, x)  # noqa: E731
    for y in np.arange(0, 50, 5.3):
        for x in np.arange(0, 50, 5.7):
            mosaic.add(np.angle(np.exp(1j * steep(y, x))).astype(np.float32), None, weight, (y, x))
    phase = mosaic.maps(level=True)[0]
    assert np.nanstd(mosaic.maps()[0]) > 1.5
    assert np.nanmax(phase) - np.nanmedian(phase) == pytest.approx(0.8, abs=0.1)
    assert np.nanpercentile(phase, 80) - np.nanpercentile(phase, 2) < 0.2


def test_the_ramp_of_a_large_image_is_found_on_a_coarse_one() -> None:
    rows, columns = np.arange(700)[:, None], np.arange(700)[None]
    phase = 0.3 * np.sin(rows / 9.0) * np.cos(columns / 7.0)
    phasor = 2 * np.exp(1j * (phase + 0.11 * rows - 0.07 * columns + 1.0))
    one = np.ones_like(phase)
    mosaic = Mosaic()
    mosaic.adopt(
        np.stack([phasor.real, phasor.imag, 2 * one, 0 * one, one, 2 * one]).astype("f4"), (0, 0), (0, 700, 0, 700)
    )
    np.testing.assert_allclose(mosaic.maps(level=True)[0], phase, atol=0.03)
