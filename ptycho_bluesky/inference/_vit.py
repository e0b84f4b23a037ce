"""ProbeViT: this package's own network, from one diffraction pattern and the probe to the object's patch.

Three parts, each small:

1. *Physics without weights.* A few accelerated steps of single-frame phase retrieval with the known probe, begun at
   an empty object and held near a pure phase object. This alone shows a recognisable image, for any probe.
2. *A transformer.* Tokens of 8 x 8 pixels with global attention (reciprocal to real space is a global map) correct
   that estimate, and pixel-shuffle heads bring the tokens back to pixels.
3. *A second look.* One more step of the physics shows where the correction contradicts the measured frame, and a
   few convolutions at half resolution settle it.

The probe is an input, so one set of weights serves every beamline whose probes the training covered.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from ptycho_bluesky.errors import InferenceError, report

__all__ = ["Beam", "ProbeViT", "ProbeViTSizes", "believable_pixels"]

CHANNELS = 10
"""Images that the physics hands to the transformer."""

FADING = 0.05
"""Share of the probe's highest intensity at which a correction of the object is damped to one half."""

PHASE_OBJECT = 0.8
"""How far each physics step pulls the amplitude to its mean: 1 = pure phase object."""

MOMENTUM = 0.7
"""Of the physics steps (heavy ball)."""


NAMED: dict[str, dict[str, int]] = {
    "edge": {},
    "jetson": {"width": 256, "depth": 5, "heads": 8, "features": 8, "hidden": 64, "iterations": 6},
    "gpu": {"width": 512, "depth": 8, "heads": 8, "features": 16, "hidden": 128, "iterations": 8},
}


@dataclass(frozen=True)
class ProbeViTSizes:
    """The numbers that fix the network's shape.

    Raises
    ------
    InferenceError
        When one is no whole number above 0, or they do not fit each other.
    """

    size: int = 64
    """Side of frames and patches, pixels."""

    patch: int = 8
    """Side of a token, pixels."""

    width: int = 128
    """Numbers in a token."""

    depth: int = 4
    """Transformer blocks."""

    heads: int = 4
    """Attention heads of a block."""

    features: int = 6
    """Images that the transformer hands on beside its correction."""

    hidden: int = 32
    """Channels of the convolutions at half resolution."""

    iterations: int = 4
    """Physics steps before the transformer."""

    @classmethod
    def of(cls, name: Literal["edge", "jetson", "gpu"]) -> ProbeViTSizes:
        """Return one of the three sizes: for two CPU cores, for a Jetson, for a data-centre GPU.

        0.17, 0.65 and 3.4 GFLOP a frame; 0.85, 3.7 and 22 million weights.

        Raises
        ------
        InferenceError
            When there is no such size.
        """
        if name not in NAMED:
            raise InferenceError(f"there is no size {name!r} of ProbeViT; there are {', '.join(NAMED)}")
        return cls(**NAMED[name])

    def __post_init__(self) -> None:
        faults = [
            f"{k} is {v!r}; it must be a whole number above 0" for k, v in asdict(self).items() if not _positive(v)
        ]
        if not faults and (self.size % self.patch or self.size % 2):
            faults.append(f"size {self.size} must be even and a multiple of patch {self.patch}")
        if not faults and self.width % self.heads:
            faults.append(f"width {self.width} must be a multiple of heads {self.heads}")
        if faults:
            raise InferenceError(report("sizes of a ProbeViT", faults))

    def to_json(self) -> dict[str, Any]:
        """Return the sizes as JSON values."""
        return asdict(self)


