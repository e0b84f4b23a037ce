"""Simulated training frames: random specimens, random optics as they are built, photons, detector faults."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy.fft

from ptycho_bluesky.errors import InferenceError
from ptycho_bluesky.inference._conditions import PHASE_RAD, PHOTONS, Conditions
from ptycho_bluesky.inference._fitting import Fitting, fit_probe
from ptycho_bluesky.inference._pairs import MODES, TrainingPairs
from ptycho_bluesky.optics import DetectorModel, FarField, coherent_modes, random_specimen

__all__ = ["as_built", "random_design", "simulate_shard"]

FRAMES_PER_PROBE = 4
FRAMES_PER_SPECIMEN = 16
SPECIMEN_SIDE = 3
"""Of a specimen, in frames."""

EXPOSURES = 3
"""Places at which a moving sample is taken while a frame is exposed."""

ComplexArray = npt.NDArray[np.complex64]
FloatArray = npt.NDArray[np.float64]


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


def as_built(design: ComplexArray, rng: np.random.Generator, error: float = 1.0) -> ComplexArray:
    """Return the probe that the instrument has where `design` (modes, N, N) is believed: other defocus, aberrations.

    `error` scales both; 1 is what a design leaves open.
    """
    size = design.shape[-1]
    ky, kx = _frequencies(size)
    bend = float(rng.normal(0, 0.03 * error))  # for a usual zone plate some per cent of its defocus
    phase = np.pi / size * bend * (ky**2 + kx**2) + _aberrations(size, size * 0.5, 0.15 * error, rng)
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


def _miscentred(size: int, jitter_px: float, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    """Return the beam's shift (row, column), pixels, on a frame that is off centre: slightly, at times by a pixel."""
    shift = rng.uniform(-1, 1, 2) if rng.random() < 0.1 else rng.normal(0, jitter_px, 2)
    return shift, np.arange(size) / size - 0.5


def _tilted(patches: ComplexArray, shift: FloatArray, x: FloatArray) -> ComplexArray:
    """Return patches whose exit waves go to a place `shift` off; the same for all frames of a scan, so it is true."""
    ramp = np.exp(2j * np.pi * shift[0] * x)[:, None] * np.exp(2j * np.pi * shift[1] * x)[None]
    return np.asarray(patches * ramp.astype(np.complex64), dtype=np.complex64)


def _most_to_see(
    specimen: ComplexArray, size: int, light: FloatArray, rng: np.random.Generator
) -> npt.NDArray[np.intp]:
    """Return corners (FRAMES_PER_PROBE, 2): of three random patches each the one with most to see in the beam."""
    corners = rng.integers(0, (SPECIMEN_SIDE - 1) * size, (FRAMES_PER_PROBE, 3, 2))
    tried = np.stack([[specimen[y : y + size, x : x + size] for y, x in three] for three in corners])
    mean = np.abs((light * tried).sum(axis=(-2, -1)))
    contrast = (light * np.abs(tried) ** 2).sum(axis=(-2, -1)) - mean**2  # 0 where the beam meets one value alone
    return np.asarray(corners[np.arange(FRAMES_PER_PROBE), contrast.argmax(axis=1)])


class _LowPassed:
    """A specimen as pixels of another size see it: its frequencies up to theirs, interpolated exactly."""

    def __init__(self, specimen: ComplexArray, scale: float) -> None:
        self._frequencies = scipy.fft.fftfreq(len(specimen))
        self._kept = np.flatnonzero(np.abs(self._frequencies) <= 0.5 / scale)
        spectrum = scipy.fft.fft2(specimen)[np.ix_(self._kept, self._kept)]
        self._spectrum, self._scale = (spectrum / specimen.size).astype(np.complex64), scale

    def __call__(self, corner: npt.NDArray[np.integer], offset: tuple[float, float], size: int) -> ComplexArray:
        """Return (size, size), its first pixel at `corner` plus `offset` of the specimen."""
        down, across = (
            np.exp(2j * np.pi * np.outer(c + o + self._scale * np.arange(size), self._frequencies[self._kept]))
            for c, o in zip(corner, offset, strict=True)
        )
        return np.asarray(down.astype(np.complex64) @ self._spectrum @ across.T.astype(np.complex64))


def _photons(limits: tuple[float, float], wide: bool, rng: np.random.Generator) -> FloatArray:
    """Return photons (FRAMES_PER_PROBE,), even in the logarithm; `wide`: half of them far beyond the limits."""
    low, high = np.log(limits)
    if wide and rng.random() < 0.5:
        low, high = low - np.log(16), high + np.log(4)
    return np.asarray(np.exp(rng.uniform(low, high, FRAMES_PER_PROBE)))


