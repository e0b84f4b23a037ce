import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptycho_bluesky.errors import DatasetError
from ptycho_bluesky.optics import NearField, diffused, disc_probe, kb_probe, probe_diameter_m, zone_plate_probe

WAVELENGTH_M = 1.24e-10
ZONE_PLATE = {"diameter_m": 180e-6, "outermost_zone_m": 50e-9}


def power(probe: np.ndarray) -> np.ndarray:
    return np.abs(probe.astype(np.complex128)) ** 2


def full_width_at_half_maximum(profile: np.ndarray) -> float:
    """Return pixels between the half-maximum crossings about the peak, interpolated."""
    half, peak = profile.max() / 2, int(profile.argmax())
    right = peak + int((profile[peak:] < half).argmax())
    left = peak - int((profile[peak::-1] < half).argmax())
    fine_right = right - (half - profile[right]) / (profile[right - 1] - profile[right])
    fine_left = left + (half - profile[left]) / (profile[left + 1] - profile[left])
    return float(fine_right - fine_left)


def test_the_focus_of_a_zone_plate_is_an_airy_pattern() -> None:
    pixel = 5e-9
    probe = zone_plate_probe(512, pixel, WAVELENGTH_M, **ZONE_PLATE)
    assert probe.shape == (512, 512) and probe.dtype == np.complex64
    assert power(probe).sum() == pytest.approx(1, rel=1e-5)
    profile = power(probe)[256, 256:]
    assert np.unravel_index(power(probe).argmax(), probe.shape) == (256, 256)
    first_dark = int((np.diff(profile) > 0).argmax())
    assert first_dark * pixel == pytest.approx(1.22 * 50e-9, abs=pixel)
    assert full_width_at_half_maximum(power(probe)[256]) * pixel == pytest.approx(1.03 * 50e-9, rel=0.02)


def test_the_central_stop_sharpens_the_focus_and_lifts_its_rings() -> None:
    open_, stopped = (
        zone_plate_probe(256, 10e-9, WAVELENGTH_M, **ZONE_PLATE, central_stop_m=stop) for stop in (0.0, 90e-6)
    )
    widths = [full_width_at_half_maximum(power(p)[128]) for p in (open_, stopped)]
    assert widths[1] < 0.95 * widths[0]
    assert probe_diameter_m(stopped, 10e-9) > probe_diameter_m(open_, 10e-9)
    spectrum = power(np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(stopped))))
    outer = 256 * 10e-9 / (2 * 50e-9)
    r = np.hypot(*(np.indices(spectrum.shape) - 128))
    assert spectrum[r < outer / 2 - 1].max() < 1e-6 * spectrum.max()
    assert spectrum[r > outer + 1].max() < 1e-6 * spectrum.max()
    np.testing.assert_allclose(spectrum[(r < outer - 1) & (r > outer / 2 + 1)], spectrum.max(), rtol=1e-3)


@pytest.mark.parametrize("defocus_m", [-400e-6, 250e-6, 600e-6])
def test_defocus_is_fresnel_propagation_from_the_focus(defocus_m: float) -> None:
    focus, away = (
        zone_plate_probe(128, 30e-9, WAVELENGTH_M, **ZONE_PLATE, central_stop_m=60e-6, defocus_m=z)
        for z in (0.0, defocus_m)
    )
    np.testing.assert_allclose(NearField(128, 30e-9, WAVELENGTH_M, defocus_m).forward(focus), away, atol=1e-6)
    cone = abs(defocus_m) * WAVELENGTH_M / 50e-9
    assert probe_diameter_m(away, 30e-9) == pytest.approx(cone, abs=0.2 * cone + 0.15e-6)


def test_the_shadow_of_the_stop_shows_far_from_the_focus() -> None:
    probe = power(zone_plate_probe(256, 30e-9, WAVELENGTH_M, **ZONE_PLATE, central_stop_m=90e-6, defocus_m=2.5e-3))
    r = np.hypot(*(np.indices(probe.shape) - 128)) * 30e-9
    cone = 2.5e-3 * WAVELENGTH_M / 50e-9
    assert probe[r < 0.2 * cone].mean() < 0.1 * probe[(r > 0.3 * cone) & (r < 0.45 * cone)].mean()


def test_the_focus_of_kb_mirrors_is_a_sinc_in_each_direction() -> None:
    pixel, spots = 5e-9, (WAVELENGTH_M * 0.3 / 300e-6, WAVELENGTH_M * 0.15 / 300e-6)
    probe = kb_probe(512, pixel, WAVELENGTH_M, aperture_m=300e-6, focal_length_m=(0.3, 0.15))
    assert power(probe).sum() == pytest.approx(1, rel=1e-5)
    for profile, spot in zip((power(probe)[:, 256], power(probe)[256]), spots, strict=True):
        assert full_width_at_half_maximum(profile) * pixel == pytest.approx(0.886 * spot, rel=0.02)


def test_astigmatic_mirrors_focus_one_direction_at_a_time() -> None:
    probe = kb_probe(128, 30e-9, WAVELENGTH_M, aperture_m=300e-6, focal_length_m=0.2, defocus_m=(0.0, 800e-6))
    rows, columns = power(probe).sum(1), power(probe).sum(0)
    assert full_width_at_half_maximum(columns) > 5 * full_width_at_half_maximum(rows)


