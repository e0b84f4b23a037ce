"""The fast engine beside its floor (the Fourier transforms alone) and beside its peers, in one run.

``python benchmarks/reconstruction.py`` prints one JSON object. The data are the measured Siemens star where
``PTYCHO_BLUESKY_DATA`` names its folder, else a simulated one of the same size. Peers (pty-chi, cdtools) run in the
interpreter given by ``--peer-python`` or ``PTYCHO_BLUESKY_PEER_PYTHON``, and are skipped with the reason otherwise.
Every reconstruction starts from the same probe, a flat object and the same positions, and is judged by the same
R-factor, outside of the timed part.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numba
import numpy as np
import torch
from rocket_fft import c2c

from ptycho_bluesky.experiment import Geometry, PtychoDataset, fermat, phase_contrast
from ptycho_bluesky.formats import load_dataset
from ptycho_bluesky.optics import coherent_modes, siemens_star, simulate_dataset, zone_plate_probe
from ptycho_bluesky.reconstruction import FastEngine, FastOptions, reconstruct

TARGETS = (0.2, 0.17, 0.152)
PEERS = {"cdtools": 20, "ptychi": 20}
"""Peers and their epochs."""


@numba.njit(nogil=True, cache=True)
def transform_pairs(buffer, axes, count):
    for _ in range(count):
        c2c(buffer, buffer, axes, True, np.float32(1 / buffer.shape[0]), 1)
        c2c(buffer, buffer, axes, False, np.float32(1 / buffer.shape[0]), 1)


def median_s(work, repetitions: int = 7) -> float:
    work()
    seconds = []
    for _ in range(repetitions):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return round(statistics.median(seconds), 5)


def floor(count: int, size: int, threads: int) -> dict[str, float]:
    """Seconds for a forward and a backward transform of every frame, nothing else."""
    axes, rng = np.array([0, 1]), np.random.default_rng(0)
    frame = (rng.normal(size=(size, size)) + 1j * rng.normal(size=(size, size))).astype(np.complex64)

    def pocketfft() -> None:
        share = -(-count // threads)
        workers = [threading.Thread(target=transform_pairs, args=(frame.copy(), axes, share)) for _ in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()

    torch.set_num_threads(threads)
    batch = torch.from_numpy(np.repeat(frame[None], 16, axis=0))

    def torch_batches() -> None:
        for _ in range(-(-count // 16)):
            torch.fft.ifft2(torch.fft.fft2(batch))

    return {"pocketfft_s": median_s(pocketfft), "torch_batch16_s": median_s(torch_batches)}


def measurement() -> PtychoDataset:
    folder = os.environ.get("PTYCHO_BLUESKY_DATA")
    if folder:
        return load_dataset(Path(folder) / "siemens_star_small.npz.bz2")
    geometry = Geometry(energy_kev=8.8, distance_m=0.95, detector_pixel_m=75e-6)
    pixel = geometry.pixel_size_m(128)
    optics = {"diameter_m": 180e-6, "outermost_zone_m": 50e-9, "central_stop_m": 60e-6}
    true, guess = (zone_plate_probe(128, pixel, geometry.wavelength_m, defocus_m=z, **optics) for z in (318e-6, 300e-6))
    pattern = fermat(332 * pixel, 332 * pixel, 14.6 * pixel)
    obj = siemens_star((480, 480))
    return simulate_dataset(obj, coherent_modes(true, 2, 0.92), pattern, geometry, 5e5, probe_guess=guess[None])


def r_factor(obj, probe, corners, amplitude) -> float:
    """Of any result: plain NumPy, whole-pixel corners."""
    size, cross, power, models = probe.shape[-1], 0.0, 0.0, []
    for (y, x), measured in zip(np.rint(corners).astype(int), amplitude, strict=True):
        waves = np.fft.fft2(probe * obj[y : y + size, x : x + size], norm="ortho")
        models.append(np.fft.fftshift(np.sqrt((np.abs(waves) ** 2).sum(axis=0))).astype(np.float32))
        cross, power = cross + float((models[-1] * measured).sum()), power + float((models[-1] ** 2).sum())
    scale = cross / power
    missed = sum(float(np.abs(scale * m - a).sum()) for m, a in zip(models, amplitude, strict=True))
    return missed / float(amplitude.sum(dtype=np.float64))


def contrast(obj, size: int) -> float:
    inner = obj[size // 2 : -size // 2, size // 2 : -size // 2]
    return round(phase_contrast(np.angle(inner * np.exp(-1j * np.angle(inner.mean())))), 3)


def summary(snapshots, amplitude, seconds: list[float]) -> dict[str, object]:
    """Curve of (epoch, seconds, R) and the wall time to each target."""
    curve = [
        (epoch, round(sum(seconds[:epoch]), 3), round(r_factor(obj, probe, corners, amplitude), 4))
        for epoch, obj, probe, corners in snapshots
    ]
    reached = {f"R<={t}": next((s for _, s, r in curve if r <= t), None) for t in TARGETS}
    _, obj, probe, _ = snapshots[-1]
    return {
        "s_per_epoch": round(statistics.median(seconds), 4),
        "epochs": len(seconds),
        "seconds_to": reached,
        "r_factor": curve[-1][2],
        "phase_contrast_rad": contrast(obj, probe.shape[-1]),
        "curve_epoch_seconds_r": curve,
    }


def snapshot_epochs(epochs: int) -> set[int]:
    return {e for e in (1, 2, 3, 4, 5, 7, 10, 15, 20, 30, 40, 60, 80, 100) if e < epochs} | {epochs}


def fast_engine(dataset, amplitude, options: FastOptions) -> dict[str, object]:
    snapshots, seconds, before = [], [], 0.0
    for state in FastEngine().run(dataset, options):
        seconds.append(state.seconds - before)
        if state.epoch in snapshot_epochs(options.epochs or 0):
            snapshots.append((state.epoch, state.object, state.probe, state.problem.corners))
        before = state.seconds
    return summary(snapshots, amplitude, seconds)


def compile_seconds() -> dict[str, float]:
    """The first sweep of a new process, with an empty and with a filled cache."""
    code = (
        "import time,numpy as np;began=time.perf_counter();from ptycho_bluesky.reconstruction import reconstruct;"
        "from ptycho_bluesky.experiment import PtychoDataset;"
        "reconstruct(PtychoDataset(np.ones((4,16,16),np.float32),np.arange(8.).reshape(4,2)),options={'epochs':1});"
        "print(time.perf_counter()-began)"
    )
    found = {}
    with tempfile.TemporaryDirectory() as cache:
        for name in ("cold_s", "warm_s"):
            environment = {**os.environ, "NUMBA_CACHE_DIR": cache}
            done = subprocess.run(
                [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300, check=True
            )
            found[name] = round(float(done.stdout), 2)
    return found


def peer(name: str, python: str | None, data: Path, amplitude, threads: int) -> dict[str, object]:
    if not python:
        return {"skipped": "no interpreter given: --peer-python or PTYCHO_BLUESKY_PEER_PYTHON"}
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "peer.npz"
        script = Path(__file__).with_name("reconstruction_peers.py")
        command = [python, str(script), name, str(data), str(output), str(PEERS[name]), str(threads)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            return {"skipped": f"{type(error).__name__}: {error}"}
        if done.returncode:
            return {"skipped": (done.stderr.strip().splitlines() or ["no reason given"])[-1]}
        with np.load(output) as found:
            snapshots = [(int(e), found[f"object_{e}"], found[f"probe_{e}"], found["corners"]) for e in found["epochs"]]
            return {"version": str(found["version"]), **summary(snapshots, amplitude, found["seconds"].tolist())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--peer-python", default=os.environ.get("PTYCHO_BLUESKY_PEER_PYTHON"))
    arguments = parser.parse_args()
    dataset = measurement()
    amplitude = np.sqrt(np.asarray(dataset.frames[:], np.float32))
    count, size = len(dataset), dataset.frame_shape[0]
    few = FastOptions(modes=1, epochs=1, threads=arguments.threads)
    reconstruct(dataset, options=few)  # compiles or loads the passes
    report: dict[str, object] = {
        "benchmark": "reconstruction",
        "data": dataset.name,
        "frames": [count, size, size],
        "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "load": os.getloadavg()[0]},
        "threads": arguments.threads,
        "compile": compile_seconds(),
        "floor": floor(count, size, arguments.threads),
    }
    for modes in (1, 3):
        options = FastOptions(modes=modes, epochs=arguments.epochs, threads=arguments.threads)
        found = fast_engine(dataset, amplitude, options)
        found["times_floor"] = round(found["s_per_epoch"] / (modes * report["floor"]["pocketfft_s"]), 2)
        report[f"fast_{modes}_modes"] = found
    report["floor_after"] = floor(count, size, arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data.npz"
        grid, counts = dataset.object_grid(26), np.asarray(dataset.frames[:], np.float32)
        probe = dataset.probe[:1] * np.sqrt(counts.sum(axis=(1, 2)).mean() / (np.abs(dataset.probe[:1]) ** 2).sum())
        np.savez(data, frames=counts, corners=grid.corners, shape=grid.shape, probe=probe.astype(np.complex64))
        report["peers"] = {
            name: peer(name, arguments.peer_python, data, amplitude, arguments.threads) for name in PEERS
        }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
