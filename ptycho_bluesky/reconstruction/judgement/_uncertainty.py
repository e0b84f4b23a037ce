"""How sure each pixel is: the spread of reconstructions from data that might as well have been measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from ptycho_bluesky.errors import DatasetError, ReconstructionError
from ptycho_bluesky.experiment import Frames, PtychoDataset, Reconstruction
from ptycho_bluesky.reconstruction._reconstruct import reconstruct
from ptycho_bluesky.reconstruction.judgement._alignment import aligned
from ptycho_bluesky.reconstruction.judgement._halves import as_reconstructed, half_data_sets, made_with

__all__ = ["EnsembleKind", "Uncertainty", "uncertainty"]

FloatImage = npt.NDArray[np.float32]

EnsembleKind = Literal["half-data", "bootstrap", "seeds"]
"""What sets the members of an ensemble apart."""


@dataclass(frozen=True)
class Uncertainty:
    """One standard deviation of a result, pixel by pixel, on its grid."""

    phase_std: FloatImage = field(repr=False)
    """(Y, X) radians, NaN outside the field that all members share."""

    amplitude_std: FloatImage = field(repr=False)
    """(Y, X) of the transmission."""

    kind: EnsembleKind
    """How the members differ."""

    members: tuple[Reconstruction, ...] = field(repr=False)
    """The reconstructions themselves; of ``"half-data"`` the two halves of a division stand side by side."""

    @property
    def typical_rad(self) -> float:
        """Median of the phase's standard deviation, radians."""
        return float(np.nanmedian(self.phase_std))


def uncertainty(
    dataset: PtychoDataset,
    result: Reconstruction,
    members: int = 8,
    kind: EnsembleKind = "half-data",
    *,
    device: str = "cpu",
    seed: int = 0,
    should_stop: Callable[[], bool] | None = None,
    on_member: Callable[[int], None] | None = None,
) -> Uncertainty:
    """Estimate one standard deviation of a result's phase and amplitude from an ensemble of reconstructions.

    The members are made with the engine and options of `result`, and freed of phase, ramp, scale and shift before they
    are compared. What sets them apart decides what the map holds:

    ``"half-data"``
        ``members / 2`` divisions into halves. Each half has twice the full set's variance, the difference of two
        halves four times: ``sigma**2 = mean (a - b)**2 / 4``. Holds all that differs between frames: photon noise,
        errors of positions, drifts, and what half the overlap leaves open, so it is rather too large than too small.
    ``"bootstrap"``
        Counts drawn anew from a Poisson distribution about the measured ones (Efron and Tibshirani, An Introduction
        to the Bootstrap (1993), ch. 6). Holds photon noise alone.
    ``"seeds"``
        The same data, frames in another order. Holds what the engine leaves open, and no noise of the data.

    Errors that all members share (a wrong distance, a model that leaves something out) show in none of them. With `n`
    members the standard deviation itself is known to ``1 / sqrt(2 (n - 1))`` of its value, 27 % for 8 bootstraps; of
    half data sets, to ``1 / sqrt(n)``.

    Parameters
    ----------
    dataset:
        What `result` was made from.
    result:
        The reconstruction that is judged; the maps are on its grid.
    members:
        Reconstructions to make, 2 to 1000; even for ``"half-data"``.
    kind:
        What sets the members apart.
    device:
        As for :func:`reconstruct`.
    seed:
        Of divisions, counts and orders.
    should_stop:
        Asked after each epoch; True gives the ensemble up.
    on_member:
        Called with the number of members done.

    Raises
    ------
    DatasetError
        When there are too few frames for halves, or the frames are no counts for a bootstrap.
    ReconstructionError
        When `members` or `kind` are not allowed, a member fails, or the ensemble was given up.
    """
    if not 2 <= members <= 1000 or (kind == "half-data" and members % 2):
        raise ReconstructionError(
            f"members is {members}; allowed are 2 to 1000, and even numbers for 'half-data', whose members are pairs"
        )
    engine, options = made_with(result)
    dataset = as_reconstructed(dataset, result)
    made: list[Reconstruction] = []
    for drawn, own_seed in _drawn(dataset, members, kind, seed):
        chosen = options if own_seed is None else {**options, "seed": own_seed}
        made.append(reconstruct(drawn, engine, chosen, device=device, should_stop=should_stop))
        if should_stop is not None and should_stop():
            raise ReconstructionError(f"the ensemble was given up after {len(made)} of {members} members")
        if on_member is not None:
            on_member(len(made))
    phase, amplitude = _spread(result, made, pairs=kind == "half-data")
    return Uncertainty(phase, amplitude, kind, tuple(made))


