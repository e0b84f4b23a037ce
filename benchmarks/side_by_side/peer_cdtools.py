"""cdtools: automatic differentiation with Adam (``FancyPtycho``)."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import cdtools as peer
import numpy as np
import torch

from side_by_side.contestant import Problem, Record, Snapshot

WAVELENGTH, DISTANCE, PIXEL = 1.24e-10, 2.0, 75e-6
"""Invented: cdtools wants metres. They cancel."""


def warm_up(problem: Problem, settings: dict[str, Any]) -> None:
    torch.set_num_threads(problem.threads)
    torch.manual_seed(1)


def tensor(values: Any) -> torch.Tensor:
    return torch.as_tensor(values, dtype=torch.float32)


def dataset_of(problem: Problem) -> Any:
    """Corners become translations by cdtools' own exit-wave basis, whose vectors may point against the pixel axes."""
    size = problem.frames.shape[-1]
    geometry = {
        "distance": DISTANCE,
        "basis": np.array([[0, -PIXEL], [-PIXEL, 0], [0, 0.0]]),
        "corner": np.array([size / 2 * PIXEL, size / 2 * PIXEL, DISTANCE]),
    }
    basis = peer.tools.initializers.exit_wave_geometry(
        tensor(geometry["basis"]), torch.Size([size, size]), WAVELENGTH, DISTANCE, oversampling=1
    ).numpy()
    relative = problem.corners - problem.corners.mean(0)
    pixels = peer.tools.interactions.translations_to_pixel(tensor(basis), tensor((basis @ relative.T).T)).numpy()
    sign = np.sign((pixels * relative).sum(0))
    return peer.datasets.Ptycho2DDataset(
        tensor((basis @ (relative * sign).T).T),
        torch.as_tensor(problem.frames),
        wavelength=WAVELENGTH,
        detector_geometry=geometry,
        mask=torch.ones(size, size, dtype=torch.bool),
    )


def model_of(problem: Problem, dataset: Any, settings: dict[str, Any]) -> Any:
    model = peer.models.FancyPtycho.from_dataset(
        dataset,
        n_modes=settings["modes"],
        oversampling=1,
        obj_padding=26,
        probe_support_radius=None,
        loss=settings.get("loss", "amplitude mse"),
        translation_scale=settings.get("translation_scale", 1),
        dm_rank=settings.get("dm_rank"),
    )
    free = settings.get("free", [])
    for name in ("translation_offsets", "weights", "background"):
        getattr(model, name).requires_grad = name in free
    with torch.no_grad():
        start = torch.as_tensor(problem.probe)
        largest = start.abs().max()
        model.probe_norm.data.copy_(largest)
        model.probe.data.copy_(torch.cat([start / largest, model.probe[1:]]))  # the weak modes: cdtools' own start
        model.obj.data.fill_(1 + 0j)
    return model


def run(problem: Problem, settings: dict[str, Any], record: Record) -> dict[str, Any]:
    """Run the stages of ``settings["stages"]``, each [share of the time, learning rate, batch]."""
    dataset = dataset_of(problem)
    model = model_of(problem, dataset, settings)
    found = peer.tools.interactions.translations_to_pixel(
        model.obj_basis, dataset.translations, surface_normal=model.surface_normal
    )
    found = (found - model.min_translation).numpy()

    def snapshot() -> Snapshot:
        with torch.no_grad():
            offsets = model.translation_scale * model.translation_offsets
            kept = {
                "object": model.obj.numpy(),
                "probe": (model.probe * model.probe_norm).numpy(),
                "corners": found + offsets.numpy(),
                "background": (model.background**2).numpy(),
            }
            name = "scales" if model.weights.ndim == 1 else "mixing"
            return {**kept, name: model.weights.numpy()}

    factors = settings.get("lr_factors", {})
    reconstructor = peer.reconstructors.AdamReconstructor(model, dataset, lr_factors=factors)
    end = 0.0
    for share, rate, batch in settings["stages"]:
        end += share
        steps = reconstructor.optimize(
            100_000,
            lr=rate,
            batch_size=batch,
            schedule=settings.get("schedule", False),
            thread=False,
            calculation_width=settings.get("calculation_width", 10),
        )
        for _ in steps:
            more = record(snapshot)
            if not more:
                return {"version": version("cdtools-py")}
            if record.elapsed() >= end * problem.seconds:
                break
    return {"version": version("cdtools-py")}
