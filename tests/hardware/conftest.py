"""A simulated scan, and the machine's GPU."""

from __future__ import annotations

import pytest
import torch

from ptycho_bluesky.experiment import Geometry, PtychoDataset, fermat
from ptycho_bluesky.optics import coherent_modes, siemens_star, simulate_dataset, zone_plate_probe

SIZE = 64


@pytest.fixture(scope="session", autouse=True)
def cuda() -> str:
    if not torch.cuda.is_available():
        pytest.skip("torch finds no CUDA device")
    return "cuda"


@pytest.fixture(scope="session")
def scan() -> PtychoDataset:
    """Two coherent modes, about 100 frames of whole counts; the guess of the probe is of another defocus."""
    geometry = Geometry(energy_kev=8.8, distance_m=0.475, detector_pixel_m=75e-6)
    pixel = geometry.pixel_size_m(SIZE)
    plate = {"diameter_m": 180e-6, "outermost_zone_m": 50e-9, "central_stop_m": 60e-6}
    true, guess = (zone_plate_probe(SIZE, pixel, geometry.wavelength_m, defocus_m=z, **plate) for z in (150e-6, 160e-6))
    pattern = fermat(100 * pixel, 100 * pixel, 9 * pixel)
    star, modes = siemens_star((180, 180), spokes=20, rings=2), coherent_modes(true, 2, 0.75)
    return simulate_dataset(star, modes, pattern, geometry, 1e6, probe_guess=guess[None])
