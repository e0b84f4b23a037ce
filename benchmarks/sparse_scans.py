"""Fewer positions: the live network beside the iterative reconstruction, from 90 % overlap to none.

``ptycho-bluesky bench sparse`` prints one JSON object. A simulated zone-plate beamline scans one field with ever larger
steps; each scan is imaged by the network (frames alone, one pass) and reconstructed by ``auto``, and both phases are
compared with the specimen where there was light: correlation, structural similarity, mean squared error, mean Fourier
ring correlation. Positions are exact and the probe is the one that made the frames, so the network has no advantage
there. From 90 % to 50 % overlap the number of frames falls 25 times.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from ptycho_bluesky.devices import simulated_beamline
from ptycho_bluesky.experiment import PtychoDataset, Reconstruction, align_phase, fermat
from ptycho_bluesky.inference import InferenceResult, infer, load_model
from ptycho_bluesky.inference._scores import on_grid, ssim
from ptycho_bluesky.optics import probe_diameter_m, simulate_dataset
from ptycho_bluesky.reconstruction import reconstruct

OVERLAPS = (0.9, 0.8, 0.7, 0.6, 0.5, 0.3, 0.15, 0.0)
LIT = 0.1
"""Share of the strongest light of one frame above which a pixel counts as measured."""

Image = np.ndarray


def truth_as_result(obj: Image, probe: Image, pixel: float, positions: Image) -> Reconstruction:
    """The specimen as a result whose grid begins where that of simulated positions does."""
    size = probe.shape[-1]
    origin = tuple(-(n // 2 - size // 2) * pixel for n in obj.shape)
    return Reconstruction(
        object=obj[None], probe=probe, positions=positions, coverage=np.ones(obj.shape, np.float32),
        origin=(origin[0], origin[1]), pixel_size_m=pixel, errors=np.zeros(0), r_factor=0.0,
        phase_contrast_rad=0.0, engine="truth", modality="far-field", parameters={}, provenance={},
    )  # fmt: skip


def lit(dataset: PtychoDataset, probe: Image, result: InferenceResult) -> Image:
    """(Y, X) where the scan brought light, on the mosaic's grid."""
    light = (np.abs(probe) ** 2).sum(axis=0)
    light = light > LIT * light.max()
    grid, scale = dataset.object_grid(), result.pixel_size / (dataset.pixel_size_m or 1.0)
    seen = np.zeros([n + 2 for n in grid.shape], bool)
    for row, column in np.rint(grid.corners).astype(int):
        seen[row : row + light.shape[0], column : column + light.shape[1]] |= light
    first = [(o - g) / (dataset.pixel_size_m or 1.0) for o, g in zip(result.origin, grid.origin, strict=True)]
    at = [np.rint(f + scale * np.arange(n)).astype(int) for f, n in zip(first, result.phase.shape, strict=True)]
    rows, columns = (np.clip(v, 0, n - 1) for v, n in zip(at, seen.shape, strict=True))
    return seen[np.ix_(rows, columns)]


def ring_correlation(a: Image, b: Image) -> float:
    """Mean over all rings, images set to zero where there was no light."""
    inside = np.isfinite(a) & np.isfinite(b)
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    window = np.hanning(rows[-1] + 1 - rows[0])[:, None] * np.hanning(columns[-1] + 1 - columns[0]) * inside[box]
    spectra = []
    for image in (a, b):
        part = np.where(inside, image, 0)[box]
        spectra.append(np.fft.fft2((part - np.average(part, weights=window)) * window))
    fy, fx = (np.fft.fftfreq(n) for n in window.shape)
    ring = np.rint(np.hypot(fy[:, None], fx) * 2 * 40).astype(int)  # forty rings to the highest frequency
    cross, one, other = (
        np.bincount(ring.ravel(), v.ravel())[1:41]
        for v in ((spectra[0] * spectra[1].conj()).real, abs(spectra[0]) ** 2, abs(spectra[1]) ** 2)
    )
    return float(np.mean(cross / np.sqrt(one * other)))


