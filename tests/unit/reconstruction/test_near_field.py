"""The same engine in the near field."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.ndimage

from ptycho_bluesky.experiment import Geometry, fermat, phase_correlation
from ptycho_bluesky.optics import disc_probe, siemens_star, simulate_dataset, truth_on_grid
from ptycho_bluesky.reconstruction import reconstruct


@pytest.mark.parametrize("kernels", ["numba", "torch"])
def test_a_star_is_recovered_in_the_near_field_without_a_probe(kernels):
    geometry = Geometry(
        energy_kev=12.0, distance_m=1.0, detector_pixel_m=55e-6, modality="near-field", focus_to_sample_m=4e-3
    )
    size, pixel = 64, geometry.pixel_size_m(64)
    pattern = fermat(60 * pixel, 60 * pixel, 8 * pixel)
    snapped = replace(pattern, positions=np.rint(pattern.positions / pixel) * pixel)
    obj = siemens_star((150, 150), spokes=16, rings=1)
    rng = np.random.default_rng(1)  # a diffuser: a flat beam tells nothing of low frequencies
    diffuser = scipy.ndimage.gaussian_filter(rng.normal(size=(2, size, size)), (0, 3, 3))
    probe = disc_probe(size, pixel, diameter_m=40 * pixel) * np.exp(40j * diffuser[0]).astype(np.complex64)
    dataset = replace(simulate_dataset(obj, probe, snapped, geometry, 1e6), probe=None)
    result = reconstruct(dataset, options={"modes": 1, "epochs": 80, "kernels": kernels, "threads": 1})
    truth = truth_on_grid(obj, dataset.object_grid(), size)
    expected = np.where(result.field_of_view, np.angle(truth), np.nan)
    assert result.modality == "near-field" and result.r_factor < 0.12
    assert phase_correlation(result.phase, expected) > 0.85, result.r_factor
