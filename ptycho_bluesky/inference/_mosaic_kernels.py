"""The mosaic's inner loops: a patch moved by part of a pixel, matched with what is there, and added."""

from __future__ import annotations

import math

import numba
import numpy as np

__all__ = ["LAYERS", "add_patch", "shift_patch"]

LAYERS = 6
"""Of a canvas: real part, imaginary part, weight, residual times weight, number of the island, confidence times
weight."""

ISLANDS = 16
FAST = {"reassoc", "contract", "nsz", "arcp"}  # lets sums vectorise; NaN keeps its meaning
ENOUGH = 0.3
"""Share of a patch's weight that must lie on what is there before the two are compared."""


@numba.njit(cache=True, fastmath=FAST)
def _weights(t):  # type: ignore[no-untyped-def]
    """Weights of four samples at -1, 0, 1, 2 for a place t between the two in the middle (Keys 1981, a = -1/2)."""
    a = 0.5 * t * ((2 - t) * t - 1)
    d = 0.5 * t * t * (t - 1)
    b = 0.5 * (t * t * (3 * t - 5) + 2)
    return np.float32(a), np.float32(b), np.float32(1 - a - b - d), np.float32(d)


@numba.njit(cache=True, fastmath=FAST)
def shift_patch(patch, fy, fx, out):  # type: ignore[no-untyped-def]
    """Fill `out` (3, h+1, w+1) with `patch` (3, h+4, w+4), bordered by two zeros, moved down and right by (fy, fx).

    Cubic convolution: bilinear interpolation blurs fine structures by half a pixel.
    """
    a, b, c, d = _weights(1 - fy)
    e, f, g, h = _weights(1 - fx)
    row = np.empty(patch.shape[2], np.float32)
    for k in range(3):
        for i in range(out.shape[1]):
            for j in range(patch.shape[2]):
                row[j] = a * patch[k, i, j] + b * patch[k, i + 1, j] + c * patch[k, i + 2, j] + d * patch[k, i + 3, j]
            for j in range(out.shape[2]):
                out[k, i, j] = e * row[j] + f * row[j + 1] + g * row[j + 2] + h * row[j + 3]
    for i in range(out.shape[1]):
        for j in range(out.shape[2]):
            out[2, i, j] = max(out[2, i, j], np.float32(0))


