"""Raw CUDA kernels, compiled by CuPy when first used and launched on torch's stream."""

from __future__ import annotations

import logging
from functools import cache
from importlib.resources import files
from typing import Any, Protocol

import numpy as np
import torch

__all__ = ["BLOCK", "CupyLauncher", "Launcher", "cupy_launcher", "source"]

logger = logging.getLogger(__name__)

BLOCK = 256
"""Threads of a block; ``BLOCK`` in the kernels' source."""

Argument = torch.Tensor | int | float | None


class Launcher(Protocol):
    """Launches a kernel by name: blocks of :data:`BLOCK` threads, its arguments in order.

    A tensor is passed as the address of its numbers (contiguous ones), an int in 32 bits, a float in 32 bits, and None
    as a null pointer.
    """

    def __call__(self, kernel: str, blocks: int, *arguments: Argument) -> None: ...


def source() -> str:
    """Return the text of the kernels."""
    return files("ptycho_bluesky.reconstruction.kernels").joinpath("cuda", "waves.cu").read_text()


class CupyLauncher:
    """:class:`Launcher` by CuPy's raw modules, without copies (DLPack) and on the stream that torch works on.

    Parameters
    ----------
    cupy:
        The module.
    device:
        A CUDA device.
    """

    def __init__(self, cupy: Any, device: torch.device) -> None:
        self._cupy, self._device = cupy, device
        self._index = torch.cuda.current_device() if device.index is None else device.index
        self._module = cupy.RawModule(code=source(), options=("--std=c++17",))
        self._kernels: dict[str, Any] = {}

    def __call__(self, kernel: str, blocks: int, *arguments: Argument) -> None:
        """See :class:`Launcher`."""
        with torch.cuda.device(self._index), self._cupy.cuda.Device(self._index), self._stream():
            if kernel not in self._kernels:
                self._kernels[kernel] = self._module.get_function(kernel)
            self._kernels[kernel]((blocks,), (BLOCK,), tuple(self._passed(argument) for argument in arguments))

    def _stream(self) -> Any:
        stream, kind = torch.cuda.current_stream(self._index), self._cupy.cuda
        if hasattr(kind.Stream, "from_external") and hasattr(stream, "__cuda_stream__"):
            return kind.Stream.from_external(stream)
        return kind.ExternalStream(stream.cuda_stream, self._index)  # CuPy before 14, torch before the protocol

    def _passed(self, argument: Argument) -> Any:
        if isinstance(argument, torch.Tensor):
            return self._cupy.from_dlpack(argument.detach())
        if argument is None:
            return np.intp(0)  # a null pointer; CuPy has no word for it
        return np.float32(argument) if isinstance(argument, float) else np.int32(argument)


@cache
def cupy_launcher(device: torch.device) -> CupyLauncher | None:
    """Return a launcher for a CUDA device; None, and one line in the log that says why, where CuPy does not work."""
    try:
        import cupy  # type: ignore[import-not-found]  # an extra
    except ImportError as error:
        logger.warning(
            "no raw CUDA kernels (%s): torch's own operations do the work, several times slower; "
            "pip install 'ptycho-bluesky[cuda12]' or [cuda13], as `nvidia-smi` names the CUDA version",
            error,
        )
        return None
    return CupyLauncher(cupy, device)
