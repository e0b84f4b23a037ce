"""The live network beside the published architecture: at equal training data and time, and on frames with faults.

``ptycho-bluesky bench accuracy`` prints one JSON object. Data is the measured Siemens star in the folder that
``PTYCHO_BLUESKY_DATA`` names, else a simulated one. It is reconstructed; its object is what images are compared with,
low-passed to the network's pixel, its probe is what the networks are trained for. No network sees a measured pair,
except in ``half``: pairs of one half of the field, judged on the other. ``published`` is the phase-only network of
Babu et al. (2023), its input normalised and its loss weighted as ours, trained on the same frames for the same
processor time.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from ptycho_bluesky.cli._pictures import Panel, save_panels
from ptycho_bluesky.experiment import Geometry, PtychoDataset, Reconstruction, align_phase, fermat
from ptycho_bluesky.formats import load_dataset, read_reconstruction
from ptycho_bluesky.inference import (
    Conditions,
    PtychoNNModel,
    PtychoNNPhase,
    TrainingOptions,
    TrainingPairs,
    cold_start,
    infer,
    load_model,
    train,
)
from ptycho_bluesky.inference._batches import Batches
from ptycho_bluesky.inference._cold_start import paced_options
from ptycho_bluesky.inference._losses import DIM, light_of
from ptycho_bluesky.inference._scores import compared, on_grid
from ptycho_bluesky.optics import siemens_star, simulate_dataset, zone_plate_probe
from ptycho_bluesky.reconstruction import reconstruct

SIZE = 64
ROBUSTNESS_FRAMES = 64


class Published(PtychoNNPhase):
    """The published phase-only network behind our input: amplitudes of normalised flux, 64 x 64."""

    def __init__(self) -> None:
        super().__init__()
        self.frame_size = SIZE

    def forward(self, frames: torch.Tensor) -> tuple[torch.Tensor, None]:
        flux = frames.mean((-2, -1), keepdim=True).clamp_min(1e-9)
        return super().forward(torch.sqrt(frames / flux))[0], None


def star(folder: str | None) -> PtychoDataset:
    """Return the measured star, or a simulated one."""
    if folder is not None:
        return load_dataset(Path(folder) / "siemens_star_small.npz.bz2")
    geometry = Geometry(energy_kev=8.8, distance_m=0.95, detector_pixel_m=75e-6)
    pixel = geometry.pixel_size_m(128)
    optics = {"diameter_m": 180e-6, "outermost_zone_m": 50e-9, "central_stop_m": 60e-6, "defocus_m": 300e-6}
    probe = zone_plate_probe(128, pixel, geometry.wavelength_m, **optics)
    pattern = fermat(300 * pixel, 300 * pixel, 14 * pixel)
    return simulate_dataset(siemens_star((560, 560)), probe[None], pattern, geometry, 4.6e5, name="simulated star")


def train_published(conditions: Conditions, cpu_seconds: float, seed: int = 0) -> tuple[PtychoNNModel, int]:
    """Train the published architecture on the frames that ours sees, as long as the processor time lasts."""
    torch.manual_seed(seed)
    network, options = Published().train(), TrainingOptions(shard=512, seed=seed)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    batches, began, step = Batches(options, SIZE, conditions), time.process_time(), 0
    while (spent := (time.process_time() - began) / cpu_seconds) < 1:
        for group in optimiser.param_groups:  # a cosine over the time, after the same short rise as ours
            group["lr"] = 1e-3 * min(1.0, spent / 0.03) * (0.01 + 0.99 * 0.5 * (1 + np.cos(np.pi * spent)))
        batch = batches(step)
        light = light_of(batch.probes)
        weight = light / (light + DIM)
        with torch.autocast("cpu", torch.bfloat16):
            phase = network(batch.frames[:, None])[0][:, 0]
        loss = (weight * (phase.float() - torch.angle(batch.objects)).abs()).sum() / weight.sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        step += 1
    batches.close()
    return PtychoNNModel("published architecture", network.eval(), "0" * 64), step


def judged(dataset: PtychoDataset, rec: Reconstruction, model: Any, probe: np.ndarray) -> tuple[dict[str, Any], Panel]:
    """Return how the image that a model makes compares with the reconstruction, and the image."""
    began = time.process_time()
    result = infer(dataset, model, probe=probe, batch=8)
    spent = time.process_time() - began
    live = np.where(result.coverage > 0.5, result.phase, np.nan)
    reference = on_grid(rec, result.origin, result.pixel_size, live.shape)
    correlation, similarity = compared(live, reference)
    a, b, _ = align_phase(live, reference)
    inside = np.isfinite(a)
    report = {
        "phase_correlation": round(correlation, 4),
        "ssim": round(similarity, 4),
        "rms_rad": round(float(np.sqrt(np.mean((a - b)[inside] ** 2))), 4),
        "cpu_ms_per_frame": round(1e3 * spent / len(dataset), 2),
    }
    return report, Panel(f"{model.name}\ncorrelation {correlation:.3f}, SSIM {similarity:.2f}", a)


def cost(network: torch.nn.Module, *inputs: torch.Tensor) -> dict[str, float]:
    """Return weights and arithmetic of a network, one frame, without its Fourier transforms."""
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network(*inputs)
    weights = sum(p.numel() for p in network.parameters())
    return {"weights": weights, "gflop_per_frame": round(counter.get_total_flops() / 1e9, 3)}


def half_of_the_field(
    dataset: PtychoDataset, rec: Reconstruction, begun: Any, folder: Path, steps: int
) -> tuple[dict[str, Any], Panel]:
    """Train on the reconstruction of one half alone, and judge where no frame of that half shed light."""
    x = dataset.positions[:, 1]
    left = x < np.median(x)
    known, unknown = dataset.subset(left), dataset.subset(~left)
    first = reconstruct(known)
    pairs = TrainingPairs.of(known, first)
    options = TrainingOptions(steps=steps, learning_rate=1e-3, shard=512, simulated_share=0.3, bfloat16=True)
    began = time.process_time()
    model = train(folder / "half.safetensors", options, pairs=pairs, start_from=begun)
    spent = time.process_time() - began
    light, size = np.zeros(rec.object.shape[1:]), rec.probe.shape[-1]
    beam = (np.abs(rec.probe) ** 2).sum(axis=0)
    corners = (rec.positions[left] - np.asarray(rec.origin)) / (rec.pixel_size_m or 1.0)
    for row, column in np.rint(corners).astype(int):
        part = light[row : row + size, column : column + size]
        np.maximum(part, beam, out=part)
    fresh = copy.copy(rec)
    object.__setattr__(fresh, "coverage", np.where(light < 0.2 * beam.max(), rec.coverage, 0))
    report, panel = judged(unknown, fresh, model, first.probe)
    return {**report, "pairs": len(pairs), "steps": steps, "cpu_seconds": round(spent, 1)}, panel


def perturbed(frames: np.ndarray) -> dict[str, np.ndarray]:
    """Return frames as they should not change the image."""
    hot = frames.copy()
    hot[:, frames.shape[1] * 15 // 32, frames.shape[2] * 5 // 8] = 65_535
    return {
        "counts x4": frames * 4,
        "counts x16": frames * 16,
        "counts /10": frames / 10,
        "counts /16": frames / 16,
        "a tenth of the photons": np.random.default_rng(0).binomial(frames.astype(np.int64), 0.1).astype(np.float32),
        "centre off 1 px": np.roll(frames, 1, 2),
        "centre off 4 px": np.roll(frames, (4, -4), (1, 2)),
        "one hot pixel": hot,
    }


def changed(a: Any, b: Any, weight: np.ndarray) -> float:
    """Return the rms change of phase, radians, where there is light, each patch's free constant removed."""
    turn = np.exp(1j * (a.phase - b.phase))
    mean = (turn * weight).sum((1, 2), keepdims=True)
    wrong = np.angle(turn * np.exp(-1j * np.angle(mean)))
    return float(np.sqrt((wrong**2 * weight).sum() / weight.sum() / len(turn)))


