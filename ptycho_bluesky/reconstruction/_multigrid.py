"""A coarse problem before the fine one: the middle of each pattern, larger object pixels, a fraction of the work.

Far field alone: the central ``1 / factor`` of a pattern is the pattern of the same object on pixels `factor` times
larger.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import scipy.fft
import scipy.ndimage

from ptycho_bluesky.experiment import ObjectGrid
from ptycho_bluesky.optics import FarField
from ptycho_bluesky.reconstruction._amplitudes import BAD_PIXEL, MemoryAmplitudes
from ptycho_bluesky.reconstruction._model import ComplexArray, Model
from ptycho_bluesky.reconstruction._problem import Problem

__all__ = ["SMALLEST", "can_be_coarser", "coarser", "finer", "finer_probe", "middle", "resized"]

SMALLEST = 32
"""Pixels of a coarse frame; with fewer the probe is no longer to be told."""


def can_be_coarser(problem: Problem, factor: int = 2) -> bool:
    """Tell whether :func:`coarser` can be had: far field, amplitudes in memory, frames large enough and divisible."""
    size = problem.amplitudes.size
    in_memory = isinstance(problem.amplitudes, MemoryAmplitudes)
    return problem.propagator.reciprocal and in_memory and size % factor == 0 and size // factor >= SMALLEST


def middle(size: int, small: int) -> npt.NDArray[np.int64]:
    """Return the places of the `small` lowest frequencies among `size`, zero frequency at the corner."""
    return np.concatenate([np.arange(small - small // 2), np.arange(size - small // 2, size)])


def resized(waves: ComplexArray, size: int) -> ComplexArray:
    """Return waves (..., H, W) on `size` pixels of the same field, by their spectrum; counts stay (unitary)."""
    before = waves.shape[-1]
    spectrum = scipy.fft.fft2(scipy.fft.ifftshift(waves, axes=(-2, -1)), norm="ortho")
    small = min(before, size)
    old, new = np.ix_(*[middle(before, small)] * 2), np.ix_(*[middle(size, small)] * 2)
    found = np.zeros((*waves.shape[:-2], size, size), np.complex64)
    found[..., new[0], new[1]] = spectrum[..., old[0], old[1]]
    return np.asarray(scipy.fft.fftshift(scipy.fft.ifft2(found, norm="ortho"), axes=(-2, -1)), np.complex64)


def coarser(problem: Problem, factor: int = 2) -> Problem:
    """Return the problem on object pixels `factor` times larger, begun at ``problem.start``.

    `problem` is one that :func:`can_be_coarser`.
    """
    size = problem.amplitudes.size
    small = size // factor
    kept = middle(size, small)
    amplitude = np.ascontiguousarray(problem.amplitudes.of(np.arange(len(problem)))[:, kept[:, None], kept[None]])
    corners = problem.start.corners / factor
    shape = tuple(int(-(-n // factor)) + 1 for n in problem.grid.shape)
    grid = ObjectGrid(
        (shape[0], shape[1]), problem.grid.corners / factor, problem.grid.origin, problem.grid.pixel_size * factor
    )
    obj = np.stack([_sampled(image, 1.0 / factor, shape) for image in problem.start.object])
    probe = resized(problem.start.probe, small)
    mean = float((np.where(amplitude == BAD_PIXEL, 0, amplitude) ** 2).sum(dtype=np.float64)) / len(amplitude)
    start = Model(obj, probe, corners)
    return replace(
        problem,
        amplitudes=MemoryAmplitudes(amplitude, corners),
        grid=grid,
        propagator=FarField(small),
        start=start,
        mean_counts=mean,
    )


def finer_probe(coarse: ComplexArray, start: ComplexArray) -> ComplexArray:
    """Return a coarse probe on the pixels of `start`; what it cannot hold, beyond its spectrum, is that of `start`."""
    beyond = start - resized(resized(start, coarse.shape[-1]), start.shape[-1])
    return np.asarray(resized(coarse, start.shape[-1]) + beyond, np.complex64)


def finer(problem: Problem, model: Model) -> Problem:
    """Return `problem` begun at the model of a coarser one."""
    factor = problem.amplitudes.size // model.probe.shape[-1]
    obj = np.stack([_sampled(image, float(factor), problem.grid.shape) for image in model.object])
    probe = finer_probe(model.probe, problem.start.probe)
    return replace(problem, start=replace(problem.start, object=obj, probe=probe, corners=model.corners * factor))


def _sampled(image: ComplexArray, scale: float, shape: tuple[int, ...]) -> ComplexArray:
    """Return an image (Y, X) with pixels ``1 / scale`` as large; pixel (0, 0) stays where it is."""
    smooth = image if scale >= 1 else scipy.ndimage.gaussian_filter(image, 0.5 / scale)
    parts = [
        scipy.ndimage.affine_transform(
            part.astype(np.float32), np.full(2, 1 / scale), output_shape=shape, order=1, mode="nearest"
        )
        for part in (smooth.real, smooth.imag)
    ]
    return np.asarray(parts[0] + 1j * parts[1], np.complex64)
