"""A small measurement in metres, from which others are made that are wrong on purpose."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ptycho_bluesky.experiment import Geometry, PtychoDataset, fermat
from ptycho_bluesky.optics import siemens_star, simulate_dataset, zone_plate_probe

SIZE = 64
GEOMETRY = Geometry(energy_kev=8.8, distance_m=0.475, detector_pixel_m=75e-6)
PIXEL = GEOMETRY.pixel_size_m(SIZE)


def lens(defocus_m: float) -> np.ndarray:
    zones = {"diameter_m": 180e-6, "outermost_zone_m": 50e-9, "central_stop_m": 60e-6}
    return zone_plate_probe(SIZE, PIXEL, GEOMETRY.wavelength_m, defocus_m=defocus_m, **zones)


@pytest.fixture(scope="session")
def measured() -> Callable[..., PtychoDataset]:
    """Return a function that simulates; the probe it gives is known but for 10 um of defocus."""

    def simulated(obj: np.ndarray | None = None, photons: float = 1e6, pattern: Any = None) -> PtychoDataset:
        obj = siemens_star((180, 180), spokes=20, rings=2) if obj is None else obj
        pattern = pattern or fermat(80 * PIXEL, 80 * PIXEL, 9 * PIXEL)
        return simulate_dataset(obj, lens(150e-6), pattern, GEOMETRY, photons, probe_guess=lens(160e-6)[None])

    return simulated


@pytest.fixture(scope="session")
def scan(measured: Callable[..., PtychoDataset]) -> PtychoDataset:
    """79 frames of a Siemens star, a million photons in each."""
    return measured()


@pytest.fixture(scope="session")
def moved(scan: PtychoDataset) -> Callable[[Callable[[np.ndarray], np.ndarray]], PtychoDataset]:
    """Return a function that gives the scan other positions."""
    return lambda change: replace(scan, positions=np.ascontiguousarray(change(scan.positions)))
