"""Runs one peer in an interpreter of its own: ``reconstruction_peers.py NAME DATA.npz OUT.npz EPOCHS THREADS``.

Needs NumPy, torch and the peer, not ptycho-bluesky. One probe mode, positions held fixed, each peer with settings
that were found to converge well on the Siemens star.
"""

from __future__ import annotations

import logging
import os
import sys
import time

NAME, DATA, OUTPUT, EPOCHS, THREADS = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
os.environ["OMP_NUM_THREADS"] = str(THREADS)
os.environ.setdefault("MPLBACKEND", "Agg")

import numpy as np  # noqa: E402
import torch  # noqa: E402

torch.set_num_threads(THREADS)
torch.manual_seed(1)
logging.disable(logging.WARNING)
with np.load(DATA) as data:
    frames, corners, probe, shape = (data[key] for key in ("frames", "corners", "probe", "shape"))
size = frames.shape[-1]


def run(step, get, version: str, corners_found) -> None:
    """Time each epoch; keep snapshots of object (Y, X) and probe (modes, H, W)."""
    seconds, kept = [], {}
    for epoch in range(1, EPOCHS + 1):
        began = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - began)
        if epoch in (1, 2, 3, 5, 7, 10, 15, EPOCHS):
            obj, mode = get()
            kept[f"object_{epoch}"] = np.array(obj).reshape(obj.shape[-2:])
            kept[f"probe_{epoch}"] = np.array(mode).reshape(-1, size, size)
    epochs = sorted(int(key.split("_")[1]) for key in kept if key.startswith("object"))
    np.savez(OUTPUT, seconds=seconds, epochs=epochs, corners=corners_found, version=version, **kept)


def cdtools() -> None:
    """Automatic differentiation, Adam, batches of 10: the fastest start among its settings."""
    from importlib.metadata import version

    import cdtools as peer

    wavelength, distance, pixel = 1.24e-10, 2.0, 75e-6  # invented: it wants metres
    geometry = {
        "distance": distance,
        "basis": np.array([[0, -pixel], [-pixel, 0], [0, 0.0]]),
        "corner": np.array([size / 2 * pixel, size / 2 * pixel, distance]),
    }

    def tensor(values):
        return torch.as_tensor(values, dtype=torch.float32)

    basis = peer.tools.initializers.exit_wave_geometry(
        tensor(geometry["basis"]), torch.Size([size, size]), wavelength, distance, oversampling=1
    ).numpy()

    def to_pixels(translations, of=basis, **more):
        return peer.tools.interactions.translations_to_pixel(tensor(of), tensor(translations), **more).numpy()

    relative = corners - corners.mean(0)
    sign = np.sign((to_pixels((basis @ relative.T).T) * relative).sum(0))
    translations = (basis @ (relative * sign).T).T
    dataset = peer.datasets.Ptycho2DDataset(
        tensor(translations),
        torch.as_tensor(frames),
        wavelength=wavelength,
        detector_geometry=geometry,
        mask=torch.ones(size, size, dtype=torch.bool),
    )
    model = peer.models.FancyPtycho.from_dataset(
        dataset, n_modes=1, oversampling=1, obj_padding=26, probe_support_radius=None
    )
    with torch.no_grad():
        for free in (model.translation_offsets, model.weights, model.background):
            if free is not None:
                free.requires_grad = False
        start = torch.as_tensor(probe)
        model.probe_norm.data.copy_(start.abs().max())
        model.probe.data.copy_((start / start.abs().max()).reshape(model.probe.shape))
        model.obj.data.fill_(1 + 0j)
    found = to_pixels(translations, model.obj_basis, surface_normal=model.surface_normal)
    found = found - model.min_translation.numpy()
    steps = peer.reconstructors.AdamReconstructor(model, dataset).optimize(EPOCHS, lr=0.02, batch_size=10)
    run(
        lambda: next(steps),
        lambda: (model.obj.detach().numpy(), (model.probe * model.probe_norm).detach().numpy()),
        version("cdtools-py"),
        found,
    )


def ptychi() -> None:
    """LSQML with random batches of 50, its default engine."""
    from importlib.metadata import version

    import ptychi.api as api
    from ptychi.api.task import PtychographyTask

    options = api.LSQMLOptions()
    options.data_options.fft_shift = True
    options.object_options.pixel_size_m = 1e-8
    options.object_options.optimizable = options.probe_options.optimizable = True
    options.probe_position_options.optimizable = False
    options.object_options.step_size = options.probe_options.step_size = 1
    settings = options.reconstructor_options
    settings.noise_model = api.NoiseModels.GAUSSIAN
    settings.batch_size, settings.num_epochs, settings.random_seed = 50, EPOCHS, 1
    settings.batching_mode, settings.default_device = "random", api.Devices.CPU
    side = int(max(shape)) + int(max(shape)) % 2
    obj, origin = np.ones((side, side), np.complex64), (side - size) / 2
    task = PtychographyTask(
        options,
        diffraction_data=torch.from_numpy(frames),
        object_data=torch.from_numpy(obj)[None],
        probe_data=torch.from_numpy(probe)[None],
        probe_position_x_px=torch.from_numpy((corners[:, 1] - origin).astype(np.float32)),
        probe_position_y_px=torch.from_numpy((corners[:, 0] - origin).astype(np.float32)),
    )
    run(
        lambda: task.run(1),
        lambda: (task.get_data_to_cpu("object", as_numpy=True)[0], task.get_data_to_cpu("probe", as_numpy=True)[0]),
        version("ptychi"),
        corners,
    )


if __name__ == "__main__":
    {"cdtools": cdtools, "ptychi": ptychi}[NAME]()
