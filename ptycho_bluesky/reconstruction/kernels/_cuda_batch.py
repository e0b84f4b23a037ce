"""What a batch of rPIE works on, at fixed places on the device, so that its kernels can be captured as a graph."""

from __future__ import annotations

import logging

import torch

from ptycho_bluesky.reconstruction.kernels._cuda import CudaWaves

__all__ = ["VISIT", "CudaBatch"]

logger = logging.getLogger(__name__)

VISIT = 5
"""Numbers for each frame of a batch: the groups of all, then their rows, their numbers, and their corners."""


class CudaBatch:
    """Tensors at fixed places, and the step of a batch that works on them.

    Parameters
    ----------
    waves:
        The operations.
    shape:
        (Y, X) of the object.
    copies:
        (G, M, H, W), how many probes there is room for.
    size, frames:
        Frames of a batch, and of all batches together.
    find_shifts:
        Whether to find shifts.
    """

    def __init__(
        self,
        waves: CudaWaves,
        shape: tuple[int, ...],
        copies: tuple[int, ...],
        size: int,
        frames: int,
        find_shifts: bool,
    ) -> None:
        def empty(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
            return torch.zeros(shape, dtype=dtype, device=waves.device)

        self._waves, self._eager = waves, False
        self._graph: torch.cuda.CUDAGraph | None = None
        self.key = (shape, copies, find_shifts)
        self.obj, self.copies = empty(*shape, dtype=torch.complex64), empty(*copies, dtype=torch.complex64)
        self.errors, self.pace = empty(size, dtype=torch.float64), empty(4)
        self._found = empty(frames + 1, 2) if find_shifts else None
        """The last row is for the frames that only fill up a batch."""
        self.stored, self.kind = empty(0), "float32"
        """Frames, see :class:`FramesThere`."""
        self._numerator, self._weight, self._peak = torch.zeros_like(self.obj), empty(*shape), empty(1)
        self._visit = empty(VISIT * size, dtype=torch.int64)
        self._groups, self._rows, self._numbers = self._visit[: 3 * size].view(3, size)
        self._corners = self._visit[3 * size :].view(size, 2)

    @property
    def shifts(self) -> list[torch.Tensor]:
        """(N, 2) pixels of each frame, in a list that is empty where they were not looked for."""
        return [] if self._found is None else [self._found[:-1]]

    def run(self, visit: torch.Tensor, graph: bool) -> None:
        """Move object and probes by the frames of `visit` (VISIT * B,); with `graph`, replay the step as captured."""
        if graph and self._graph is None and not self._eager:
            self._capture()
        self._visit.copy_(visit)
        if self._graph is None:
            self._step()
        else:
            self._graph.replay()

    def _step(self) -> None:
        waves, light = self._waves, (self.obj, self.copies, self._groups, self._corners)
        there = waves.exit_waves(*light)
        there = waves.projected(there, self.stored, self.kind, self._rows, self.errors)
        self._peak.zero_()
        waves.subtract_exit_waves(there, *light, self._numerator, self._weight, self._peak)
        if self._found is not None:
            self._found.index_copy_(0, self._numbers, waves.shifts(there, *light))
        waves.update_probe(self.copies, there, self.obj, self._groups, self._corners, self.pace)
        waves.update_object(self.obj, self._numerator, self._weight, self._peak, self.pace)

    def _capture(self) -> None:
        """Capture the step; what cannot be captured is launched kernel by kernel, more slowly."""
        self._visit.zero_()
        self._groups.fill_(-1)  # a batch of nothing, which compiles kernels and makes plans for the transforms
        self._rows.fill_(-1)
        if self._found is not None:
            self._numbers.fill_(len(self._found) - 1)
        try:
            beside = torch.cuda.Stream(self._waves.device)  # type: ignore[no-untyped-call]
            beside.wait_stream(torch.cuda.current_stream(self._waves.device))
            with torch.cuda.stream(beside):
                self._step()
            torch.cuda.current_stream(self._waves.device).wait_stream(beside)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.device(self._waves.device), torch.cuda.graph(graph):
                self._step()
            self._graph = graph
        except RuntimeError as error:
            self._eager = True
            logger.warning("no CUDA graph (%s): each kernel is launched by itself", str(error).splitlines()[0])
