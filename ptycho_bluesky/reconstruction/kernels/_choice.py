"""The choice of an implementation of the kernels."""

from __future__ import annotations

from typing import Literal

from ptycho_bluesky.config import settings
from ptycho_bluesky.errors import ReconstructionError
from ptycho_bluesky.reconstruction._problem import Problem
from ptycho_bluesky.reconstruction.kernels._protocol import DataType, Kernels

__all__ = ["Backend", "kernels_for", "takes_numba"]

Backend = Literal["auto", "numba", "torch"]


def kernels_for(
    problem: Problem,
    device: str,
    backend: Backend = "auto",
    threads: int | None = None,
    data_type: DataType = "auto",
) -> Kernels:
    """Return the kernels for a device; ``"auto"`` takes numba on a CPU, raw CUDA kernels with CuPy, else torch.

    The numba kernels transform lengths without prime factors above 7, which detectors and crops have; ``"auto"`` takes
    torch for others. `data_type` is that of the frames in a GPU's memory; `threads`: None for the setting ``threads``.
    They are made for one `problem`, whose frames they hold.

    Raises
    ------
    ReconstructionError
        When the device is not there, or the backend cannot work on it.
    """
    if takes_numba(problem, device, backend):
        from ptycho_bluesky.reconstruction.kernels._numba import CpuKernels  # numba takes a second to import

        return CpuKernels(problem, threads or settings().threads)
    return _by_batches(problem, device, backend, threads, data_type)


def takes_numba(problem: Problem, device: str, backend: Backend) -> bool:
    """Tell whether the numba kernels are to be taken.

    Raises
    ------
    ReconstructionError
        When they are asked for and cannot do it.
    """
    thick, asked = len(problem.start.object) > 1, backend == "numba"
    if asked and thick:
        raise ReconstructionError("the numba kernels know thin objects alone: use kernels 'torch' or 'auto' for slices")
    if asked and device != "cpu":
        raise ReconstructionError(
            f"the numba kernels work on the CPU alone, given was device {device!r}: use kernels 'torch' or 'auto'"
        )
    if not asked and (backend != "auto" or device != "cpu" or thick):
        return False
    from ptycho_bluesky.transforms import can_transform  # numba takes a second to import

    size = problem.amplitudes.size
    if asked and not can_transform(size):
        raise ReconstructionError(
            f"the numba kernels need frames whose side has no prime factor above 7, given were {size} x {size} "
            "pixels: crop or pad them, or use kernels 'torch' or 'auto', which are slower"
        )
    return can_transform(size)


def _by_batches(problem: Problem, device: str, backend: Backend, threads: int | None, data_type: DataType) -> Kernels:
    import torch  # takes two seconds

    from ptycho_bluesky.reconstruction.kernels._batches import BatchKernels
    from ptycho_bluesky.reconstruction.kernels._cuda import CudaWaves, waves_for
    from ptycho_bluesky.reconstruction.kernels._cuda_kernels import CudaKernels
    from ptycho_bluesky.reconstruction.kernels._torch import TorchWaves, device_named

    place = device_named(device)
    transfer = torch.from_numpy(problem.transfer).to(place)
    waves = TorchWaves(place, transfer) if backend == "torch" else waves_for(place, transfer)
    if isinstance(waves, CudaWaves):
        return CudaKernels(problem, waves, data_type)
    return BatchKernels(problem, device, threads, waves=waves, data_type=data_type)
