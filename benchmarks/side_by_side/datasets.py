"""What is reconstructed: the measured Siemens star where its folder is known, and a simulated one."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ptycho_bluesky.experiment import Geometry, PtychoDataset, fermat
from ptycho_bluesky.formats import load_dataset
from ptycho_bluesky.optics import coherent_modes, siemens_star, simulate_dataset, zone_plate_probe

STAR = "siemens_star_small.npz.bz2"
MARGIN = 26
HALVES = {"all": slice(None), "even": slice(0, None, 2), "odd": slice(1, None, 2)}


def simulated() -> PtychoDataset:
    """Return about as many frames of the same size, as many photons and the same overlap as the measured star."""
    geometry = Geometry(energy_kev=8.8, distance_m=0.95, detector_pixel_m=75e-6)
    pixel = geometry.pixel_size_m(128)
    optics = {"diameter_m": 180e-6, "outermost_zone_m": 50e-9, "central_stop_m": 60e-6}
    true, guess = (zone_plate_probe(128, pixel, geometry.wavelength_m, defocus_m=z, **optics) for z in (318e-6, 300e-6))
    pattern = fermat(332 * pixel, 332 * pixel, 14.6 * pixel)
    modes = coherent_modes(true, 2, 0.92)
    found = simulate_dataset(siemens_star((480, 480)), modes, pattern, geometry, 5e5, probe_guess=guess[None])
    return replace(found, name="simulated star")


def datasets(file: Path | None) -> list[PtychoDataset]:
    """Return the dataset of `file`, or else the simulated star and, where its folder is known, the measured one."""
    if file is not None:
        return [load_dataset(file)]
    folder = os.environ.get("PTYCHO_BLUESKY_DATA")
    measured = [replace(load_dataset(Path(folder) / STAR), name="measured star")] if folder else []
    return [*measured, simulated()]


@dataclass(frozen=True)
class Task:
    """A dataset as everybody gets it, whole and in halves."""

    name: str
    files: dict[str, Path]
    frames: npt.NDArray[np.float32]
    corners: npt.NDArray[np.float64]

    @classmethod
    def of(cls, dataset: PtychoDataset, folder: Path) -> Task:
        """Write one file for all frames, one for the even and one for the odd ones; all on one grid.

        Raises
        ------
        ValueError
            When the dataset has no probe to start from, or bad pixels, since no mask is handed on.
        """
        if dataset.probe is None or dataset.modality != "far-field":
            raise ValueError(f"{dataset.name}: the comparison needs a far-field dataset with a guess of the probe")
        if dataset.mask is not None and dataset.mask.any():
            raise ValueError(f"{dataset.name}: the comparison needs a dataset without bad pixels")
        frames, grid = np.asarray(dataset.frames[:], np.float32), dataset.object_grid(MARGIN)
        probe = dataset.probe[:1] * np.sqrt(frames.sum(axis=(1, 2)).mean() / (np.abs(dataset.probe[:1]) ** 2).sum())
        files = {name: folder / f"{dataset.name.replace(' ', '_')}_{name}.npz" for name in HALVES}
        for name, chosen in HALVES.items():
            held = {"frames": frames[chosen], "corners": grid.corners[chosen]}
            np.savez(files[name], **held, probe=probe.astype(np.complex64), shape=grid.shape)
        return cls(dataset.name, files, frames, grid.corners)
