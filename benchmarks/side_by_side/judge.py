"""One judgement for everybody: R-factor, ring correlation of half data sets, phase contrast."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.fft

from ptycho_bluesky.experiment import Reconstruction, align_phase, phase_contrast
from ptycho_bluesky.reconstruction import fourier_ring_correlation
from side_by_side.contestant import Snapshot

BANDS = ((0.02, 0.1), (0.1, 0.25), (0.25, 0.4))
"""Of spatial frequency, cycles per object pixel."""

BATCH = 64


def probes_of(snapshot: Snapshot, chosen: slice) -> npt.NDArray[np.complex64]:
    """Return (n, modes, H, W), the probe of each frame as the contestant itself models it."""
    probe = snapshot["probe"][None]
    if "opr_weights" in snapshot:  # the first mode varies from frame to frame: weights of its mean and of each part
        weights = snapshot["opr_weights"][chosen]
        first = np.tensordot(weights, np.concatenate([probe[0, :1], snapshot["opr"]]), axes=1)
        probe = np.repeat(probe, len(weights), axis=0)
        probe[:, 0] = first
    if "mixing" in snapshot:
        probe = np.einsum("krm,mhw->krhw", snapshot["mixing"][chosen], snapshot["probe"])
    if "scales" in snapshot:
        probe = probe * snapshot["scales"][chosen, None, None, None]
    return probe.astype(np.complex64)


def model_amplitudes(snapshot: Snapshot, chosen: slice) -> npt.NDArray[np.float32]:
    """Return (n, H, W), zero frequency in the centre; the probe takes the fraction of a pixel by a Fourier shift."""
    probe, obj, corners = probes_of(snapshot, chosen), first_slice(snapshot), snapshot["corners"][chosen]
    size = probe.shape[-1]
    whole = np.clip(np.rint(corners).astype(int), 0, np.array(obj.shape) - size)
    rest, f = corners - whole, np.fft.fftfreq(size)
    if np.abs(rest).max() > 1e-3:
        ramp = np.exp(-2j * np.pi * (f[None, :, None] * rest[:, :1, None] + f[None, None] * rest[:, 1:, None]))
        moved = int(snapshot.get("shifted_modes", probe.shape[1]))
        shifted = scipy.fft.ifft2(scipy.fft.fft2(probe[:, :moved]) * ramp[:, None].astype(np.complex64))
        still = np.broadcast_to(probe[:, moved:], (len(rest), *probe[:, moved:].shape[1:]))
        probe = np.concatenate([shifted, still], axis=1)
    patches = np.stack([obj[y : y + size, x : x + size] for y, x in whole])
    intensity = (np.abs(scipy.fft.fft2(probe * patches[:, None], norm="ortho")) ** 2).sum(axis=1)
    intensity = np.fft.fftshift(intensity, axes=(1, 2)) + snapshot.get("background", 0)
    return np.sqrt(intensity, dtype=np.float32)


def first_slice(snapshot: Snapshot) -> npt.NDArray[np.complex64]:
    return snapshot["object"].reshape(-1, *snapshot["object"].shape[-2:])[0]


def r_factor(snapshot: Snapshot, amplitude: npt.NDArray[np.float32]) -> float:
    """Return ``sum |s model - measured| / sum measured`` with the best global scale s, over all frames."""
    batches = [slice(k, k + BATCH) for k in range(0, len(amplitude), BATCH)]
    model = np.concatenate([model_amplitudes(snapshot, chosen) for chosen in batches])
    scale = np.vdot(model, amplitude) / np.vdot(model, model)
    return float(np.abs(scale * model - amplitude).sum(dtype=np.float64) / amplitude.sum(dtype=np.float64))


def reconstruction(snapshot: Snapshot, given: npt.NDArray[np.float64], engine: str) -> Reconstruction:
    """Return a contestant's result in the project's form; `given` corners tell where its object array begins."""
    obj, probe, corners = first_slice(snapshot), snapshot["probe"], snapshot["corners"]
    size, intensity, total = probe.shape[-1], (np.abs(probe) ** 2).sum(axis=0), np.zeros(obj.shape, np.float32)
    for y, x in np.clip(np.rint(corners).astype(int), 0, np.array(obj.shape) - size):
        total[y : y + size, x : x + size] += intensity
    seen = total > 0.01 * total.max()
    row, column = (given - corners).mean(axis=0)
    result = Reconstruction(
        object=obj[None],
        probe=probe,
        positions=corners + np.array([row, column]),
        coverage=np.minimum(total / np.percentile(total[seen], 90), 1),
        origin=(float(row), float(column)),
        pixel_size_m=None,
        errors=np.zeros(1),
        r_factor=0.0,
        phase_contrast_rad=0.0,
        engine=engine,
    )
    return dataclasses.replace(result, phase_contrast_rad=round(phase_contrast(flat_phase(result)), 3))


def flat_phase(result: Reconstruction) -> npt.NDArray[np.float64]:
    """Return (Y, X) phase without the ramp that far-field data leave free, NaN outside the scanned field."""
    return align_phase(result.phase, result.phase)[1]


@dataclass(frozen=True)
class Halves:
    """How well the reconstructions of even and of odd frames agree."""

    mean: float
    """Of the correlation of all rings up to half a cycle per pixel."""

    bands: dict[str, float]
    resolution_px: float

    @classmethod
    def of(cls, even: Reconstruction, odd: Reconstruction) -> Halves:
        found = fourier_ring_correlation(even, odd)
        bands = {
            f"{low}-{high}": round(
                float(found.correlation[(found.frequency >= low) & (found.frequency < high)].mean()), 4
            )
            for low, high in BANDS
        }
        return cls(round(float(found.correlation.mean()), 4), bands, round(found.resolution, 3))

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)