def _positive(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def believable_pixels(frames: Tensor) -> Tensor:
    """Return (B, H, W) False for lone hot pixels: over 8 times the brightest of their eight neighbours, plus 30 counts.

    Diffraction from an object in a wide probe spreads over a pixel's neighbours; a charged or broken pixel does not.
    """
    padded = functional.pad(frames, (1, 1, 1, 1))
    rows = torch.maximum(padded[..., :-2], padded[..., 2:])  # the left and the right neighbour
    full = torch.maximum(rows, padded[..., 1:-1])
    around = torch.maximum(torch.maximum(full[..., :-2, :], full[..., 2:, :]), rows[..., 1:-1, :])
    return frames <= 8 * around + 30


class _Block(nn.Module):
    """Attention and a two-layer perceptron, each normalised first and added to what came in."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.mix = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 3 * width), nn.GELU(), nn.Linear(3 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        b, t, w = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(b, t, 3, self.heads, w // self.heads).permute(2, 0, 3, 1, 4)
        attention = torch.softmax(q @ k.transpose(-1, -2) * (w // self.heads) ** -0.5, -1)  # 64 tokens: no flash needed
        x = x + self.mix((attention @ v).transpose(1, 2).reshape(b, t, w))
        return cast(Tensor, x + self.mlp(self.norm2(x)))


class Beam:
    """What follows from the probe alone: intensities, and the filter that brings exit waves back to the object."""

    def __init__(self, probe: Tensor) -> None:
        intensity = (probe.real**2 + probe.imag**2).sum(1)
        self.top = intensity.amax((-2, -1), keepdim=True)
        self.light = intensity / self.top
        self.share = self.light / self.light.sum((-2, -1), keepdim=True)
        self.probe = probe
        self.back = probe.conj() / (FADING * self.top + (1 - FADING) * intensity)[:, None]
        self.expected = _intensity(torch.fft.fft2(probe, norm="ortho"))

    def step(self, obj: Tensor, amplitude: Tensor, good: Tensor) -> Tensor:
        """Return the change of `obj` that one projection on the measured amplitudes asks for (ePIE, one frame).

        Maiden and Rodenburg, Ultramicroscopy 109, 1256 (2009), eq. 6, with the regularised denominator of rPIE; bad
        pixels keep what the model gives.
        """
        far = torch.fft.fft2(self.probe * obj[:, None], norm="ortho")
        wrong = torch.where(good, amplitude * torch.rsqrt(_intensity(far) + 1e-12) - 1, 0.0)
        return cast(Tensor, (torch.fft.ifft2(far * wrong[:, None], norm="ortho") * self.back).sum(1))


def _intensity(waves: Tensor) -> Tensor:
    return (waves.real**2 + waves.imag**2).sum(1)


def _parts(wave: Tensor) -> list[Tensor]:
    return [wave.real.clamp(-3, 3), wave.imag.clamp(-3, 3)]


class ProbeViT(nn.Module):
    """See the module's text.

    Parameters
    ----------
    sizes:
        The shape of the network.
    """

    def __init__(self, sizes: ProbeViTSizes | None = None) -> None:
        super().__init__()
        self.sizes = s = sizes or ProbeViTSizes()
        self.side = s.size // s.patch
        self.embed = nn.Linear(CHANNELS * s.patch**2, s.width)
        self.position = nn.Parameter(torch.zeros(1, self.side**2, s.width))
        self.blocks = nn.Sequential(*[_Block(s.width, s.heads) for _ in range(s.depth)])
        self.norm = nn.LayerNorm(s.width)
        self.head = nn.Linear(s.width, (2 + s.features) * s.patch**2)
        self.refine = nn.Sequential(
            nn.PixelUnshuffle(2),
            nn.Conv2d(4 * (s.features + 9), s.hidden, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(s.hidden, s.hidden, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(s.hidden, 8, 3, padding=1),
            nn.PixelShuffle(2),
        )
        with torch.no_grad():  # begin as the physics alone
            for layer in (self.head, self.refine[-2]):
                cast(nn.Linear, layer).weight.mul_(0.1)
                cast(nn.Linear, layer).bias.zero_()

    def forward(self, frames: Tensor, probe: Tensor, good: Tensor) -> tuple[Tensor, Tensor]:
        """Return the object's patches (B, N, N) complex64 after the transformer, and after the second look.

        Their global phase is free (trained towards a probe-weighted mean phase of 0); their probe-weighted rms
        amplitude is about 1.

        Parameters
        ----------
        frames:
            (B, N, N) float32 counts, zero frequency in the centre; their scale does not matter.
        probe:
            (B or 1, modes, N, N) complex64, total intensity 1.
        good:
            (B or 1, N, N) bool, True where a pixel can be trusted.
        """
        beam, corner = Beam(probe), (-2, -1)
        good = torch.fft.ifftshift(good & believable_pixels(frames), corner)
        frames = torch.where(good, torch.fft.ifftshift(frames, corner), 0.0)
        expected = torch.where(good, beam.expected, 0.0)
        flux = expected.sum(corner, keepdim=True) / frames.sum(corner, keepdim=True).clamp_min(1e-6)
        intensity = frames * flux
        amplitude = torch.sqrt(intensity)
        first, estimate = self._retrieve(beam, amplitude, good)
        images = self._images(beam, first, estimate, intensity, expected)
        change = self.correct(images).float()
        early = estimate + torch.complex(change[:, 0], change[:, 1])
        left = beam.step(early.detach(), amplitude, good)  # no gradient: the loss reaches `early` directly
        seen = torch.stack([*_parts(early - 1), *_parts(left)], 1)
        change = self.settle(torch.cat([change[:, 2:], seen, images[:, :5]], 1)).float()
        return early, early + torch.complex(change[:, 0], change[:, 1])

    def correct(self, images: Tensor) -> Tensor:
        """Return (B, 2 + features, N, N), the correction's real and imaginary part first, of `images`.

        With :meth:`settle` this is all that has weights, real numbers in and out: what other runtimes compute.
        """
        tokens = functional.pixel_unshuffle(images, self.sizes.patch).flatten(2).transpose(1, 2)
        tokens = self.head(self.norm(self.blocks(self.embed(tokens) + self.position)))
        tokens = tokens.transpose(1, 2).reshape(images.shape[0], -1, self.side, self.side)
        return functional.pixel_shuffle(tokens, self.sizes.patch)

    def settle(self, images: Tensor) -> Tensor:
        """Return (B, 2, N, N), the last change, of (B, features + 9, N, N): features, correction, misfit, images."""
        return cast(Tensor, self.refine(images))

    def _retrieve(self, beam: Beam, amplitude: Tensor, good: Tensor) -> tuple[Tensor, Tensor]:
        """Return the first change of the empty object, and the object after all physics steps."""
        obj = torch.ones(amplitude.shape, dtype=torch.complex64, device=amplitude.device)
        before, first = obj, obj
        for k in range(self.sizes.iterations):
            ahead = obj + MOMENTUM * (obj - before)
            change = beam.step(ahead, amplitude, good)
            first = change if k == 0 else first
            before, obj = obj, ahead + change
            size = obj.abs() + 1e-6
            mean = (beam.share * size).sum((-2, -1), keepdim=True)
            obj = obj / size * ((1 - PHASE_OBJECT) * size + PHASE_OBJECT * mean)
        return first, obj

    def _images(self, beam: Beam, first: Tensor, estimate: Tensor, intensity: Tensor, expected: Tensor) -> Tensor:
        """Return (B, CHANNELS, N, N): the real-space images first, of which the second look uses five."""
        n, corner = self.sizes.size, (-2, -1)
        light = beam.light.expand(len(first), -1, -1)
        correlation = torch.fft.fftshift(torch.fft.ifft2(intensity - expected, norm="ortho").real, corner) * (2 * n)
        amplitude, empty = torch.sqrt(intensity), torch.sqrt(expected)
        wave = beam.probe[:, 0] / torch.sqrt(beam.top)
        return torch.stack(
            [
                *_parts(first),
                *_parts(estimate - 1),
                light,
                correlation.clamp(-3, 3),
                torch.fft.fftshift(amplitude, corner) * (n / 2),
                torch.fft.fftshift(amplitude - empty, corner) * (n / 2),
                wave.real.expand(len(first), -1, -1),
                wave.imag.expand(len(first), -1, -1),
            ],
            1,
        )
