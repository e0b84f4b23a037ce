"""Position correction on scans with positions that are wrong by 10 pixels rms, of several kinds.

``python benchmarks/positions.py`` prints one JSON object: for each kind of error, the distance from the true positions
before and after, up to a shift and up to an affine map, R-factors and seconds. Simulated is a foam, 518 frames of
128 x 128 pixels. Where ``PTYCHO_BLUESKY_DATA`` names the folder of measured data, its Siemens star follows, its
positions spoilt on purpose; there, what correction makes of the positions as recorded counts as the truth.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from ptycho_bluesky.experiment import Geometry, PtychoDataset, fermat
from ptycho_bluesky.formats import load_dataset
from ptycho_bluesky.optics import random_foam, simulate_dataset, zone_plate_probe
from ptycho_bluesky.reconstruction import reconstruct
from ptycho_bluesky.reconstruction.judgement import position_residual

RMS_PX = 10.0
KINDS = ("none", "scale", "rotation", "drift", "random", "all")


def spoilt(kind: str, positions: np.ndarray, seed: int = 1) -> np.ndarray:
    """Return positions (N, 2), pixels, with errors of one kind: 5 %, 5 degrees, or 10 pixels rms."""
    centered, along = positions - positions.mean(axis=0), np.linspace(-1, 1, len(positions))
    rng, (c, s) = np.random.default_rng(seed), (np.cos(np.radians(5)), np.sin(np.radians(5)))

    def scaled(errors: np.ndarray) -> np.ndarray:
        errors = errors - errors.mean(axis=0)
        return errors * RMS_PX / np.sqrt((errors**2).sum(axis=1).mean())

    drift = np.column_stack([along + 0.6 * along**2, -0.7 * along + 0.8 * np.sin(3 * along)])
    errors = {
        "none": np.zeros_like(centered),
        "scale": 0.05 * centered,
        "rotation": centered @ np.array([[c, -s], [s, c]]).T - centered,
        "drift": scaled(drift),
        "random": scaled(rng.normal(size=centered.shape)),
    }
    together = 0.6 * (errors["scale"] + errors["rotation"]) + 0.5 * (errors["drift"] + errors["random"])
    return positions + (scaled(together) if kind == "all" else errors[kind])


def simulated() -> PtychoDataset:
    geometry = Geometry(energy_kev=8.8, distance_m=0.95, detector_pixel_m=75e-6)
    pixel = geometry.pixel_size_m(128)
    optics = {"diameter_m": 180e-6, "outermost_zone_m": 50e-9, "central_stop_m": 60e-6}
    true, guess = (zone_plate_probe(128, pixel, geometry.wavelength_m, defocus_m=z, **optics) for z in (318e-6, 300e-6))
    pattern = fermat(332 * pixel, 332 * pixel, 14.6 * pixel)
    foam = random_foam((560, 560), seed=1)
    return simulate_dataset(foam, true[None], pattern, geometry, 4.6e5, probe_guess=guess[None])


def corrected(dataset: PtychoDataset, positions: np.ndarray, options: dict[str, object]):
    pixel = dataset.pixel_size_m or 1.0
    return reconstruct(replace(dataset, positions=positions * pixel), "fast", {**options, "position_correction": True})


def measure(
    dataset: PtychoDataset, true: np.ndarray, kinds: list[str], options: dict[str, object]
) -> dict[str, object]:
    pixel, rows = dataset.pixel_size_m or 1.0, {}
    recorded = dataset.positions / pixel
    for kind in kinds:
        wrong = spoilt(kind, recorded)
        plain = reconstruct(replace(dataset, positions=wrong * pixel), "fast", options)
        began = time.perf_counter()
        result = corrected(dataset, wrong, options)
        found, seconds = result.positions / pixel, time.perf_counter() - began
        apart = found - true
        lengths = np.linalg.norm(apart - apart.mean(axis=0), axis=1)
        rows[kind] = {
            "before_px": round(position_residual(wrong, true, affine=False), 3),
            "before_up_to_affine_px": round(position_residual(wrong, true), 3),
            "after_px": round(position_residual(found, true, affine=False), 3),
            "after_up_to_affine_px": round(position_residual(found, true), 3),
            "after_median_px": round(float(np.median(lengths)), 3),
            "r_factor_uncorrected": round(plain.r_factor, 4),
            "r_factor": round(result.r_factor, 4),
            "seconds": round(seconds, 2),
            "message": result.provenance["messages"][-1],
        }
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    options: dict[str, object] = {"modes": 1, "epochs": given.epochs, "threads": given.threads}
    foam = simulated()
    page = {"options": options, "simulated": measure(foam, foam.positions / foam.pixel_size_m, given.kinds, options)}
    if folder := os.environ.get("PTYCHO_BLUESKY_DATA"):
        star = load_dataset(Path(folder) / "siemens_star_small.npz.bz2")
        reference = corrected(star, star.positions, options).positions
        page["measured"] = measure(star, reference, given.kinds, options)
    print(json.dumps(page, indent=2))


if __name__ == "__main__":
    main()
