"""Thick objects: how a wave travels from one slice to the next."""

from __future__ import annotations

import numpy as np

from ptycho_bluesky.optics import NearField
from ptycho_bluesky.reconstruction._model import ComplexArray
from ptycho_bluesky.reconstruction._problem import Problem

__all__ = ["slice_transfer"]


def slice_transfer(problem: Problem) -> ComplexArray:
    """Return (H, W), what multiplies a wave's transform between two slices; (0, 0) for a thin object.

    Free space, as the near field has it: Maiden, Humphry and Rodenburg, JOSA A 29, 1606 (2012), eq. 3.
    """
    if problem.slice_distance_m is None or problem.wavelength_m is None:
        return np.empty((0, 0), np.complex64)
    size, pixel_m = problem.amplitudes.size, problem.grid.pixel_size
    return NearField(size, pixel_m, problem.wavelength_m, problem.slice_distance_m).transfer
