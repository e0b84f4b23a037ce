"""Training pairs: frames with the probe that made them and, where it is known, the object that they show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import scipy.fft
import scipy.ndimage

from ptycho_bluesky.errors import InferenceError
from ptycho_bluesky.experiment import PtychoDataset, Reconstruction
from ptycho_bluesky.inference._conditions import RECONSTRUCTED_ERROR, Conditions
from ptycho_bluesky.inference._fitting import fit_probe

__all__ = ["MODES", "TrainingPairs"]

MODES = 3
"""Modes of the probes that the network sees in training; fewer are filled up with zeros."""

INSIDE = 0.9
"""Least share of the light of a frame that must have met the reconstructed field."""

ComplexArray = npt.NDArray[np.complex64]
Turn = npt.NDArray[np.bool_]


def turned(values: npt.NDArray[Any], turn: Turn) -> npt.NDArray[Any]:
    """Transpose and mirror, as `turn` (3,) says, about the pixel N // 2: in both spaces alike."""
    if turn[0]:
        values = np.swapaxes(values, -1, -2)
    for axis, flip in ((-2, turn[1]), (-1, turn[2])):
        if flip:
            values = np.roll(np.flip(values, axis), 1, axis)
    return values


@dataclass(frozen=True)
class TrainingPairs:
    """Frames with what they show, as the network's N x N pixels see it; several frames share a probe and a mask."""

    frames: npt.NDArray[np.float32] = field(repr=False)
    """(F, N, N) counts, zero frequency in the centre."""

    objects: ComplexArray | None = field(repr=False)
    """(F, N, N) the patch; its probe-weighted mean has phase 0, its probe-weighted mean intensity is 1. None where it
    is not known: such frames serve the loss on amplitudes alone."""

    probes: ComplexArray = field(repr=False)
    """(K, MODES, N, N), each of total intensity 1."""

    good: npt.NDArray[np.bool_] = field(repr=False)
    """(K, N, N) False where the detector's mask says so."""

    owner: npt.NDArray[np.intp] = field(repr=False)
    """(F,) which of the K probes and masks a frame has."""

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def size(self) -> int:
        """Side of the frames, pixels."""
        return int(self.frames.shape[-1])

    @classmethod
    def of(
        cls,
        dataset: PtychoDataset,
        reconstruction: Reconstruction | None = None,
        *,
        probe: ComplexArray | None = None,
        size: int = 64,
    ) -> TrainingPairs:
        """Return the pairs of a scan.

        Parameters
        ----------
        dataset:
            Far field.
        reconstruction:
            Of all its frames, in their order: gives probe and objects. None: frames alone, for the refinement by the
            forward model; `probe` is needed then.
        probe:
            (modes, H, W), where there is no reconstruction.
        size:
            Side N of the network's frames.

        Raises
        ------
        InferenceError
            When the two do not belong together, or no frame can be used.
        """
        light = reconstruction.probe if reconstruction is not None else probe
        if dataset.modality != "far-field" or light is None:
            what = "has no probe" if light is None else f"is a {dataset.modality} one"
            raise InferenceError(f"dataset {dataset.name or '(unnamed)'} {what}; training needs far field and probe")
        given = dataset.frame_shape[0]
        if light.shape[1:] != dataset.frame_shape or light.shape[1] != light.shape[2]:
            raise InferenceError(
                f"the probe is {light.shape[1:]} pixels, frames are {dataset.frame_shape}; give the probe of those"
            )
        if reconstruction is not None and len(reconstruction.positions) != len(dataset):
            raise InferenceError(
                f"the reconstruction has {len(reconstruction.positions)} positions, the dataset {len(dataset)} frames; "
                "give the reconstruction of these frames"
            )
        fitting = fit_probe(light[:MODES], given, size)
        fitted = fitting.probe(light[:MODES])
        mask = np.zeros(dataset.frame_shape, bool) if dataset.mask is None else dataset.mask
        frames = np.empty((len(dataset), size, size), np.float32)
        for chosen, raw in dataset.batches(64):
            frames[chosen] = fitting.frames(np.where(mask, 0, raw).astype(np.float32))
        use = np.isfinite(frames).all((1, 2)) & (frames.min((1, 2)) >= 0) & (frames.max((1, 2)) > 0)
        share = (np.abs(fitted) ** 2).sum(axis=0)
        objects = None
        if reconstruction is not None:
            objects, inside = _patches(reconstruction, fitting.scale, fitting.offset[0], size, share)
            use &= inside >= INSIDE
            mean = (share * objects).sum(axis=(-2, -1), keepdims=True)
            level = np.sqrt((share * np.abs(objects) ** 2).sum(axis=(-2, -1), keepdims=True))
            objects = (objects * np.exp(-1j * np.angle(mean)) / level).astype(np.complex64)[use]
        if not use.any():
            raise InferenceError(
                f"no frame of {dataset.name or 'the dataset'} can be used: all are empty, not finite, or beside the "
                "reconstructed field"
            )
        probes = np.zeros((1, MODES, size, size), np.complex64)
        probes[0, : len(fitted)] = fitted
        owner = np.zeros(int(use.sum()), np.intp)
        return cls(frames[use], objects, probes, fitting.good(dataset.mask)[None], owner)

    @staticmethod
    def joined(parts: Sequence[TrainingPairs]) -> TrainingPairs:
        """Return the pairs of several scans as one set.

        Raises
        ------
        InferenceError
            When there is none, sizes differ, or some have objects and some have not.
        """
        if not parts or len({p.size for p in parts}) > 1 or len({p.objects is None for p in parts}) > 1:
            raise InferenceError(
                f"{len(parts)} sets of pairs cannot be joined; give at least one, all of one size, all with objects or "
                "all without"
            )
        shifts = np.cumsum([0, *(len(p.probes) for p in parts[:-1])])
        known = None if parts[0].objects is None else np.concatenate([cast(ComplexArray, p.objects) for p in parts])
        return TrainingPairs(
            np.concatenate([p.frames for p in parts]),
            known,
            np.concatenate([p.probes for p in parts]),
            np.concatenate([p.good for p in parts]),
            np.concatenate([p.owner + shift for p, shift in zip(parts, shifts, strict=True)]),
        )

    def subset(self, index: slice | npt.NDArray[np.integer[Any]] | npt.NDArray[np.bool_]) -> TrainingPairs:
        """Return some of the pairs; `index`: slice, numbers (n,), or (N,) True = wanted."""
        objects = None if self.objects is None else self.objects[index]
        return TrainingPairs(self.frames[index], objects, self.probes, self.good, self.owner[index])

    def split(self, held_out: float) -> tuple[TrainingPairs, TrainingPairs]:
        """Return the pairs to train on, and the last share `held_out` of them: frames that no training has seen."""
        kept = max(1, round(len(self) * (1 - held_out)))
        return self.subset(slice(0, kept)), self.subset(slice(min(kept, len(self) - 1), None))

    def conditions(self) -> Conditions:
        """Return the conditions of these frames' beamline, for simulated frames beside them."""
        modes = self.probes[-1][np.abs(self.probes[-1]).max(axis=(1, 2)) > 0]
        least, most = (float(v) for v in np.percentile(self.frames.sum(axis=(1, 2)), [2, 98]))
        mask = ~self.good[-1]
        return Conditions(modes, (least, most), mask if mask.any() else None, probe_error=RECONSTRUCTED_ERROR)

    def take(self, index: npt.NDArray[np.integer[Any]], turn: Turn | None = None) -> list[npt.NDArray[Any] | None]:
        """Return frames, probes, good pixels and objects (or None) of the frames `index` (B,), turned and mirrored."""
        who = self.owner[index]
        objects = None if self.objects is None else self.objects[index]
        parts = (self.frames[index], self.probes[who], self.good[who], objects)
        way = np.zeros(3, bool) if turn is None else turn
        return [None if part is None else np.ascontiguousarray(turned(part, way)) for part in parts]