@given(st.floats(8, 60), st.floats(0, 1))
@settings(deadline=None, max_examples=30)
def test_a_disc_has_its_diameter(diameter: float, softness: float) -> None:
    probe = disc_probe(64, 1.0, diameter_m=diameter, edge_m=softness * diameter / 4)
    assert power(probe).sum() == pytest.approx(1, rel=1e-5)
    area = (power(probe) > power(probe).max() / 4).sum()
    assert 2 * np.sqrt(area / np.pi) == pytest.approx(diameter, abs=0.8)
    assert probe_diameter_m(probe, 1.0) == pytest.approx(np.sqrt(0.9) * diameter, abs=0.1 * diameter)
    np.testing.assert_allclose(probe[33:, 33:], probe[31:0:-1, 31:0:-1], atol=1e-7)


def test_a_pinhole_before_the_sample_is_fresnel_propagated() -> None:
    lengths = {"diameter_m": 2e-6, "edge_m": 0.1e-6}
    hole = disc_probe(128, 40e-9, **lengths)
    behind = disc_probe(128, 40e-9, **lengths, wavelength_m=WAVELENGTH_M, defocus_m=2e-3)
    np.testing.assert_allclose(NearField(128, 40e-9, WAVELENGTH_M, 2e-3).forward(hole), behind, atol=1e-6)


def test_the_diameter_counts_modes_together_and_has_a_unit() -> None:
    small, large = (disc_probe(64, 1.0, diameter_m=d) for d in (10.0, 40.0))
    assert probe_diameter_m(large, 2e-8) == pytest.approx(2e-8 * probe_diameter_m(large, 1.0))
    both = np.stack([small, 3 * large])
    assert probe_diameter_m(small, 1.0) < probe_diameter_m(both, 1.0) <= probe_diameter_m(large, 1.0)
    assert probe_diameter_m(np.roll(small, (9, -7), (0, 1)), 1.0) == pytest.approx(probe_diameter_m(small, 1.0))


def test_a_pixel_larger_than_the_outermost_zone_is_refused() -> None:
    with pytest.raises(DatasetError, match=r"object pixel is 60 nm, allowed is at most 50 nm.*wider than the detector"):
        zone_plate_probe(128, 60e-9, WAVELENGTH_M, **ZONE_PLATE)
    with pytest.raises(DatasetError, match=r"KB probe, horizontal .*object pixel is 60 nm"):
        kb_probe(128, 60e-9, WAVELENGTH_M, aperture_m=(100e-6, 800e-6), focal_length_m=0.2)


def test_a_frame_too_small_for_the_defocused_beam_is_refused() -> None:
    with pytest.raises(DatasetError, match=r"frame is 1.92 um wide.*cone of 4.96 um at 2000 um defocus.*larger frame"):
        zone_plate_probe(64, 30e-9, WAVELENGTH_M, **ZONE_PLATE, defocus_m=-2e-3 * -1)
    with pytest.raises(DatasetError, match=r"KB probe, vertical .*less defocus"):
        kb_probe(64, 30e-9, WAVELENGTH_M, aperture_m=300e-6, focal_length_m=0.2, defocus_m=5e-3)


def test_lengths_out_of_range_are_refused() -> None:
    with pytest.raises(DatasetError, match=r"2 faults.*wavelength_m is 0.*diameter_m is -1"):
        zone_plate_probe(64, 30e-9, 0, diameter_m=-1, outermost_zone_m=50e-9)
    with pytest.raises(DatasetError, match=r"central_stop_m is 0.0002; allowed is from 0 to below"):
        zone_plate_probe(64, 30e-9, WAVELENGTH_M, **ZONE_PLATE, central_stop_m=200e-6)
    with pytest.raises(DatasetError, match="focal_length_m is 0"):
        kb_probe(64, 30e-9, WAVELENGTH_M, aperture_m=1e-4, focal_length_m=0)
    with pytest.raises(DatasetError, match="diameter_m is 80; the frame is 64"):
        disc_probe(64, 1.0, diameter_m=80)
    with pytest.raises(DatasetError, match="at least the pixel"):
        disc_probe(64, 1.0, diameter_m=0.5)
    with pytest.raises(DatasetError, match="edge_m is 40; allowed is from 0"):
        disc_probe(64, 1.0, diameter_m=30, edge_m=40)
    with pytest.raises(DatasetError, match="a defocus needs a wavelength"):
        disc_probe(64, 1.0, diameter_m=30, defocus_m=1e-3)
    with pytest.raises(DatasetError, match="fraction is 1"):
        probe_diameter_m(disc_probe(64, 1.0, diameter_m=30), 1.0, fraction=1)
    with pytest.raises(DatasetError, match="sums to 0"):
        probe_diameter_m(np.zeros((64, 64), np.complex64), 1.0)


def test_a_diffuser_changes_the_phase_only() -> None:
    probe = disc_probe(64, 1.0, diameter_m=40)
    screened = diffused(np.stack([probe, 2 * probe]), phase_rad=0.5, seed=3)
    assert screened.dtype == np.complex64
    np.testing.assert_allclose(np.abs(screened), np.abs([probe, 2 * probe]), atol=1e-6)
    np.testing.assert_allclose(screened[1], 2 * screened[0], atol=1e-6)
    assert np.angle(screened[0])[np.abs(probe) > 0].std() == pytest.approx(0.5, rel=0.15)
    assert (diffused(probe, seed=3) != diffused(probe, seed=4)).any()
    with pytest.raises(DatasetError, match="grain_px is 0"):
        diffused(probe, grain_px=0)
