"""ProbeViT with its layers in a backend and its physics in compiled passes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ptycho_bluesky.inference._vit import ProbeViT
from ptycho_bluesky.inference.backends._layers import Refining, Transforming
from ptycho_bluesky.inference.backends._open import open_backend
from ptycho_bluesky.inference.backends._physics import ProbePhysics
from ptycho_bluesky.inference.backends._protocol import BackendOptions, Images, Made
from ptycho_bluesky.inference.backends._threads import Threads

__all__ = ["ProbeEngine"]


class ProbeEngine:
    """ProbeViT with its layers in a backend and its physics in compiled passes.

    Parameters
    ----------
    network:
        On the CPU, ready to infer.
    probe, good:
        (modes, N, N) and (N, N) as the network is given them.
    options:
        Which backend.
    example:
        (K, N, N) frames, to measure deviations on and to calibrate int8 with.
    """

    def __init__(
        self,
        network: ProbeViT,
        probe: npt.NDArray[np.complex64],
        good: npt.NDArray[np.bool_],
        options: BackendOptions,
        example: Images,
    ) -> None:
        refine = Refining(network)
        self._physics = ProbePhysics(network.sizes, probe, good, refine.factor)
        self._threads = Threads(options.threads)
        shown, way = self._physics.prepare(example)
        self._transformer = open_backend(Transforming(network), shown[:2], options, shown)
        seen = self._physics.look_again(way, self._transformer(shown)[0])
        self._convolutions = open_backend(refine, seen[:2], options, seen)
        self.name, self.precision = self._transformer.name, self._transformer.precision

    def __call__(self, frames: Images, /) -> Made:
        """Return what the network makes of `frames` (B, N, N)."""
        parts = self._threads.over(lambda part: self._part(frames[part]), len(frames))
        phase, amplitude, misfit = (np.concatenate(made) for made in zip(*parts, strict=True))
        return Made(phase, amplitude, misfit)

    def _part(self, frames: Images) -> tuple[Images, Images, Images]:
        tokens, way = self._physics.prepare(frames)
        seen = self._physics.look_again(way, self._transformer(tokens)[0])
        return self._physics.conclude(way, self._convolutions(seen)[0])
