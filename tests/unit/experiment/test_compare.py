from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptycho_bluesky.experiment import Reconstruction, align_phase, phase_contrast, phase_correlation

N = 64
Y, X = np.indices((N, N)) / N


def picture(shift: tuple[float, float] = (0.0, 0.0), seed: int = 0) -> np.ndarray:
    """Smooth periodic texture, band limited so that a sub-pixel shift is exact, 1 radian from hill to valley."""
    rng = np.random.default_rng(seed)
    fy, fx = np.fft.fftfreq(N)[:, None], np.fft.fftfreq(N)[None]
    spectrum = np.fft.fft2(rng.normal(size=(N, N))) * (np.hypot(fy, fx) < 0.12)
    spectrum[0, 0] = 0
    spectrum *= np.exp(-2j * np.pi * (fy * shift[0] + fx * shift[1]))
    image = np.fft.ifft2(spectrum).real
    return image / (4 * 0.2)


class TestPhaseContrast:
    def test_only_scanned_pixels_count(self) -> None:
        phase = np.full((20, 20), np.nan)
        phase[5:15, 5:15] = np.linspace(0, 1, 100).reshape(10, 10)
        assert phase_contrast(phase) == pytest.approx(0.98)

    def test_nothing_scanned(self) -> None:
        assert phase_contrast(np.full((4, 4), np.nan)) == 0


class TestAlign:
    @settings(max_examples=15, deadline=None)
    @given(row=st.floats(-5, 5), column=st.floats(-5, 5))
    def test_a_known_shift_is_found(self, row: float, column: float) -> None:
        aligned, reference, found = align_phase(picture((row, column)), picture())
        assert found == pytest.approx((-row, -column), abs=0.06)
        assert np.nanmax(np.abs(aligned - reference)) < 0.05 * np.ptp(picture())

    @settings(max_examples=15, deadline=None)
    @given(offset=st.floats(-10, 10), slope=st.tuples(st.floats(-2, 2), st.floats(-2, 2)))
    def test_offset_and_ramp_do_not_count(self, offset: float, slope: tuple[float, float]) -> None:
        turned = np.angle(np.exp(1j * (picture() + offset + slope[0] * Y + slope[1] * X)))
        assert phase_correlation(turned, picture()) > 0.999

    def test_all_at_once_with_holes(self) -> None:
        phase = np.angle(np.exp(1j * (picture((1.3, -2.6)) + 2 + 1.5 * X)))
        reference = picture()
        phase[:6], reference[:, -9:] = np.nan, np.nan
        aligned, same, found = align_phase(phase, reference)
        assert found == pytest.approx((-1.3, 2.6), abs=0.15)
        assert np.isnan(aligned[:6]).all()
        assert np.isnan(aligned[:, -9:]).all()
        np.testing.assert_array_equal(np.isnan(aligned), np.isnan(same))
        assert phase_correlation(phase, reference) > 0.97

    def test_a_shift_beyond_the_limit_is_not_taken(self) -> None:
        found = align_phase(picture((12, 0)), picture(), max_shift_px=4)[2]
        assert max(map(abs, found)) <= 4

    def test_no_common_pixel(self) -> None:
        left, right = picture(), picture()
        left[:, : N // 2], right[:, N // 2 :] = np.nan, np.nan
        with pytest.raises(ValueError, match="no scanned pixel in common"):
            align_phase(left, right)

    def test_different_shapes(self) -> None:
        with pytest.raises(ValueError, match=r"\(64, 64\) and \(64, 60\)"):
            align_phase(picture(), picture()[:, :60])


class TestCorrelation:
    def test_of_itself_of_its_negative_and_of_another(self) -> None:
        assert phase_correlation(picture(), picture()) == pytest.approx(1)
        assert phase_correlation(picture(), -picture(), max_shift_px=0) == pytest.approx(-1)
        assert abs(phase_correlation(picture(), picture(seed=9), max_shift_px=0)) < 0.4

    def test_is_symmetric(self) -> None:
        a, b = picture((0.5, 0.5)) + 0.1 * picture(seed=3), picture()
        assert phase_correlation(a, b) == pytest.approx(phase_correlation(b, a), abs=1e-2)

    def test_a_flat_image_agrees_with_nothing(self) -> None:
        assert abs(phase_correlation(np.zeros((N, N)), picture())) < 0.1


class TestReconstruction:
    @pytest.fixture
    def rec(self) -> Reconstruction:
        coverage = np.zeros((N, N), np.float32)
        coverage[8:-8, 8:-8] = 1
        return Reconstruction(
            object=(0.8 * np.exp(1j * (picture() + 2.9)))[None].astype(np.complex64),
            probe=np.ones((1, 8, 8), np.complex64),
            positions=np.zeros((1, 2)),
            coverage=coverage,
            origin=(0.0, 0.0),
            pixel_size_m=None,
            errors=np.zeros(1),
            r_factor=0.1,
            phase_contrast_rad=1.0,
            engine="rpie",
        )

    def test_phase_is_free_of_its_offset_and_never_wraps_for_it(self, rec: Reconstruction) -> None:
        phase = rec.phase
        assert phase.dtype == np.float32
        np.testing.assert_array_equal(np.isnan(phase), ~rec.field_of_view)
        assert abs(np.nanmean(phase)) < 0.02
        inside = rec.field_of_view
        np.testing.assert_allclose(
            phase[inside] - phase[inside].mean(), picture()[inside] - picture()[inside].mean(), atol=1e-5
        )

    def test_amplitude(self, rec: Reconstruction) -> None:
        assert rec.amplitude.dtype == np.float32
        np.testing.assert_allclose(rec.amplitude[rec.field_of_view], 0.8, rtol=1e-5)
        assert np.isnan(rec.amplitude[~rec.field_of_view]).all()

    def test_nothing_scanned(self, rec: Reconstruction) -> None:
        assert np.isnan(replace(rec, coverage=np.zeros((N, N), np.float32)).phase).all()
