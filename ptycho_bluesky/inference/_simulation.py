"""Simulated training frames: random specimens, random optics as they are built, photons, detector faults."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import scipy.fft

from ptycho_bluesky.errors import InferenceError
from ptycho_bluesky.optics import DetectorModel, FarField, coherent_modes, random_specimen

__all__ = ["MODES", "Shard", "as_built", "random_design", "simulate_shard"]

MODES = 3
"""Modes of the probes that the network sees in training; fewer are filled up with zeros."""

FRAMES_PER_PROBE = 4
FRAMES_PER_SPECIMEN = 16
SPECIMEN_SIDE = 3
"""Of a specimen, in frames."""

PHOTONS = (1e4, 3e6)
"""Range of the photons in a frame, spread evenly in the logarithm."""

ComplexArray = npt.NDArray[np.complex64]
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Shard:
    """Frames with what they show."""

    frames: npt.NDArray[np.float32]
    """(F, N, N) counts, zero frequency in the centre."""

    objects: ComplexArray
    """(F, N, N) the patch; its probe-weighted mean has phase 0, its probe-weighted mean intensity is 1."""

    probes: ComplexArray
    """(F / FRAMES_PER_PROBE, MODES, N, N) as designed, total intensity 1, which the network is given."""

    good: npt.NDArray[np.bool_]
    """(F, N, N) False where the detector's mask says so."""

    def __len__(self) -> int:
        return len(self.frames)

    def probe_of(self, index: npt.NDArray[np.integer]) -> ComplexArray:
        """Return the probes (B, MODES, N, N) of the frames `index` (B,)."""
        return np.asarray(self.probes[index // FRAMES_PER_PROBE])


def _fade(inside: FloatArray, edge: float) -> FloatArray:
    """Return a soft step: 1 well inside an aperture, 0 well outside."""
    return np.asarray(1 / (1 + np.exp(np.clip(-inside / edge, -40, 40))), np.float64)


def _frequencies(size: int) -> tuple[FloatArray, FloatArray]:
    f = scipy.fft.fftfreq(size) * size
    return f[:, None], f[None]


def _smooth_noise(size: int, length: float, rng: np.random.Generator) -> FloatArray:
    ky, kx = _frequencies(size)
    noise = scipy.fft.ifft2(scipy.fft.fft2(rng.standard_normal((size, size))) * np.exp(-(ky**2 + kx**2) / length**2))
    return np.asarray(noise.real / noise.real.std())


def random_design(size: int, rng: np.random.Generator) -> ComplexArray:
    """Return the probe (modes, N, N) of a beamline that might be: zone plate, mirrors or pinhole, total intensity 1.

    Everything is in pixels: the aperture's radius in reciprocal space, and the radius of the beam on the sample that
    defocus spreads it to. A defocus by the phase ``pi * c * k**2 / N`` sends frequency k to pixel ``c * k``.
    """
    ky, kx = _frequencies(size)
    k = np.hypot(ky, kx)
    pupil: npt.NDArray[np.float64 | np.complex128]
    kind = rng.choice(["zone-plate", "mirrors", "pinhole"], p=[0.75, 0.13, 0.12])
    aperture = size * float(rng.uniform(0.13, 0.6))
    radius = size * float(np.exp(rng.uniform(np.log(0.09), np.log(0.34))))
    edge = float(rng.uniform(0.3, 3.5))
    bend_y = bend_x = radius / aperture * float(rng.choice([-1.0, 1.0]))
    if kind == "zone-plate":
        pupil = _fade(aperture - k, edge) * np.exp(-rng.uniform(0, 1.5) * (k / aperture) ** 2)
        if rng.random() < 0.8:
            pupil = pupil * _fade(k - aperture * rng.uniform(0.15, 0.6), float(rng.uniform(0.3, 1.5)))
    elif kind == "mirrors":
        tall = float(rng.uniform(0.6, 1.4))
        pupil = _fade(aperture - np.abs(kx), edge) * _fade(aperture * tall - np.abs(ky), edge)
        bend_y = bend_y * float(rng.uniform(0.6, 1.4)) / tall
    else:
        y, x = (np.arange(size) - size // 2)[:, None], (np.arange(size) - size // 2)[None]
        disc = _fade(radius - np.hypot(y, x), float(rng.uniform(0.3, 2)))
        pupil = scipy.fft.fft2(scipy.fft.ifftshift(disc))
        bend_y = bend_x = float(rng.uniform(-0.3, 0.3))
    phase = np.pi / size * (bend_y * ky**2 + bend_x * kx**2) + _aberrations(size, aperture, 0.5, rng)
    if rng.random() < 0.7:  # uneven illumination of the optics
        uneven = _smooth_noise(size, size * float(rng.uniform(0.05, 0.3)), rng)
        pupil = pupil * np.maximum(1 + rng.uniform(0, 0.35) * uneven, 0.05)
    wave = scipy.fft.fftshift(scipy.fft.ifft2(pupil * np.exp(-1j * phase)))
    wave = np.asarray(wave / np.linalg.norm(wave) * np.exp(2j * np.pi * rng.random()), dtype=np.complex64)
    modes = int(rng.choice([1, 2, 3], p=[0.45, 0.35, 0.2]))
    share = 1.0 if modes == 1 else float(rng.uniform(0.6, 0.97))
    return coherent_modes(wave, modes, share, plane="sample" if kind == "pinhole" else "pupil")


def _aberrations(size: int, aperture: float, strength_rad: float, rng: np.random.Generator) -> FloatArray:
    """Return astigmatism, coma, trefoil and spherical aberration, of `strength_rad` at the aperture's rim."""
    ky, kx = _frequencies(size)
    rho, theta = np.minimum(np.hypot(ky, kx) / aperture, 1.5), np.arctan2(ky, kx)
    terms = ((2, 2), (3, 1), (3, 3), (4, 0))
    return np.asarray(
        sum(rng.normal(0, strength_rad) * rho**p * np.cos(m * theta + rng.uniform(0, 2 * np.pi)) for p, m in terms)
    )


def as_built(design: ComplexArray, rng: np.random.Generator) -> ComplexArray:
    """Return the probe that the instrument has where `design` (modes, N, N) is believed: other defocus, aberrations."""
    size = design.shape[-1]
    ky, kx = _frequencies(size)
    bend = float(rng.normal(0, 0.03))  # for a usual zone plate some per cent of its defocus
    phase = np.pi / size * bend * (ky**2 + kx**2) + _aberrations(size, size * 0.5, 0.15, rng)
    spectrum = scipy.fft.fft2(design) * np.exp(-1j * phase)
    return np.asarray(scipy.fft.ifft2(spectrum), dtype=np.complex64)


def _believed(built: ComplexArray, rng: np.random.Generator) -> ComplexArray:
    """Return what is often known of a probe: at times its first mode alone."""
    known = built[:1] if len(built) > 1 and rng.random() < 0.3 else built
    return np.asarray(known / np.linalg.norm(known), dtype=np.complex64)


def _detector(rng: np.random.Generator) -> DetectorModel:
    if rng.random() < 0.5:
        return DetectorModel()
    return DetectorModel(
        background=float(rng.choice([0.0, 0.0, rng.uniform(0, 0.3)])),
        saturation=65535,
        dead_fraction=float(rng.uniform(0, 0.003)),
        hot_fraction=float(rng.uniform(0, 0.001)),
        hot_counts=float(10 ** rng.uniform(2, 5)),
        gap_px=int(rng.integers(0, 3)),
        modules=(2, 2) if rng.random() < 0.1 else (1, 1),
        beamstop_px=float(rng.uniform(2, 8)) if rng.random() < 0.1 else 0.0,
        seed=int(rng.integers(2**31)),
    )


def _miscentred(size: int, rng: np.random.Generator) -> ComplexArray:
    """Return the ramp (N, N) on an exit wave of a frame whose centre is off: slightly, at times by up to a pixel."""
    shift = rng.uniform(-1, 1, 2) if rng.random() < 0.1 else rng.normal(0, 0.2, 2)
    x = np.arange(size) / size - 0.5
    ramp = np.exp(2j * np.pi * shift[0] * x)[:, None] * np.exp(2j * np.pi * shift[1] * x)[None]
    return np.asarray(ramp, dtype=np.complex64)


def _patches(specimen: ComplexArray, size: int, light: FloatArray, rng: np.random.Generator) -> ComplexArray:
    """Return patches (FRAMES_PER_PROBE, N, N): of three random ones each the one with most to see in the beam."""
    corners = rng.integers(0, (SPECIMEN_SIDE - 1) * size, (FRAMES_PER_PROBE, 3, 2))
    tried = np.stack([[specimen[y : y + size, x : x + size] for y, x in three] for three in corners])
    mean = np.abs((light * tried).sum(axis=(-2, -1)))
    contrast = (light * np.abs(tried) ** 2).sum(axis=(-2, -1)) - mean**2  # 0 where the beam meets one value alone
    return np.asarray(tried[np.arange(FRAMES_PER_PROBE), contrast.argmax(axis=1)])


def simulate_shard(seed: tuple[int, ...], count: int, size: int, probe: ComplexArray | None = None) -> Shard:
    """Return `count` simulated frames; the same arguments give the same frames.

    Parameters
    ----------
    seed:
        Of everything random.
    count:
        Frames, a multiple of 16.
    size:
        Pixels along a side.
    probe:
        (modes, N, N) to train for one beamline; None for random ones.
    """
    if count < FRAMES_PER_SPECIMEN or count % FRAMES_PER_SPECIMEN:
        raise InferenceError(f"a shard of {count} frames was asked for; allowed are multiples of {FRAMES_PER_SPECIMEN}")
    rng, far = np.random.default_rng(seed), FarField(size)
    design: Callable[[], ComplexArray] = partial(random_design, size, rng) if probe is None else lambda: probe[:MODES]
    frames, objects = np.empty((count, size, size), np.float32), np.empty((count, size, size), np.complex64)
    good = np.empty((count, size, size), bool)
    probes = np.zeros((count // FRAMES_PER_PROBE, MODES, size, size), np.complex64)
    for first in range(0, count, FRAMES_PER_PROBE):
        if first % FRAMES_PER_SPECIMEN == 0:
            specimen = random_specimen((SPECIMEN_SIDE * size, SPECIMEN_SIDE * size), rng)
        believed = design()
        built = as_built(believed, rng)
        believed = _believed(believed, rng)
        probes[first // FRAMES_PER_PROBE, : len(believed)] = believed
        light, detector = (np.abs(believed) ** 2).sum(axis=0), _detector(rng)
        patches = _patches(specimen, size, light, rng)
        patches = patches * _miscentred(
            size, rng
        )  # the truth has the ramp too: in a scan it is the same for all frames
        waves = far.forward(built * patches[:, None])
        expected = scipy.fft.fftshift((waves.real**2 + waves.imag**2).sum(axis=1), axes=(-2, -1))
        photons = np.exp(rng.uniform(np.log(PHOTONS[0]), np.log(PHOTONS[1]), FRAMES_PER_PROBE))
        chosen = slice(first, first + FRAMES_PER_PROBE)
        frames[chosen] = detector.measure(expected * photons[:, None, None], rng)
        mask = detector.mask((size, size)) if rng.random() < 0.8 else np.zeros((size, size), bool)  # else unknown
        good[chosen] = ~mask
        mean = (light * patches).sum(axis=(-2, -1), keepdims=True)
        level = np.sqrt((light * np.abs(patches) ** 2).sum(axis=(-2, -1), keepdims=True))
        objects[chosen] = patches * np.exp(-1j * np.angle(mean)) / level
    return Shard(frames, objects, probes, good)
