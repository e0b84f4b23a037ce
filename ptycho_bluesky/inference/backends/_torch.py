"""torch as a backend: the CPU with channels last and bfloat16, CUDA with captured graphs."""

from __future__ import annotations

import copy
import logging
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ptycho_bluesky.errors import InferenceError
from ptycho_bluesky.inference.backends._protocol import Deviation, Images, Precision

__all__ = ["TorchBackend", "reference"]

logger = logging.getLogger(__name__)

TYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}


def _outputs(made: Tensor | tuple[Tensor | None, ...]) -> tuple[Tensor, ...]:
    return (made,) if isinstance(made, Tensor) else tuple(one for one in made if one is not None)


def reference(network: nn.Module, batch: Images) -> tuple[Images, ...]:
    """Return what torch makes of a batch on the CPU in single precision: what backends are held to."""
    with torch.inference_mode():
        made = _outputs(network(torch.from_numpy(batch)))
    return tuple(np.ascontiguousarray(one.float().numpy()) for one in made)


class TorchBackend:
    """A network as torch runs it.

    Out of memory on a GPU, the batch is halved, and stays so; one frame that does not fit is an error.

    Parameters
    ----------
    network:
        From one tensor to one or two, on the CPU in single precision; it is copied.
    example:
        (B, ...) such as will come.
    precision:
        "f32", "bf16" or "f16".
    device:
        "cpu" or "cuda".
    compiled:
        Whether torch compiles it.

    Raises
    ------
    InferenceError
        When torch finds no such device.
    """

    def __init__(
        self, network: nn.Module, example: Images, precision: Precision, device: str = "cpu", compiled: bool = False
    ) -> None:
        if precision not in TYPES:
            raise InferenceError(f"torch computes in {', '.join(TYPES)}, asked was {precision}: for int8 take openvino")
        if device == "cuda" and not torch.cuda.is_available():
            raise InferenceError("torch finds no CUDA device: use device 'cpu', or install torch for CUDA")
        self.name, self.precision, self._device, self._type = f"torch-{device}", precision, device, TYPES[precision]
        made: nn.Module = copy.deepcopy(network).eval().to(device)
        if precision != "f32":  # complex buffers stay as they are
            made = made.to(self._type)
        if example.ndim == 4:
            made = made.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._network = made
        self._run: Callable[[Tensor], Any] = torch.compile(self._network) if compiled else self._network
        self._graphs: dict[int, _Graph] = {}
        self._alone = threading.Lock()
        self.largest: int | None = None
        """Frames at once that are known to fit; None as long as all did."""
        self.deviation = Deviation.between(self(example), reference(network, example))

    def __call__(self, batch: Images, /) -> tuple[Images, ...]:
        """Return the outputs (B, ...) float32."""
        parts, first = [], 0
        while first < max(len(batch), 1):
            count = min(len(batch) - first, self.largest or len(batch))
            try:
                parts.append(self._compute(batch[first : first + count]))
            except torch.OutOfMemoryError as error:
                self._make_room(count, error)
                continue
            first += max(count, 1)
        return tuple(np.concatenate(made) for made in zip(*parts, strict=True))

    def _make_room(self, count: int, error: Exception) -> None:
        self._graphs.clear()
        if self._device == "cuda":
            torch.cuda.empty_cache()
        if count <= 1:
            raise InferenceError(
                f"the GPU has not enough memory for one frame ({str(error).splitlines()[0]}): end what else uses it, "
                "take a smaller network, or device 'cpu'"
            ) from error
        self.largest = count // 2
        logger.warning("the GPU's memory does not hold %d frames: from now on %d at once", count, self.largest)

    def _compute(self, batch: Images) -> tuple[Images, ...]:
        with torch.inference_mode():
            if self._device == "cpu":
                made = _outputs(self._run(torch.from_numpy(batch).to(self._type)))
                return tuple(np.ascontiguousarray(one.float().numpy()) for one in made)
            with self._alone:  # a graph has one set of buffers
                size = 1 << (len(batch) - 1).bit_length()
                if size not in self._graphs:
                    self._graphs[size] = _Graph(self._run, (size, *batch.shape[1:]), self._type)
                return self._graphs[size](batch)


class _Graph:
    """One captured pass: a launch for the whole network, and pinned memory on both ways."""

    def __init__(self, run: Callable[[Tensor], Any], shape: tuple[int, ...], kind: torch.dtype) -> None:
        self._host = torch.zeros(shape, pin_memory=True)
        self._input = torch.zeros(shape, dtype=kind, device="cuda")
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # plans, workspaces and kernels are chosen before the capture
            for _ in range(3):
                run(self._input)
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._made = tuple(one.float() for one in _outputs(run(self._input)))
        self._back = tuple(torch.empty(one.shape, pin_memory=True) for one in self._made)

    def __call__(self, batch: Images) -> tuple[Images, ...]:
        self._host.numpy()[: len(batch)] = batch
        self._input.copy_(self._host, non_blocking=True)
        self._graph.replay()
        for host, made in zip(self._back, self._made, strict=True):
            host.copy_(made, non_blocking=True)
        torch.cuda.current_stream().synchronize()
        return tuple(host.numpy()[: len(batch)].copy() for host in self._back)