def figures(image: Image, truth: Image, where: Image) -> tuple[dict[str, float], Image]:
    a, b, _ = align_phase(np.where(where, image, np.nan), np.where(where, truth, np.nan))
    inside = np.isfinite(a) & np.isfinite(b)
    return {
        "correlation": round(float(np.corrcoef(a[inside], b[inside])[0, 1]), 4),
        "ssim": round(ssim(a, b), 4),
        "mse_rad2": round(float(((a - b)[inside] ** 2).mean()), 5),
        "frc_mean": round(ring_correlation(a, b), 4),
    }, a


def measure(specimen: str, overlap: float, field: float, photons: float, model: Any, epochs: int | None) -> Any:
    beamline = simulated_beamline(specimen, field_m=(6e-6, 6e-6), stage_errors=None, photons_per_frame=photons)
    geometry, probe, obj = beamline.metadata.geometry, beamline.probe, beamline.truth
    pixel = geometry.pixel_size_m(probe.shape[-1])
    step = (1 - overlap) * probe_diameter_m(probe, pixel)
    pattern = fermat(field, field, step)
    guess = (probe * np.sqrt(photons)).astype(np.complex64)
    dataset = simulate_dataset(obj, probe, pattern, geometry, photons, probe_guess=guess)
    live = infer(dataset, model, probe=guess)
    began = time.perf_counter()
    options = {"position_correction": False} | ({} if epochs is None else {"epochs": epochs})
    full = reconstruct(dataset, "auto", options, check=False)
    seconds = time.perf_counter() - began
    reference = on_grid(
        truth_as_result(obj, probe, pixel, dataset.positions), live.origin, live.pixel_size, live.phase.shape
    )
    where = lit(dataset, probe, live) & np.isfinite(live.phase)
    iterative = on_grid(full, live.origin, live.pixel_size, live.phase.shape)
    where &= np.isfinite(iterative) & np.isfinite(reference)
    network, one = figures(live.phase, reference, where)
    other_figures, other = figures(iterative, reference, where)
    cost = {"seconds": round(seconds, 2), "r_factor": round(full.r_factor, 4), "epochs": len(full.errors)}
    row = {
        "specimen": specimen,
        "overlap": overlap,
        "frames": len(dataset),
        "network": network | {"seconds": round(live.seconds, 2)},
        "iterative": other_figures | cost,
    }
    return row, one, other


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--specimens", nargs="+", default=["siemens-star", "integrated-circuit"])
    parser.add_argument("--overlaps", nargs="+", type=float, default=list(OVERLAPS))
    parser.add_argument("--field-um", type=float, default=4.0, help="side of the scanned field")
    parser.add_argument("--photons", type=float, default=5e5, help="in each frame")
    parser.add_argument("--epochs", type=int, help="of the iterative reconstruction; by default it decides")
    parser.add_argument("--model", default="default")
    parser.add_argument("--picture", type=Path, help="PNG of the images, network above, iterative below")
    parser.add_argument("--json", action="store_true", help="as all benchmarks: JSON is printed in any case")
    given = parser.parse_args()
    model, rows, pictures = load_model(given.model), [], []
    for specimen in given.specimens:
        for overlap in given.overlaps:
            row, *images = measure(specimen, overlap, given.field_um * 1e-6, given.photons, model, given.epochs)
            rows.append(row)
            pictures.append((row, images))
    if given.picture is not None:
        figure, axes = plt.subplots(
            2, len(pictures), figsize=(2.6 * len(pictures), 5.6), layout="constrained", squeeze=False
        )
        for number, (row, images) in enumerate(pictures):
            for part, (name, image) in enumerate(zip(("network", "iterative"), images, strict=True)):
                axes[part, number].imshow(
                    image, cmap="gray", vmin=np.nanpercentile(image, 1), vmax=np.nanpercentile(image, 99)
                )
                axes[part, number].set_title(f"{name} {row['overlap']:.0%}, {row[name]['correlation']:.3f}", fontsize=9)
                axes[part, number].axis("off")
        figure.savefig(given.picture, dpi=70)
    machine = {"platform": platform.platform(), "cores": os.cpu_count(), "load": [round(v, 1) for v in os.getloadavg()]}
    print(json.dumps({"benchmark": "sparse", "machine": machine, "model": model.name, "rows": rows}))


if __name__ == "__main__":
    main()
