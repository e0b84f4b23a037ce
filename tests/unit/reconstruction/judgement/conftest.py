"""A smooth specimen, whose reconstruction is limited by photon noise, with its truth."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
import scipy.ndimage

from ptycho_bluesky.experiment import Geometry, PtychoDataset, Reconstruction, fermat
from ptycho_bluesky.optics import simulate_dataset, truth_on_grid, zone_plate_probe
from ptycho_bluesky.reconstruction import reconstruct

SIZE = 64
GEOMETRY = Geometry(energy_kev=8.8, distance_m=0.475, detector_pixel_m=75e-6)
PIXEL = GEOMETRY.pixel_size_m(SIZE)
OPTIONS = {"modes": 1, "epochs": 15, "threads": 1}


@dataclass(frozen=True)
class Judged:
    dataset: PtychoDataset
    result: Reconstruction
    truth: Reconstruction
    """The result with the true object in it."""


def smooth_object() -> np.ndarray:
    field = scipy.ndimage.gaussian_filter(np.random.default_rng(3).normal(size=(160, 160)), 3.0)
    field /= field.std()
    return np.exp(-0.15j * field - 0.03 * (field + 3)).astype(np.complex64)


def measured(photons: float, seed: int = 0) -> PtychoDataset:
    probe = zone_plate_probe(
        SIZE, PIXEL, GEOMETRY.wavelength_m, diameter_m=180e-6, outermost_zone_m=50e-9, central_stop_m=60e-6,
        defocus_m=150e-6,
    )  # fmt: skip
    pattern = fermat(80 * PIXEL, 80 * PIXEL, 8 * PIXEL)
    return simulate_dataset(smooth_object(), probe, pattern, GEOMETRY, photons, seed=seed)


@pytest.fixture(scope="session")
def measure() -> Callable[..., Judged]:
    """Simulate and reconstruct at a number of photons a frame; each but once."""
    made: dict[tuple[float, int], Judged] = {}

    def of(photons: float, seed: int = 0) -> Judged:
        if (photons, seed) not in made:
            dataset = measured(photons, seed)
            result = reconstruct(dataset, "fast", OPTIONS)
            true = truth_on_grid(smooth_object(), dataset.object_grid(), SIZE)
            made[photons, seed] = Judged(dataset, result, replace(result, object=true[None]))
        return made[photons, seed]

    return of


@pytest.fixture
def judged(measure: Callable[..., Judged]) -> Judged:
    return measure(3e5)