def robustness(dataset: PtychoDataset, probe: np.ndarray, models: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Return the rms change of patches, radians, for each model and each fault of the frames or of the probe."""
    frames = np.asarray(dataset.frames[:ROBUSTNESS_FRAMES], np.float32)
    size = frames.shape[-1]
    k = np.fft.fftfreq(size) * size
    bend = np.exp(-1j * np.pi / size * 0.1 * (k[:, None] ** 2 + k**2))
    other = np.fft.ifft2(np.fft.fft2(probe) * bend).astype(np.complex64)
    table: dict[str, dict[str, float]] = {}
    for name, model in models.items():

        def patches(changed_frames: np.ndarray, beam: np.ndarray = probe, model: Any = model) -> Any:
            return model.for_probe(beam, dataset.pixel_size_m, size, mask=dataset.mask)(changed_frames)

        usual = patches(frames)
        weight = usual.weight
        table[name] = {what: changed(usual, patches(f), weight) for what, f in perturbed(frames).items()}
        table[name]["another defocus of the probe"] = changed(usual, patches(frames, other), weight)
        table[name] = {what: round(value, 4) for what, value in table[name].items()}
    return table


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="ptycho-bluesky bench accuracy", description=__doc__.split("\n")[0])
    parser.add_argument("--data", default=os.environ.get("PTYCHO_BLUESKY_DATA"), help="folder of the measured star")
    parser.add_argument("--reconstruction", type=Path, help="result of the star (.h5); else it is reconstructed")
    parser.add_argument("--seconds", type=float, default=540.0, help="time of the cold start")
    parser.add_argument("--steps", type=int, help="steps of the cold start, in place of a time")
    parser.add_argument("--half-steps", type=int, default=1400, help="steps of the training on half; 0: leave it out")
    parser.add_argument("--cold", type=Path, help="model file of a cold start that was made before")
    parser.add_argument("--picture", type=Path, help="PNG of the images")
    parser.add_argument("--json", action="store_true", help="on one line")
    return parser.parse_args()


def main() -> int:
    given = arguments()
    dataset = star(given.data)
    rec = reconstruct(dataset) if given.reconstruction is None else read_reconstruction(given.reconstruction)
    conditions = Conditions.of(rec.probe, dataset, contrast_rad=rec.phase_contrast_rad)
    shipped = load_model()
    report: dict[str, Any] = {
        "benchmark": "accuracy",
        "machine": {"platform": platform.platform(), "cores": os.cpu_count(), "load": os.getloadavg()[0]},
        "versions": {name: version(name) for name in ("ptycho-bluesky", "torch", "numpy")},
        "data": {"name": dataset.name, "frames": len(dataset), "r_factor": round(rec.r_factor, 4)},
    }
    panels = []
    with tempfile.TemporaryDirectory() as folder:
        began = time.process_time()
        if given.cold is not None:
            cold = load_model(given.cold)
            budget = float(cold.notes["cpu_seconds"])
        else:
            options = paced_options(shipped, conditions, given.seconds)  # type: ignore[arg-type]
            options = options.model_copy(update={} if given.steps is None else {"steps": given.steps})
            cold = cold_start(Path(folder) / "cold start.safetensors", rec, dataset, options=options)
            budget = time.process_time() - began
        published, steps = train_published(conditions, budget)
        models = {"shipped network": shipped, "cold start": cold, "published architecture": published}
        report["networks"] = {}
        for name, model in models.items():
            report["networks"][name], panel = judged(dataset, rec, model, rec.probe)
            panels.append(panel)
        report["networks"]["cold start"] |= {"steps": cold.notes["steps"], "cpu_seconds": round(budget, 1)}
        report["networks"]["published architecture"] |= {"steps": steps, "cpu_seconds": round(budget, 1)}
        frame = torch.rand(1, SIZE, SIZE)
        beam, good = torch.from_numpy(rec.probe[:3][None, :, :SIZE, :SIZE]), torch.ones(1, SIZE, SIZE, dtype=torch.bool)
        ours = cost(cold.network, frame, beam, good)
        report["cost"] = {"ours": ours, "published architecture": cost(published.network, frame[None])}
        if given.half_steps:
            report["half"], panel = half_of_the_field(dataset, rec, cold, Path(folder), given.half_steps)
            panels.append(panel)
        if given.data and (weights := Path(given.data) / "ptychonn_26id_phase.pth").exists():
            models["published weights (26-ID)"] = load_model(weights)
        report["robustness_rms_rad"] = robustness(dataset, rec.probe, models)
    if given.picture:
        save_panels(given.picture, [Panel("reconstruction", rec.phase), *panels])
    print(json.dumps(report, indent=None if given.json else 1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
