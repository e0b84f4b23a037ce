"""ProbeViT's physics on the CPU, for one probe: what surrounds its two parts with weights."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from ptycho_bluesky.inference._vit import CHANNELS, Beam, ProbeViTSizes
from ptycho_bluesky.inference.backends import _passes as passes
from ptycho_bluesky.inference.backends import _steps as steps
from ptycho_bluesky.inference.backends._protocol import Images
from ptycho_bluesky.transforms import LANES, can_transform, plan_for

__all__ = ["ProbePhysics", "can_do"]


def can_do(size: int) -> bool:
    """Tell whether the compiled passes take frames of `size`: whole strips on both sides of the centre."""
    return size % (2 * LANES) == 0 and can_transform(size)


class State(NamedTuple):
    """What the passes keep of a batch."""

    amplitudes: Images
    objects: Images
    lit: npt.NDArray[np.bool_]


class Seen(NamedTuple):
    """A batch on its way."""

    room: steps.Room
    images: Images
    state: State


class ProbePhysics:
    """The physics of a network with one probe; equal to the torch module to some 1e-5.

    Parameters
    ----------
    sizes:
        Of the network.
    probe:
        (modes, N, N), total intensity 1.
    good:
        (N, N) True where a pixel can be trusted, zero frequency in the centre.
    factor:
        Pixels to one, along each axis, for the network's convolutions.
    """

    def __init__(
        self, sizes: ProbeViTSizes, probe: npt.NDArray[np.complex64], good: npt.NDArray[np.bool_], factor: int
    ) -> None:
        self._sizes, self._factor, n = sizes, factor, probe.shape[-1]
        beam = Beam(torch.from_numpy(np.ascontiguousarray(probe))[None])
        wave = (beam.probe[0, 0] / torch.sqrt(beam.top[0])).numpy()
        share = steps.strips_of(beam.share[0].numpy().astype(np.complex64))
        plan = plan_for(n)
        self.beam = steps.Beam(
            plan=plan,
            rows=(plan.order + n // 2) % n,
            probe=steps.strips_of(beam.probe[0].numpy()),
            back=steps.strips_of(beam.back[0].numpy()),
            share=np.ascontiguousarray(share[:, :, 0]),
            light=beam.light[0].numpy(),
            wave=np.stack([wave.real, wave.imag]).astype(np.float32),
            expected=np.fft.fftshift(beam.expected[0].numpy()),
            good=np.ascontiguousarray(good),
            iterations=sizes.iterations,
        )

    def prepare(self, frames: Images) -> tuple[Images, Seen]:
        """Return tokens (B, T, C * p**2) of `frames` (B, N, N) for the transformer, and the way so far."""
        count, n, strips = len(frames), frames.shape[-1], self.beam.share.shape[0]
        patch, images = self._sizes.patch, np.empty((count, CHANNELS, n, n), np.float32)
        tokens = np.empty((count, (n // patch) ** 2, CHANNELS * patch**2), np.float32)
        amplitudes = np.empty((count, strips, n, LANES), np.float32)
        state = State(amplitudes, np.empty((count, strips, n, 2, LANES), np.float32), np.empty(count, bool))
        room = steps.room_for(self.beam, self._sizes.features)
        passes.prepare(self.beam, frames, room, images, tokens, patch, state)
        return tokens, Seen(room, images, state)

    def look_again(self, way: Seen, tokens: Images) -> Images:
        """Return what the convolutions are shown, packed with channels last, after the transformer's `tokens`."""
        n, f = way.images.shape[-1], self._factor
        packed = np.empty((len(tokens), n // f, n // f, f * f * len(way.room.seen)), np.float32)
        tokens = np.ascontiguousarray(tokens, np.float32)
        passes.look_again(self.beam, tokens, self._sizes.patch, way.room, way.images, way.state, f, packed)
        return packed

    def conclude(self, way: Seen, change: Images) -> tuple[Images, Images, Images]:
        """Return phase, amplitude (B, N, N) and misfit (B,) after the last `change` (B, N / f, N / f, 2 * f * f).

        Phases are those of patches whose mean in the beam has phase 0. A frame without a count gives phase 0, amplitude
        0 and misfit 1.
        """
        n, lit = way.images.shape[-1], way.state.lit
        misfits, made = np.empty(len(change), np.float32), np.empty((3, len(change), n, n), np.float32)
        change = np.ascontiguousarray(change, np.float32)
        passes.conclude(self.beam, change, self._factor, way.room, way.state, made, misfits)
        phase, amplitude = np.arctan2(made[1], made[0]), made[2]
        if not lit.all():
            phase[~lit], amplitude[~lit], misfits[~lit] = 0, 0, 1
        return phase, amplitude, misfits

    def misfits(self, frames: Images, patches: npt.NDArray[np.complex64]) -> Images:
        """Return (B,) how far `patches` (B, N, N) of any network are from explaining `frames` (B, N, N)."""
        count, n, strips, f = len(frames), frames.shape[-1], self.beam.share.shape[0], self._factor
        room = steps.room_for(self.beam, self._sizes.features)
        state = State(np.empty((count, strips, n, LANES), np.float32), steps.strips_of(patches), np.ones(count, bool))
        passes.measure(self.beam, frames, room, state.amplitudes)
        unchanged = np.zeros((count, n // f, n // f, 2 * f * f), np.float32)
        return self.conclude(Seen(room, np.empty((0, 0, n, n), np.float32), state), unchanged)[2]
