"""A near field's distance is found from the data."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.ndimage

from ptycho_bluesky.errors import ReconstructionError
from ptycho_bluesky.experiment import Geometry, fermat
from ptycho_bluesky.formats import load_dataset
from ptycho_bluesky.optics import NearField, disc_probe, siemens_star, simulate_dataset
from ptycho_bluesky.reconstruction import reconstruct, refined_distance


def near_field(quantity: str, wrong: float):
    """A simulated near field, and the same with a distance that is wrong by a factor."""
    cone = {"focus_to_sample_m": 4e-3, "distance_m": 1.0} if quantity == "focus_to_sample_m" else {"distance_m": 4e-3}
    detector = 55e-6 if quantity == "focus_to_sample_m" else 0.12e-6
    geometry = Geometry(energy_kev=12.0, detector_pixel_m=detector, modality="near-field", **cone)
    size, pixel = 64, geometry.pixel_size_m(64)
    pattern = fermat(50 * pixel, 50 * pixel, 9 * pixel)
    snapped = replace(pattern, positions=np.rint(pattern.positions / pixel) * pixel)
    rng = np.random.default_rng(1)
    diffuser = scipy.ndimage.gaussian_filter(rng.normal(size=(size, size)), 3)
    probe = disc_probe(size, pixel, diameter_m=40 * pixel) * np.exp(40j * diffuser).astype(np.complex64)
    true = simulate_dataset(siemens_star((150, 150), spokes=16, rings=1), probe, snapped, geometry, 1e6)
    believed = Geometry.model_validate({**geometry.model_dump(), quantity: wrong * getattr(geometry, quantity)})
    return true, replace(true, geometry=believed, pixel_size_m=believed.pixel_size_m(size), probe=None)


def test_a_wrong_distance_is_mended():
    quantity = "focus_to_sample_m"
    true, wrong = near_field(quantity, 1.12)
    options = {"modes": 1, "epochs": 8, "threads": 1}
    result = reconstruct(wrong, "fast", options, refine_distance=True)
    (note,) = result.provenance["messages"]
    found = float(note.split(" to ")[1].split(" m ")[0])
    assert found == pytest.approx(getattr(true.geometry, quantity), rel=0.03)
    assert note.startswith(f"{quantity} refined from")
    assert result.r_factor < 0.9 * reconstruct(wrong, "fast", options).r_factor


def test_a_far_field_has_no_distance_to_refine(star):
    with pytest.raises(ReconstructionError, match=r"only a near field's distance can be refined"):
        refined_distance(star.dataset, lambda dataset: 0.0)


def test_the_best_of_what_was_tried_is_taken_and_the_end_of_the_range_is_said(caplog):
    _, wrong = near_field("distance_m", 1.0)
    refined, report = refined_distance(wrong, lambda d: abs(d.geometry.distance_m - 4.5e-3))
    assert report.found_m == pytest.approx(4.5e-3, rel=0.003) and refined.geometry.distance_m == report.found_m
    assert not caplog.text
    refined_distance(wrong, lambda d: -d.geometry.distance_m)
    assert "end of the range" in caplog.text


@pytest.mark.data
def test_the_distance_of_p25_is_found_from_a_wrong_one(data_folder):
    wrong = load_dataset(data_folder / "petra3_p25_near_field.cxi", focus_to_sample_m=3.3e-3)
    result = reconstruct(wrong, "fast", {"modes": 1, "epochs": 20}, refine_distance=True)
    found = float(result.provenance["messages"][0].split(" to ")[1].split(" m ")[0])
    assert found == pytest.approx(3.65e-3, rel=0.02)
    assert result.r_factor < 0.09


def test_the_angular_spectrum_is_fresnels_where_angles_are_small_and_unitary_where_they_are_large():
    small = [NearField(32, 1e-7, 1e-10, 1e-3, method).transfer for method in ("fresnel", "angular-spectrum")]
    np.testing.assert_allclose(small[0], small[1], atol=2e-3)
    steep = NearField(32, 1e-9, 1.5e-9, 1e-7, "angular-spectrum").transfer
    np.testing.assert_allclose(np.abs(steep), 1, rtol=1e-6)
    assert np.abs(steep - NearField(32, 1e-9, 1.5e-9, 1e-7, "fresnel").transfer).max() > 0.1