def _intensity(built: ComplexArray, patches: ComplexArray, blur_px: float, rng: np.random.Generator) -> FloatArray:
    """Return (FRAMES_PER_PROBE, N, N) with a sum of about 1, centred: of resting samples, or of moving ones."""
    far, ramps = FarField(built.shape[-1]), [None]
    if blur_px > 0:
        way, turn = float(rng.uniform(0, blur_px)), np.exp(2j * np.pi * rng.random())
        ky, kx = (2 * np.pi / built.shape[-1] * k for k in _frequencies(built.shape[-1]))
        ramps = [np.exp(-1j * p * way * (turn.imag * ky + turn.real * kx)) for p in np.linspace(-0.5, 0.5, EXPOSURES)]
    light = np.zeros(patches.shape)
    for ramp in ramps:  # the beam goes over the sample as the sample goes under the beam
        moved = built if ramp is None else scipy.fft.ifft2(scipy.fft.fft2(built) * ramp).astype(np.complex64)
        waves = far.forward(moved * patches[:, None])
        light += (waves.real**2 + waves.imag**2).sum(axis=1) / len(ramps)
    return np.asarray(scipy.fft.fftshift(light, axes=(-2, -1)))


def simulate_shard(seed: tuple[int, ...], count: int, size: int, conditions: Conditions | None = None) -> TrainingPairs:
    """Return `count` simulated frames; the same arguments give the same frames.

    Frames of one beamline are made in its own pixels and then fitted to the network's, as measured ones are.

    Parameters
    ----------
    seed:
        Of everything random.
    count:
        Frames, a multiple of 16.
    size:
        Pixels along a side of the network's frames.
    conditions:
        Of one beamline; None for all kinds of them.
    """
    if count < FRAMES_PER_SPECIMEN or count % FRAMES_PER_SPECIMEN:
        raise InferenceError(f"a shard of {count} frames was asked for; allowed are multiples of {FRAMES_PER_SPECIMEN}")
    rng, c = np.random.default_rng(seed), conditions
    given = size if c is None else c.given
    fitting = Fitting(size, size) if c is None else fit_probe(c.probe[:MODES], given, size)
    frames, objects = np.empty((count, size, size), np.float32), np.empty((count, size, size), np.complex64)
    good = np.empty((count // FRAMES_PER_PROBE, size, size), bool)
    probes = np.zeros((len(good), MODES, size, size), np.complex64)
    for first in range(0, count, FRAMES_PER_PROBE):
        if first % FRAMES_PER_SPECIMEN == 0:
            shape, thick = (SPECIMEN_SIDE * given, SPECIMEN_SIDE * given), PHASE_RAD if c is None else c.phase_rad
            specimen = random_specimen(shape, rng, phase_rad=thick)
            seen = None if c is None else _LowPassed(specimen, fitting.scale)
        design = random_design(size, rng) if c is None else c.probe / np.linalg.norm(c.probe)
        built = as_built(design, rng, 1.0 if c is None else c.probe_error)
        believed = _believed(design, rng) if c is None else fitting.probe(design[:MODES])
        probes[first // FRAMES_PER_PROBE, : len(believed)] = believed
        light, detector = (np.abs(design if c is not None else believed) ** 2).sum(axis=0), _detector(rng)
        corners = _most_to_see(specimen, given, light, rng)
        shift, x = _miscentred(given, 0.2 if c is None else c.jitter_px, rng)
        patches = _tilted(np.stack([specimen[y : y + given, x : x + given] for y, x in corners]), shift, x)
        photons = _photons(PHOTONS if c is None else c.photons, c is not None, rng)
        expected = _intensity(built, patches, 0.0 if c is None else c.blur_px, rng) * photons[:, None, None]
        counts = detector.measure(expected + (0.0 if c is None else c.background), rng)
        mask = detector.mask((given, given)) if rng.random() < 0.8 else np.zeros((given, given), bool)  # else unknown
        if seen is not None and c is not None:
            if c.mask is not None:
                counts[:, c.mask], mask = 0, mask | c.mask
            places = (fitting.offset[0] + fitting.scale * np.arange(size)) / given - 0.5
            patches = _tilted(np.stack([seen(k, fitting.offset, size) for k in corners]), shift, places)
            light = (np.abs(believed) ** 2).sum(axis=0)
        chosen = slice(first, first + FRAMES_PER_PROBE)
        frames[chosen], good[first // FRAMES_PER_PROBE] = fitting.frames(counts.astype(np.float32)), fitting.good(mask)
        mean = (light * patches).sum(axis=(-2, -1), keepdims=True)
        level = np.sqrt((light * np.abs(patches) ** 2).sum(axis=(-2, -1), keepdims=True))
        objects[chosen] = patches * np.exp(-1j * np.angle(mean)) / level
    return TrainingPairs(frames, objects, probes, good, np.arange(count) // FRAMES_PER_PROBE)