def _patches(
    rec: Reconstruction, scale: float, offset: float, size: int, share: npt.NDArray[np.floating]
) -> tuple[ComplexArray, npt.NDArray[np.float64]]:
    """Return the object (F, N, N) under each frame, low-passed to its pixels, and the share of light on its field."""
    whole, known = rec.object.prod(axis=0), rec.field_of_view
    whole = np.where(known, whole, whole[known].mean())
    for axis in (0, 1):
        within = np.abs(scipy.fft.fftfreq(whole.shape[axis])) <= 0.5 / scale
        whole = scipy.fft.ifft(scipy.fft.fft(whole, axis=axis) * np.expand_dims(within, 1 - axis), axis=axis)
    splines = [scipy.ndimage.spline_filter(part, 3) for part in (whole.real, whole.imag)]
    corners = (rec.positions - np.asarray(rec.origin)) / (rec.pixel_size_m or 1.0)
    patches, inside = np.empty((len(corners), size, size), np.complex64), np.empty(len(corners))
    steps = offset + scale * np.arange(size)
    for k, corner in enumerate(corners):
        places = np.meshgrid(corner[0] + steps, corner[1] + steps, indexing="ij")
        real, imaginary = (scipy.ndimage.map_coordinates(s, places, prefilter=False, mode="nearest") for s in splines)
        patches[k] = real + 1j * imaginary
        seen = scipy.ndimage.map_coordinates(known.astype(np.float32), places, order=1)
        inside[k] = float((share * seen).sum() / share.sum())
    return patches, inside
