"""What the golden files hold, in this package's conventions."""

from __future__ import annotations

import numpy as np

COUNT, SIZE = 6, 16
ENERGY_KEV, DISTANCE, DETECTOR_PIXEL = 8.0, 2.0, 75e-6
WAVELENGTH = 12.398419843320026e-10 / ENERGY_KEV
PIXEL = WAVELENGTH * DISTANCE / (SIZE * DETECTOR_PIXEL)

_rng = np.random.default_rng(20)

OBJECT = np.exp(1j * _rng.integers(0, 8, (1, 30, 33)) / 8).astype(np.complex64)
CORNERS = np.array([[1, 2], [5, 14], [9, 11], [14, 0], [10, 17], [13, 8]])
"""Of each frame's patch in the object, (row, column)."""

ORIGIN = np.array([-3.0e-7, 4.0e-7])
POSITIONS = ORIGIN + CORNERS * PIXEL
"""Of the probe on the sample, (row, column) in metres."""

CENTER = ORIGIN + PIXEL * (np.array(OBJECT.shape[1:]) - SIZE) / 2
"""Of the object array, where positions are counted to the middle of patch and object."""

COHERENT = (_rng.integers(-4, 5, (2, 2, SIZE, SIZE)) + 1j * _rng.integers(-4, 5, (2, 2, SIZE, SIZE))).astype(
    np.complex64
)
"""Probe (coherent, incoherent, row, column)."""

WEIGHTS = np.column_stack([np.ones(COUNT), np.linspace(-0.5, 0.5, COUNT)])
"""Of the coherent modes in each frame's first mode."""

LOSSES = np.array([0.5, 0.25, 0.125])
FRAMES = _rng.poisson(3.0, (COUNT, SIZE, SIZE)).astype(np.uint16)
MASK = np.zeros((SIZE, SIZE), bool)
MASK[3, 4] = MASK[12, 9] = True
"""True on bad pixels."""
