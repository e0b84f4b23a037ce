"""Fourier ring correlation on images whose answer is known."""

import numpy as np
import pytest
import scipy.ndimage

from ptycho_bluesky.errors import ReconstructionError
from ptycho_bluesky.experiment import Reconstruction
from ptycho_bluesky.reconstruction import fourier_ring_correlation
from ptycho_bluesky.reconstruction.judgement._frc import lasting_crossing

PIXEL = 10e-9


def result(phase: np.ndarray, pixel: float | None = PIXEL, origin=(0.0, 0.0)) -> Reconstruction:
    coverage = np.ones(phase.shape, np.float32)
    coverage[:6], coverage[:, :4] = 0, 0
    return Reconstruction(
        object=np.exp(1j * phase)[None].astype(np.complex64), probe=np.ones((1, 8, 8), np.complex64),
        positions=np.zeros((1, 2)), coverage=coverage, origin=origin, pixel_size_m=pixel, errors=np.zeros(1),
        r_factor=0.1, phase_contrast_rad=1.0, engine="fast",
    )  # fmt: skip


def image(seed: int, cutoff: float = 1.0, size: int = 128) -> np.ndarray:
    f = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.fftfreq(size)[None])
    spectrum = np.fft.fft2(np.random.default_rng(seed).normal(size=(size, size)))
    values = np.fft.ifft2(spectrum * (f < cutoff)).real
    return 0.2 * values / values.std()


def test_equal_images_agree_down_to_the_pixel():
    found = fourier_ring_correlation(result(image(0)), result(image(0)))
    assert found.correlation.min() > 0.999
    assert found.resolution == found.resolution_one_seventh == PIXEL
    assert found.frequency[-1] == pytest.approx(0.5 / PIXEL, rel=0.02)


def test_unrelated_images_do_not():
    found = fourier_ring_correlation(result(image(0)), result(image(1)))
    assert found.resolution > 10 * PIXEL and np.abs(found.correlation[5:]).mean() < 0.2


@pytest.mark.parametrize("cutoff", [0.125, 0.25])
def test_the_common_band_is_found_in_metres(cutoff):
    a, b = (result(image(0, cutoff) + 0.3 * image(s)) for s in (1, 2))
    found = fourier_ring_correlation(a, b)
    assert found.resolution == pytest.approx(PIXEL / (2 * cutoff), rel=0.1)


def test_ramp_offset_and_shift_do_not_count():
    phase = image(0, 0.3)
    y, x = np.indices(phase.shape)
    moved = np.fft.ifft2(scipy.ndimage.fourier_shift(np.fft.fft2(phase), (2.3, -1.6))).real
    found = fourier_ring_correlation(result(phase), result(moved + 0.01 * y - 0.02 * x + 0.5))
    assert found.correlation[:30].min() > 0.9


def test_grids_of_different_origin_are_brought_together():
    phase = image(0, 0.3)
    cut = result(phase[10:, 20:], origin=(10 * PIXEL, 20 * PIXEL))
    assert fourier_ring_correlation(result(phase), cut).correlation[:25].min() > 0.9


@pytest.mark.parametrize(
    ("other", "text"),
    [
        (result(image(0), 11e-9), "pixel sizes are 1e-08 and 1.1e-08"),
        (result(image(0), None), "pixel sizes are"),
        (result(image(0), origin=(1e-3, 0.0)), "no scanned pixel in common"),
        (result(image(0, size=20)), "at least 16"),
    ],
)
def test_what_cannot_be_compared_is_refused(other, text):
    with pytest.raises(ReconstructionError, match=text):
        fourier_ring_correlation(result(image(0)), other)


@pytest.mark.parametrize(
    ("above", "crossing"),
    [
        ([1, 1, 1, 1, -1, -1, -1, -1], 4.5),
        ([1, 1, 1, -1, 1, 1, 1, -1, -3, -3], 7.5),  # an empty ring is no end
        ([-1, -1, -1, -1, 1, 1, 1, -3, -1, -1], 7.25),  # weak low frequencies are no end
        ([1, 1, 1, 1, 1, 1], None),
        ([-1, 1, -1, -1, 1, -1], 1.0),  # never above to stay
    ],
)
def test_a_crossing_is_one_that_lasts(above, crossing):
    found = lasting_crossing(np.arange(1.0, len(above) + 1), np.array(above, float))
    assert found == (None if crossing is None else pytest.approx(crossing))