@numba.njit(cache=True, fastmath=FAST)
def add_patch(canvas, moved, i0, j0, residual, confidence, min_overlap, fresh):  # type: ignore[no-untyped-def]
    """Add a moved patch to `canvas` (LAYERS, Y, X) at (i0, j0), turned to agree with what lies there already.

    The fifth layer numbers islands: areas whose phases have been matched. A patch that overlaps several joins them to
    the oldest.

    Returns
    -------
    (bool, bool, float, float)
        Whether the patch began a new island, `fresh`; whether islands were joined; then, where enough of one island
        lies below it, how much patch M and mosaic P differ, ``1 - |sum conj(M) P| / sum |M P|``, and how much each
        varies by itself in the same light, ``1 - |sum |M| P| / sum |M P|``, the mean of both. Elsewhere 0 and 0.
    """
    _, h, w = moved.shape
    names, sums = np.zeros(ISLANDS), np.zeros((ISLANDS, 3))  # of each island: Re, Im of sum conj(M) P; shared weight
    own_re = own_im = whole = re = im = shared = np.float32(0)
    both = there_re = there_im = here_re = here_im = np.float32(0)
    low, high = np.float32(np.inf), np.float32(0)
    for i in range(h):
        for j in range(w):
            p, q, v = moved[0, i, j], moved[1, i, j], moved[2, i, j]
            s, t, name = canvas[0, i0 + i, j0 + j], canvas[1, i0 + i, j0 + j], canvas[4, i0 + i, j0 + j]
            own_re += p
            own_im += q
            whole += v
            re += s * p + t * q
            im += s * q - t * p
            shared += min(v, canvas[2, i0 + i, j0 + j])
            here, there = math.sqrt(p * p + q * q), math.sqrt(s * s + t * t)
            both += here * there
            here_re += there * p
            here_im += there * q
            there_re += here * s
            there_im += here * t
            high = max(high, name)
            low = min(low, name if name > 0 else np.float32(np.inf))
    names[0], sums[0, 0], sums[0, 1], sums[0, 2] = high, re, im, shared
    difference, contrast = 0.0, 0.0
    if high > low:
        _by_island(canvas, moved, i0, j0, names, sums)
    elif both > 0 and shared > ENOUGH * whole:
        difference = float(1 - math.hypot(re, im) / both)
        contrast = float(1 - 0.5 * (math.hypot(here_re, here_im) + math.hypot(there_re, there_im)) / both)
    home = -1
    for k in range(ISLANDS):
        if sums[k, 2] >= min_overlap * whole and sums[k, 2] > 0 and (home < 0 or names[k] < names[home]):
            home = k
    label, angle, joined = fresh, math.atan2(own_im, own_re), False  # alone: its own mean becomes phase 0
    if home >= 0:
        label, angle = names[home], math.atan2(sums[home, 1], sums[home, 0])
        for k in range(ISLANDS):
            if k != home and names[k] > 0 and sums[k, 2] >= min_overlap * whole:
                turn = math.atan2(sums[k, 1], sums[k, 0]) - angle
                _turn(canvas, names[k], label, math.cos(turn), math.sin(turn))
                joined = True
    cosine, sine = math.cos(angle), math.sin(angle)
    for i in range(h):
        for j in range(w):
            p, q, v = moved[0, i, j], moved[1, i, j], moved[2, i, j]
            canvas[0, i0 + i, j0 + j] += cosine * p + sine * q
            canvas[1, i0 + i, j0 + j] += cosine * q - sine * p
            canvas[2, i0 + i, j0 + j] += v
            canvas[3, i0 + i, j0 + j] += residual * v
            canvas[5, i0 + i, j0 + j] += confidence * v
            name = canvas[4, i0 + i, j0 + j]
            canvas[4, i0 + i, j0 + j] = label if name == 0 and v > 0 else name
    return home < 0, joined, difference, contrast


@numba.njit(cache=True, fastmath=FAST)
def _by_island(canvas, moved, i0, j0, names, sums):  # type: ignore[no-untyped-def]
    """Sum as :func:`add_patch` does, but for each island under the patch by itself."""
    names[:], sums[:] = 0, 0
    k, known = 0, np.float32(0)
    for i in range(moved.shape[1]):
        for j in range(moved.shape[2]):
            p, q, v = moved[0, i, j], moved[1, i, j], moved[2, i, j]
            name = canvas[4, i0 + i, j0 + j]
            if name > 0 and v > 0:
                if name != known:
                    k, known = 0, name
                    while k < ISLANDS - 1 and names[k] > 0 and names[k] != name:
                        k += 1
                    names[k] = name
                s, t = canvas[0, i0 + i, j0 + j], canvas[1, i0 + i, j0 + j]
                sums[k, 0] += s * p + t * q
                sums[k, 1] += s * q - t * p
                sums[k, 2] += min(v, canvas[2, i0 + i, j0 + j])


@numba.njit(cache=True, fastmath=FAST)
def _turn(canvas, name, label, cosine, sine):  # type: ignore[no-untyped-def]
    """Turn the island `name` by an angle and give it the number `label`."""
    for i in range(canvas.shape[1]):
        for j in range(canvas.shape[2]):
            if canvas[4, i, j] == name:
                s, t = canvas[0, i, j], canvas[1, i, j]
                canvas[0, i, j] = cosine * s - sine * t
                canvas[1, i, j] = sine * s + cosine * t
                canvas[4, i, j] = label
