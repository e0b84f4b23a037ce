"""Where the beam meets the detector, found from the frames themselves: a centre a few pixels off is mended.

A frame that is moved by one pixel gives its patch a slope of one wave over the field, and a network that learned
centred frames does worse than that. The mean of some frames looks like the beam without a sample, only softer, so that
their cross-correlation tells the shift: on a measured Siemens star to 0.12 pixels from one frame, 0.02 from sixty.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy.fft

from ptycho_bluesky.inference._fitting import Fitting

__all__ = ["CentreFinder", "beam_shift"]

FARTHEST = 8
"""Largest shift that is looked for, pixels of the network's frames."""

HYSTERESIS = 0.7
"""The shift in use is left as it is until the one found is this far from it, pixels of the detector."""

MEMORY = 512
"""Frames after which the running sum is halved: a beam that drifts is followed."""


LIKE = 0.6
"""Least correlation of frames and beam for their shift to be believed."""


def beam_shift(mean: npt.NDArray[np.floating], beam: npt.NDArray[np.floating]) -> tuple[float, float] | None:
    """Return by how far (rows, columns), pixels, `mean` lies from `beam`: the peak of their cross-correlation.

    None where the two are too unlike to tell.

    Parameters
    ----------
    mean:
        (N, N) mean counts, the centre at [N // 2, N // 2].
    beam:
        (N, N) intensity without a sample, on the same grid.
    """
    measured, wanted = (np.sqrt(np.maximum(image, 0)) for image in (mean, beam))
    measured, wanted = measured - measured.mean(), wanted - wanted.mean()
    score = scipy.fft.ifft2(scipy.fft.fft2(measured) * np.conj(scipy.fft.fft2(wanted))).real
    score = scipy.fft.fftshift(score)
    if score.max() < LIKE * np.linalg.norm(measured) * np.linalg.norm(wanted) or not score.any():
        return None
    middle = len(score) // 2
    reach = min(FARTHEST, middle - 1)
    near = score[middle - reach : middle + reach + 1, middle - reach : middle + reach + 1]
    row, column = np.unravel_index(int(near.argmax()), near.shape)
    place = row + middle - reach, column + middle - reach
    return _between(score[:, place[1]], int(place[0])) - middle, _between(score[place[0]], int(place[1])) - middle


def _between(line: npt.NDArray[np.floating], peak: int) -> float:
    """Return the place of the parabola's top through the peak and its neighbours."""
    before, top, after = line[peak - 1], line[peak], line[(peak + 1) % len(line)]
    bend = 2 * top - before - after
    return peak + (float(after - before) / (2 * float(bend)) if bend > 0 else 0.0)


class CentreFinder:
    """The running estimate of one run.

    Parameters
    ----------
    fitting:
        From the detector's frames to the network's.
    probe:
        (modes, N, N) as the network is given it.
    good:
        (N, N) pixels that can be trusted.
    """

    def __init__(self, fitting: Fitting, probe: npt.NDArray[np.complex64], good: npt.NDArray[np.bool_]) -> None:
        self._fitting, self._good = fitting, good
        intensity = (np.abs(scipy.fft.fft2(probe, norm="ortho")) ** 2).sum(axis=0)
        self._beam = scipy.fft.fftshift(intensity) * good
        self._sum, self._count, self._due = np.zeros((fitting.wanted, fitting.wanted)), 0, 1
        self._known = False
        self.shift = (0, 0)
        """Rows and columns, detector pixels, by which frames are moved back."""

    def __call__(self, frames: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return frames (B, N, N) of `frames` (B, H, W), whose zero frequency is near the centre, brought there."""
        fitted = self._back(frames)
        return self._back(frames) if self.look(fitted) else fitted

    def _back(self, frames: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return self._fitting.frames(frames, (-self.shift[0], -self.shift[1]))

    def look(self, fitted: npt.NDArray[np.float32]) -> bool:
        """Take frames (B, N, N), fitted and moved back by :attr:`shift`, into account; tell whether that changed it."""
        flux = fitted.sum(axis=(1, 2))
        usable = fitted[flux > 0]
        if not len(usable):
            return False
        self._sum += (usable / flux[flux > 0, None, None]).sum(axis=0)  # each frame counts the same
        self._count += len(usable)
        if self._count < self._due:
            return False
        if self._count > MEMORY:
            self._sum, self._count = self._sum / 2, self._count // 2
        self._due = self._count + max(1, min(self._count, 64))  # after 1, 2, 4, ... frames, then every 64
        if (left := beam_shift(self._sum * self._good, self._beam)) is None:
            return False
        found = [f * self._fitting.binning for f in left]
        if self._known and not any(abs(f) > HYSTERESIS for f in found):
            return False
        further, self._known = (round(found[0]), round(found[1])), True
        if not any(further):
            return False
        self.shift = (self.shift[0] + further[0], self.shift[1] + further[1])
        self._sum = _moved(self._sum, [-f / self._fitting.binning for f in further])
        return True


def _moved(image: npt.NDArray[np.float64], by: list[float]) -> npt.NDArray[np.float64]:
    """Return an image moved by fractions of a pixel, around its edges."""
    rows, columns = (np.exp(-2j * np.pi * np.fft.fftfreq(n) * b) for n, b in zip(image.shape, by, strict=True))
    return np.asarray(scipy.fft.ifft2(scipy.fft.fft2(image) * rows[:, None] * columns).real)
