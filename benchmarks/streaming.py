"""A scan larger than memory: its frames streamed from HDF5, beside a small one in memory.

``python benchmarks/streaming.py`` prints one JSON object: for 100,000 frames of 128x128 uint16 that stay in an
uncompressed HDF5 file, and for 1,000 frames in memory, the cost of a frame in an epoch of the fast engine and the peak
memory of the process, which holds Python and the libraries too. The file (3.3 GB) is written to a temporary folder
(``--folder`` names its place) and deleted. The sample repeats itself every 32 steps, so that 1,024 patterns with two
realisations of noise each make up a scan of any size.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np
import scipy.fft

from ptycho_bluesky.experiment import Geometry, PtychoDataset
from ptycho_bluesky.formats import Hdf5Frames
from ptycho_bluesky.optics import siemens_star, zone_plate_probe
from ptycho_bluesky.reconstruction import FastEngine, FastOptions

SIZE, STEP, PERIOD, PHOTONS = 128, 8, 32, 5e6
GEOMETRY = Geometry(energy_kev=8.8, distance_m=0.95, detector_pixel_m=75e-6)
IN_MEMORY = 1000
JITTER = np.random.default_rng(1).integers(0, 5, (PERIOD, PERIOD, 2))
"""Pixels by which positions leave the raster: a perfect one would come back in the object."""


def probe() -> np.ndarray:
    optics = {"diameter_m": 180e-6, "outermost_zone_m": 50e-9, "central_stop_m": 60e-6, "defocus_m": 300e-6}
    found = zone_plate_probe(SIZE, GEOMETRY.pixel_size_m(SIZE), GEOMETRY.wavelength_m, **optics)
    return (found * np.sqrt(PHOTONS / (np.abs(found) ** 2).sum())).astype(np.complex64)


def patterns(rng: np.random.Generator) -> np.ndarray:
    """Counts (PERIOD, PERIOD, 2, SIZE, SIZE) of every place of the sample's period, two realisations of noise."""
    side, wave = PERIOD * STEP, probe()
    sample = np.pad(siemens_star((side, side)), ((0, SIZE + STEP), (0, SIZE + STEP)), mode="wrap")
    counts = np.empty((PERIOD, PERIOD, 2, SIZE, SIZE), np.uint16)
    for row in range(PERIOD):
        for column in range(PERIOD):
            y, x = STEP * np.array([row, column]) + JITTER[row, column]
            patch = sample[y : y + SIZE, x : x + SIZE]
            mean = np.abs(scipy.fft.fft2(wave * patch, norm="ortho")) ** 2
            counts[row, column] = scipy.fft.fftshift(rng.poisson(mean, (2, SIZE, SIZE)), axes=(1, 2))
    return counts


def places(count: int) -> np.ndarray:
    """Return (count, 2) steps of a raster with turns, near to square."""
    across = int(np.ceil(np.sqrt(count)))
    row, column = np.divmod(np.arange(count), across)
    return np.column_stack([row, np.where(row % 2, across - 1 - column, column)])


def write(path: Path, count: int) -> None:
    rng = np.random.default_rng(0)
    known, where = patterns(rng), places(count)
    with h5py.File(path, "w") as file:
        frames = file.create_dataset("frames", (count, SIZE, SIZE), np.uint16)
        for first in range(0, count, 512):
            row, column = where[first : first + 512].T % PERIOD
            frames[first : first + 512] = known[row, column, rng.integers(0, 2, len(row))]


def measure(path: Path, count: int, modes: int, threads: int, epochs: int) -> dict[str, object]:
    """Reconstruct the file's frames."""
    frames, where = Hdf5Frames(path, "frames"), places(count)
    pixel, positions = GEOMETRY.pixel_size_m(SIZE), where * STEP + JITTER[tuple(where.T % PERIOD)]
    small = count <= IN_MEMORY
    dataset = PtychoDataset(
        frames[:] if small else frames, positions * pixel, GEOMETRY, pixel_size_m=pixel, probe=probe()[None]
    )
    options = FastOptions(modes=modes, epochs=epochs, threads=threads, coarse_epochs=0, memory_gb=4 if small else 0.5)
    began = time.perf_counter()
    seconds, busy, r_factors, before, worked = [], [], [], None, 0.0
    for state in FastEngine().run(dataset, options):
        now = time.process_time()
        if before is None:
            setup = time.perf_counter() - began - state.seconds
        else:
            seconds.append(state.seconds - before)
            busy.append(now - worked)
        before, worked = state.seconds, now
        r_factors.append(round(state.r_factor, 4))
    return {
        "frames": count,
        "streamed": not small,
        "setup_s": round(setup, 2),
        "epoch_s": round(min(seconds), 4),
        "frame_us": round(1e6 * min(seconds) / count, 2),
        "frame_processor_us": round(1e6 * min(busy) / count, 2),
        "r_factors": r_factors[-4:],
        "peak_memory_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=100_000)
    parser.add_argument("--modes", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--folder", type=Path, help="where the temporary file goes")
    parser.add_argument("--measure", nargs=2, metavar=("FILE", "COUNT"), help="one measurement on a file that exists")
    given = parser.parse_args()
    if given.measure:
        path, count = Path(given.measure[0]), int(given.measure[1])
        print(json.dumps(measure(path, count, given.modes, given.threads, given.epochs)))
        return
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        found = {}
        for name, count, epochs in (("memory", IN_MEMORY, 40), ("streamed", given.frames, given.epochs)):
            path = Path(folder) / f"{name}.h5"
            write(path, count)
            command = [sys.executable, __file__, "--measure", str(path), str(count), "--modes", str(given.modes)]
            command += ["--threads", str(given.threads), "--epochs", str(epochs)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=3600, check=True)
            found[name] = json.loads(done.stdout)
    ratio = {key: found["streamed"][key] / found["memory"][key] for key in ("frame_us", "frame_processor_us")}
    print(
        json.dumps(
            {
                "benchmark": "streaming",
                "threads": given.threads,
                "modes": given.modes,
                "load": os.getloadavg()[0],
                **found,
                "cost_ratio": round(ratio["frame_us"], 3),
                "processor_cost_ratio": round(ratio["frame_processor_us"], 3),
            }
        )
    )


if __name__ == "__main__":
    main()
