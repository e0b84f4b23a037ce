"""A stage that moves during the exposure blurs the frames; probe modes take the blur up."""

import numpy as np

from ptycho_bluesky.experiment import Geometry, fermat, phase_correlation
from ptycho_bluesky.optics import fourier_shift, siemens_star, simulate_dataset, truth_on_grid, zone_plate_probe
from ptycho_bluesky.reconstruction import reconstruct


def test_modes_take_up_the_blur_of_a_fly_scan():
    geometry, size, blur_px = Geometry(energy_kev=8.8, distance_m=0.475, detector_pixel_m=75e-6), 64, 5.0
    pixel = geometry.pixel_size_m(size)
    optics = {"diameter_m": 180e-6, "outermost_zone_m": 50e-9, "central_stop_m": 60e-6}
    still = zone_plate_probe(size, pixel, geometry.wavelength_m, defocus_m=150e-6, **optics)
    path = np.linspace(-blur_px / 2, blur_px / 2, 11)
    moved = fourier_shift(still[None], np.column_stack([np.zeros_like(path), path]))
    obj = siemens_star((180, 180), spokes=20, rings=2)
    dataset = simulate_dataset(
        obj, moved, fermat(90 * pixel, 90 * pixel, 8 * pixel), geometry, 1e6, probe_guess=still[None]
    )
    results = {m: reconstruct(dataset, "fast", {"modes": m, "epochs": 60}) for m in (1, 5)}
    truth = np.angle(truth_on_grid(obj, dataset.object_grid(), size))

    def correlation(result) -> float:
        return phase_correlation(result.phase, np.where(result.field_of_view, truth, np.nan))

    assert results[5].r_factor < 0.8 * results[1].r_factor
    assert 1 - correlation(results[5]) < 0.6 * (1 - correlation(results[1]))
