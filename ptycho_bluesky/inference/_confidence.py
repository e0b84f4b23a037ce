"""How far each patch may be believed, and when the whole image may not.

A patch is pushed through the known probe; what is left between model and frame, beyond photon noise, is its *excess*.
How large that is when all is well depends on network and probe, so it is learned when a run begins: simulated frames of
this very probe go through this very predictor. A patch at the limit that 95 % of those keep has confidence 1/2.

The excess is blind to what is wrong with positions, and a network can explain frames by a wrong object where the probe
is defocused. Neighbouring patches that should show the same object then contradict each other: they differ from the
mosaic by as much as they vary at all (:class:`Agreement`).
"""

from __future__ import annotations

import collections
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import gammaln

from ptycho_bluesky.inference._fitting import Fitting
from ptycho_bluesky.inference._mosaic import Agreement
from ptycho_bluesky.inference._protocol import Patches, Predictor
from ptycho_bluesky.inference._simulation import as_built
from ptycho_bluesky.optics import FarField, random_specimen

__all__ = ["Confidence", "Noise", "Standard", "learn_standard"]

FloatArray = npt.NDArray[np.float32]

PHOTONS = (2e4, 2e5, 2e6)
SPECIMENS = 8
FRAMES_PER_SPECIMEN = 4
WORTH_SEEING = 0.02
"""Least contrast (1 minus a coherence) of a simulated patch: an empty one is explained by anything."""

DEFAULT_LIMIT = 0.15
LEAST_LIMIT = 0.05
ROOM = 1.5
"""Measured frames have a little more wrong with them than simulated ones."""

HELPLESS = 0.9
"""A network whose simulated patches are wrong by this share of what an empty patch is wrong by is of no use here."""

UNEXPLAINED = 0.66
"""Share of the excess of an empty object that patches may leave. Right probes left 0.3 to 0.59 in simulated scans of
ten beamlines, defocused ones, where the network finds next to nothing, 0.64 to 0.95."""

WELL_EXPLAINED = 0.56
"""Patches that leave less are believed whatever their excess: a sample of strong contrast has a large one."""

LEAST_EMPTY = 0.05
"""Least excess of an empty object at which there is something to explain."""

ENOUGH = 24
"""Patches before a verdict."""

LAST = 100
CONTRADICTION = 1.15
"""Differences of patches from the mosaic, over what both vary. Right probes and positions gave 0.3 to 1.0 in simulated
scans of 8 beamlines, wrong ones (axes swapped, probe defocused) 1.2 to 2.7."""

SOMETHING = 0.004
"""Least contrast at which patches can contradict each other; below it is noise."""


class Noise:
    """Misfit that photon noise alone gives to a perfect patch, for one beam.

    ``floor(N)**2 = sum_k E (sqrt(n_k) - sqrt(N p_k))**2 / N`` for N photons, n Poisson, p the beam's share in pixel k.

    Parameters
    ----------
    probe:
        (modes, N, N), as the network's frames have it.
    good:
        (N, N) False where pixels count nothing; None where all are good.
    """

    def __init__(self, probe: npt.NDArray[np.complex64], good: npt.NDArray[np.bool_] | None = None) -> None:
        waves = FarField(probe.shape[-1]).forward(probe)
        beam = np.fft.fftshift((np.abs(waves) ** 2).sum(axis=0)).astype(float)
        beam = beam if good is None else np.where(good, beam, 0)
        self._beam = np.sqrt(beam / beam.sum()).astype(np.float32)
        share = (beam / beam.sum()).ravel()
        mean, spread = _poisson_spread()
        self._photons = np.geomspace(1, 1e9, 64)
        self._floor = np.array([np.interp(n * share, mean, spread).sum() / n for n in self._photons])

    def empty(self, frames: FloatArray) -> FloatArray:
        """Return (B,) the excess that an empty object would leave of `frames` (B, N, N); NaN where they are larger."""
        photons = frames.sum(axis=(1, 2))
        if frames.shape[1:] != self._beam.shape:
            return np.full(len(frames), np.nan, np.float32)
        overlap = np.tensordot(np.sqrt(frames), self._beam, 2) ** 2 / np.maximum(photons, 1)
        return self.excess(np.sqrt(np.clip(1 - overlap, 0, 1)), photons)

    def excess(self, misfit: FloatArray, photons: npt.NDArray[np.floating]) -> FloatArray:
        """Return (B,) what is left of `misfit` beyond noise, for frames of so many `photons`."""
        floor = np.interp(photons, self._photons, self._floor)
        return np.asarray(np.sqrt(np.maximum(np.square(misfit) - floor, 0)), np.float32)


