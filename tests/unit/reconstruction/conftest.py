"""A small simulated measurement, quick to reconstruct, with its truth."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from ptycho_bluesky.experiment import Geometry, PtychoDataset, Reconstruction, fermat, phase_correlation
from ptycho_bluesky.optics import coherent_modes, siemens_star, simulate_dataset, truth_on_grid, zone_plate_probe

SIZE = 64
GEOMETRY = Geometry(energy_kev=8.8, distance_m=0.475, detector_pixel_m=75e-6)
ZONE_PLATE = {"diameter_m": 180e-6, "outermost_zone_m": 50e-9, "central_stop_m": 60e-6}


def probe(defocus_m: float) -> np.ndarray:
    pixel = GEOMETRY.pixel_size_m(SIZE)
    return zone_plate_probe(SIZE, pixel, GEOMETRY.wavelength_m, defocus_m=defocus_m, **ZONE_PLATE)


@dataclass(frozen=True)
class Star:
    """A simulated measurement of a Siemens star and its truth."""

    dataset: PtychoDataset
    obj: np.ndarray

    def correlation(self, result: Reconstruction) -> float:
        truth = truth_on_grid(self.obj, self.dataset.object_grid(), SIZE)
        inside = result.field_of_view
        flat = np.where(inside, np.angle(truth * np.exp(-1j * np.angle(truth[inside].mean()))), np.nan)
        return phase_correlation(result.phase, flat)


@pytest.fixture(scope="session")
def star() -> Star:
    """Two coherent modes; the guess of the probe is of another defocus."""
    pixel = GEOMETRY.pixel_size_m(SIZE)
    pattern = fermat(100 * pixel, 100 * pixel, 9 * pixel)
    obj = siemens_star((180, 180), spokes=20, rings=2)
    true, guess = coherent_modes(probe(150e-6), 2, 0.75), probe(160e-6)
    return Star(simulate_dataset(obj, true, pattern, GEOMETRY, 1e6, probe_guess=guess[None]), obj)


@pytest.fixture(scope="session")
def make_scan() -> Callable[..., PtychoDataset]:
    """Return a function that simulates a scan of one mode: of an object, with a defocus, from a place on it."""

    def make(obj: np.ndarray, defocus_m: float, guess_m: float, at_px: tuple[float, float] = (0, 0)) -> PtychoDataset:
        pixel = GEOMETRY.pixel_size_m(SIZE)
        pattern = fermat(70 * pixel, 70 * pixel, 8 * pixel)
        moved = replace(pattern, positions=pattern.positions + np.array(at_px) * pixel)
        return simulate_dataset(obj, probe(defocus_m)[None], moved, GEOMETRY, 1e6, probe_guess=probe(guess_m)[None])

    return make


@pytest.fixture(scope="session")
def data_folder() -> Path:
    folder = os.environ.get("PTYCHO_BLUESKY_DATA")
    if not folder:
        pytest.skip("set PTYCHO_BLUESKY_DATA to the folder of measured data")
    return Path(folder)