def _drawn(
    dataset: PtychoDataset, members: int, kind: EnsembleKind, seed: int
) -> Iterator[tuple[PtychoDataset, int | None]]:
    """Yield the data of each member, and the seed of its engine where that is what sets it apart."""
    if kind == "half-data":
        for k in range(members // 2):
            for half in half_data_sets(dataset, seed + k):
                yield half, None
    elif kind == "bootstrap":
        _refuse_no_counts(dataset)
        for k in range(members):
            yield replace(dataset, frames=_Redrawn(dataset.frames, (seed, k))), None
    elif kind == "seeds":
        for k in range(members):
            yield dataset, seed + 1 + k
    else:
        raise ReconstructionError(f"kind is {kind!r}; allowed are 'half-data', 'bootstrap' and 'seeds'")


def _refuse_no_counts(dataset: PtychoDataset) -> None:
    frame = np.asarray(dataset.validate().frames[0:1])
    good = frame if dataset.mask is None else frame[:, ~dataset.mask]
    if not (np.isfinite(good).all() and (good >= 0).all() and np.abs(good - np.rint(good)).max() < 1e-3):
        raise DatasetError(
            f"dataset {dataset.name or '(unnamed)'}: its frames are no whole numbers of photons, so their noise cannot "
            "be drawn anew; convert them to photons, or take kind 'half-data'"
        )


class _Redrawn:
    """Frames whose counts are drawn anew, the same ones at each reading."""

    def __init__(self, frames: Frames, seed: tuple[int, int]) -> None:
        self._frames, self._seed = frames, seed
        self.shape, self.dtype = tuple(frames.shape), np.dtype(np.float32)

    def __getitem__(self, index: slice, /) -> npt.NDArray[np.float32]:
        numbers = range(*index.indices(self.shape[0]))
        frames = np.asarray(self._frames[index], np.float64)
        counts = np.where(np.isfinite(frames) & (frames > 0), frames, 0)
        drawn = [np.random.default_rng((*self._seed, k)).poisson(c) for k, c in zip(numbers, counts, strict=True)]
        # What is wrong with a frame (not finite, negative) stays wrong.
        return np.where(frames >= 0, np.asarray(drawn).reshape(frames.shape), frames).astype(np.float32)


def _spread(result: Reconstruction, members: list[Reconstruction], *, pairs: bool) -> tuple[FloatImage, FloatImage]:
    """Return the standard deviations (Y, X) of phase and amplitude; `pairs` are halves of one division."""
    images = [aligned(member, result) for member in members]
    objects = np.stack([image.object for image in images])
    inside = np.logical_and.reduce([image.inside for image in images])
    if pairs:
        a, b = objects[::2], objects[1::2]
        phase = (np.angle(a * b.conj()) ** 2).mean(axis=0) / 4
        amplitude = ((np.abs(a) - np.abs(b)) ** 2).mean(axis=0) / 4
    else:
        mean, free = objects.mean(axis=0), len(objects) - 1
        phase = (np.angle(objects * mean.conj()) ** 2).sum(axis=0) / free
        amplitude = ((np.abs(objects) - np.abs(objects).mean(axis=0)) ** 2).sum(axis=0) / free
    of_phase, of_amplitude = (np.where(inside, np.sqrt(v), np.nan).astype(np.float32) for v in (phase, amplitude))
    return of_phase, of_amplitude
