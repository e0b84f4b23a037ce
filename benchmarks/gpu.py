"""Reconstruction on a GPU: an epoch's time beside that of its Fourier transforms alone, in one run, as one JSON object.

``python benchmarks/gpu.py`` takes a simulated star of about 516 frames of 128 x 128 pixels. An epoch is timed by CUDA
events; the floor is one forward and one backward transform of every wave by cuFFT, in the same batches, captured as a
graph. With ``--peers PYTHON``, an interpreter that has pty-chi, its LSQML runs on the same GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from side_by_side.datasets import Task, datasets
from side_by_side.entries import ENTRIES
from side_by_side.race import FailedError, finish

from ptycho_bluesky.experiment import PtychoDataset
from ptycho_bluesky.reconstruction._problem import Problem, prepare
from ptycho_bluesky.reconstruction.kernels import Steps, kernels_for
from ptycho_bluesky.reconstruction.kernels._cuda_kernels import CudaKernels

STEPS = Steps(object=1.0, probe=1.0, alpha_object=0.5, alpha_probe=1.0)
EPOCHS = 30
SIZE_OF = {"float32": 4, "float16": 2, "uint16": 2}


def milliseconds(work: Callable[[], object], repetitions: int) -> float:
    """Return the median time between CUDA events around `work`, which runs once before."""
    work()
    times = []
    for _ in range(repetitions):
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        began.record()
        work()
        ended.record()
        ended.synchronize()
        times.append(began.elapsed_time(ended))
    return statistics.median(times)


def floor(problem: Problem, batch: int) -> float:
    """Return milliseconds for the transforms of an epoch."""
    waves = torch.randn((batch, *problem.start.probe.shape[1:]), dtype=torch.complex64, device="cuda")

    def pair() -> torch.Tensor:
        return torch.fft.ifft2(torch.fft.fft2(waves), norm="forward")

    pair()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        pair()
    batches = -(-len(problem) // batch)

    def epoch() -> None:
        for _ in range(batches):
            graph.replay()

    return milliseconds(epoch, EPOCHS)


def bytes_moved(problem: Problem, batch: int, data_type: str) -> int:
    """Count what the kernels of an epoch read and write at the least, caches aside; atomic additions count twice.

    A transform of two axes passes over its waves twice. Waves: written by the exit waves, two transforms, the
    projection, the subtraction, read by the probe's update.
    """
    modes, size = problem.start.probe.shape[1:3]
    pixels, wave = len(problem) * size**2, 8 * modes
    passes = 1 + 2 * 4 + 2 + 2 + 1
    patches, probes, object_sums = 3 * 8, 2 * wave, 2 * 12
    objects = -(-len(problem) // batch) * 2 * (8 + 8 + 4) * problem.start.object[0].size
    return pixels * (passes * wave + patches + probes + object_sums + SIZE_OF[data_type]) + objects


def measured(problem: Problem, kernels: CudaKernels, divisions: int) -> dict[str, Any]:
    """Return the figures of one kind of kernels."""
    rng, groups = np.random.default_rng(0), problem.groups(problem.start, divisions)
    model = problem.start

    def epoch() -> None:
        nonlocal model
        model = kernels.sweep(model, groups, STEPS, rng).model

    took, least = milliseconds(epoch, EPOCHS), floor(problem, kernels.batch)
    moved = bytes_moved(problem, kernels.batch, kernels.data_type)
    return {
        "batch": kernels.batch,
        "data_type": kernels.data_type,
        "epoch_ms": round(took, 3),
        "fft_floor_ms": round(least, 3),
        "times_floor": round(took / least, 2),
        "bytes_moved": moved,
        "gb_per_s": round(moved / took / 1e6, 1),
        "r_factor": round(kernels.r_factor(model, groups), 4),
    }


def ours(dataset: PtychoDataset) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for modes in (1, 3):
        problem = prepare(dataset, modes)
        chosen = kernels_for(problem, "cuda")
        if not isinstance(chosen, CudaKernels):
            sys.exit("CuPy is not installed: pip install 'ptycho-bluesky[cuda12]' or [cuda13]")
        for kind in ("auto", "float32", "float16"):
            for batch in (8, 32):
                kernels = CudaKernels(problem, chosen.waves, kind, batch)
                found[f"{modes} modes, {kind}, batches of {batch}"] = measured(problem, kernels, 1)
        eager = CudaKernels(problem, chosen.waves, batch=32, graphs=False)
        found[f"{modes} modes, no graph"] = measured(problem, eager, 1)
        found[f"{modes} modes, sub-pixel groups"] = measured(problem, CudaKernels(problem, chosen.waves, batch=32), 2)
    return found


def peer(python: Path, dataset: PtychoDataset, seconds: float) -> dict[str, Any]:
    """Return the time of an epoch of pty-chi's LSQML on the GPU."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        task = Task.of(dataset, Path(folder))
        for entry in (e for e in ENTRIES if e.name.startswith("pty-chi LSQML")):
            device = {"reconstructor_options.default_device": "gpu"}
            settings = {**entry.settings, "options": {**entry.settings["options"], **device}}
            chosen = replace(entry, settings=settings)
            try:
                run = finish(chosen, python, task.files["all"], seconds, os.cpu_count() or 1)
            except FailedError as error:
                found[entry.name] = {"failed": str(error)}
                continue
            found[entry.name] = {"epoch_ms": round(1e3 * statistics.median(np.diff(run.ends)), 3)}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a far-field file with a probe, instead of the simulated star")
    parser.add_argument("--peers", type=Path, help="an interpreter that has pty-chi")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each peer (default 20)")
    given = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("torch finds no CUDA device on this machine")
    dataset = datasets(given.data)[-1]
    report = {
        "gpu": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "dataset": {"name": dataset.name, "frames": list(dataset.frames.shape)},
        "ours": ours(dataset),
        "peers": peer(given.peers, dataset, given.seconds) if given.peers else "not asked for",
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