def _poisson_spread() -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return means, and E (sqrt(n) - sqrt(mean))**2 for each: from twice the mean, where it is small, to 1/4."""
    mean = np.geomspace(1e-6, 50, 120)
    n = np.arange(120)[:, None]
    chance = np.exp(n * np.log(mean) - mean - gammaln(n + 1))
    spread = (chance * (np.sqrt(n) - np.sqrt(mean)) ** 2).sum(axis=0)
    return np.append(mean, 1e12), np.append(spread, 0.25)


@dataclass(frozen=True)
class Standard:
    """What a network achieves when all is well."""

    limit: float = DEFAULT_LIMIT
    """Excess that 95 % of simulated patches keep, and some room."""

    error_rad: float | None = None
    """Phase error of simulated patches, weighted by the light, a constant and a ramp removed: median, radians."""

    empty_rad: float | None = None
    """The same of empty patches."""

    @property
    def helpless(self) -> bool:
        """Whether the network does no better than an empty image."""
        return self.error_rad is not None and self.empty_rad is not None and self.error_rad > HELPLESS * self.empty_rad


def _error(patches: Patches, true: npt.NDArray[np.complex64]) -> npt.NDArray[np.float64]:
    """Return (B,) rms differences in phase, weighted by the light, a constant and a ramp removed."""
    share = patches.weight / patches.weight.sum()
    x = np.arange(share.shape[0]) - share.shape[0] // 2
    phasor = np.exp(1j * patches.phase) * np.exp(-1j * np.angle(true))
    angle = np.angle(phasor * np.conj((share * phasor).sum(axis=(1, 2), keepdims=True)))
    for axis in (x[:, None], x[None]):
        slope = (share * axis * angle).sum(axis=(1, 2)) / (share * axis**2).sum()
        angle = angle - slope[:, None, None] * axis
    return np.asarray(np.sqrt((share * angle**2).sum(axis=(1, 2))))


def _specimen(size: int, light: npt.NDArray[np.floating], rng: np.random.Generator) -> npt.NDArray[np.complex64]:
    """Return patches (FRAMES_PER_SPECIMEN, N, N) of one random specimen, with something to see in the light."""
    found: list[npt.NDArray[np.complex64]] = []
    for _ in range(20):
        specimen = random_specimen((2 * size, 2 * size), rng)
        for y, x in rng.integers(0, size, (3 * FRAMES_PER_SPECIMEN, 2)):
            patch = specimen[y : y + size, x : x + size]
            if 1 - abs((light * patch).sum()) ** 2 / (light * np.abs(patch) ** 2).sum() > WORTH_SEEING:
                found.append(patch)
            if len(found) == FRAMES_PER_SPECIMEN:
                return np.stack(found)
    return np.stack([*found, *[patch] * (FRAMES_PER_SPECIMEN - len(found))])


def learn_standard(
    predictor: Predictor, fitting: Fitting, probe: npt.NDArray[np.complex64], mask: npt.NDArray[np.bool_] | None
) -> Standard:
    """Return what `predictor` achieves on simulated frames of the probe; the same every time.

    Parameters
    ----------
    predictor:
        Which takes frames of the size ``fitting.wanted`` as well, and tells their misfit.
    fitting:
        From the detector's frames to the network's.
    probe, mask:
        (modes, H, W) and (H, W) True = bad, as the detector has them.
    """
    rng, size = np.random.default_rng(0), fitting.wanted
    design, good = fitting.probe(probe), fitting.good(mask)
    light = (np.abs(design) ** 2).sum(axis=0)
    true, frames = [], []
    for k in range(SPECIMENS):
        patches = _specimen(size, light / light.sum(), rng)
        waves = FarField(size).forward(as_built(design, rng, 0.2)[None] * patches[:, None])
        intensity = np.fft.fftshift((np.abs(waves) ** 2).sum(axis=1), axes=(-2, -1))
        scale = PHOTONS[k % len(PHOTONS)] / intensity.sum(axis=(1, 2)).mean()
        frames.append(np.where(good, rng.poisson(intensity * scale), 0).astype(np.float32))
        true.append(patches)
    counts, objects = np.concatenate(frames), np.concatenate(true)
    made = predictor(counts)
    if made.misfit is None or made.phase.shape != objects.shape:
        return Standard()
    excess = Noise(design, good).excess(made.misfit, counts.sum(axis=(1, 2)))
    empty = Patches(np.zeros_like(made.phase), None, made.weight)
    return Standard(
        limit=max(LEAST_LIMIT, ROOM * float(np.percentile(excess, 95))),
        error_rad=float(np.median(_error(made, objects))),
        empty_rad=float(np.median(_error(empty, objects))),
    )


class Confidence:
    """The confidence of one run's patches.

    Parameters
    ----------
    noise:
        Of the beam; None where the probe is not known, and so nothing can be said.
    standard:
        What the network achieves when all is well.
    """

    def __init__(self, noise: Noise | None, standard: Standard) -> None:
        self._noise, self.standard = noise, standard
        self._flux: collections.deque[float] = collections.deque(maxlen=2 * LAST)
        self._peak: collections.deque[float] = collections.deque(maxlen=2 * LAST)
        self._excess: collections.deque[float] = collections.deque(maxlen=LAST)
        self._empty: collections.deque[float] = collections.deque(maxlen=LAST)
        self._values: collections.deque[float] = collections.deque(maxlen=LAST)
        self._agreements: collections.deque[Agreement] = collections.deque(maxlen=LAST)

    def of(self, frames: FloatArray, misfit: FloatArray, lost: FloatArray, own: FloatArray | None) -> FloatArray:
        """Return the confidence (B,) of patches, 0 to 1; NaN where the probe is not known.

        Parameters
        ----------
        frames:
            (B, H, W) counts as they went to the network.
        misfit:
            (B,) of the patches, NaN where it is not known.
        lost:
            (B,) share of the pixels that were saturated.
        own:
            (B,) the network's own confidence, or None.
        """
        flux, peak = frames.sum(axis=(1, 2)), frames.max(axis=(1, 2))
        self._flux.extend(map(float, flux))
        self._peak.extend(map(float, peak / np.maximum(flux, 1)))
        if self._noise is None:
            return np.full(len(frames), np.nan, np.float32)
        excess = self._noise.excess(misfit, flux)
        empty = self._noise.empty(frames)
        self._excess.extend(float(v) for v in excess if np.isfinite(v))
        self._empty.extend(float(v) for v in empty if np.isfinite(v))
        allowed = np.maximum(self.standard.limit, WELL_EXPLAINED * np.nan_to_num(empty))
        value = 1 / (1 + (excess / allowed) ** 4)
        usual = max(float(np.median(self._flux)), 1e-6)
        value *= np.clip(4 * flux / usual, 0, 1) * np.clip(4 * usual / np.maximum(flux, 1e-6), 0, 1)  # beam lost, burst
        spike = peak / np.maximum(flux, 1) / max(3 * float(np.median(self._peak)), 0.02)  # a hot pixel
        value *= 1 / np.maximum(spike, 1) * (1 - np.clip(100 * lost, 0, 1))
        if own is not None:
            value = value * np.clip(own, 0, 1)
        self._values.extend(map(float, value))
        return np.asarray(value, np.float32)

    def compare(self, agreement: Agreement) -> None:
        """Take note of how a patch agreed with what lay below it."""
        if agreement.contrast or agreement.difference:
            self._agreements.append(agreement)

    @property
    def median(self) -> float | None:
        """Of the last patches; None where nothing is known."""
        known = [v for v in self._values if np.isfinite(v)]
        return float(np.median(known)) if known else None

    @property
    def excess(self) -> float | None:
        """Median of the last patches, or None."""
        return float(np.median(self._excess)) if self._excess else None

    @property
    def unexplained(self) -> float | None:
        """Excess of the last patches over that of an empty object; None where there is nothing to explain."""
        empty = float(np.median(self._empty)) if self._empty else 0.0
        return None if empty < LEAST_EMPTY or self.excess is None else self.excess / empty

    @property
    def contradiction(self) -> float | None:
        """Differences of patches from the mosaic over what both vary by themselves; None where nothing varies."""
        contrast = sum(a.contrast for a in self._agreements)
        if len(self._agreements) < ENOUGH or contrast < SOMETHING * len(self._agreements):
            return None
        return sum(a.difference for a in self._agreements) / contrast

    def verdict(self) -> tuple[bool | None, str]:
        """Return whether the image may be believed (None: too early to tell), and why not."""
        if self._noise is None:
            return False, "the probe is not known, so nothing tells whether patches explain their frames: give it"
        made = self.standard
        if made.helpless:
            return False, (
                f"the network does not know this beam: on simulated frames of it the phase is off by "
                f"{made.error_rad:.2f} rad, an empty image by {made.empty_rad:.2f}: use or train a model for this beam"
            )
        if len(self._excess) < ENOUGH:
            return None, ""
        faults = []
        excess, left = self.excess or 0.0, self.unexplained
        if excess > made.limit and (left is None or left > WELL_EXPLAINED):
            faults.append(
                f"patches do not explain their frames (misfit {excess:.2f} beyond noise, at most {made.limit:.2f} when "
                "all is well): the probe or the beam's centre is wrong, or the sample is unlike all that was trained on"
            )
        elif left is not None and left > UNEXPLAINED:
            faults.append(
                f"patches explain little of what their frames show (they leave {left:.0%} of it): the probe is wrong, "
                "for instance its defocus, or the sample is unlike all that was trained on"
            )
        if (contradiction := self.contradiction) is not None and contradiction > CONTRADICTION:
            faults.append(
                f"neighbouring patches contradict each other ({contradiction:.1f} times what they vary): positions, "
                "their axes or signs, the frames' orientation or the probe's defocus is wrong, or light is lacking"
            )
        return not faults, "; ".join(faults)
