"""The kernel set for CPUs: fused passes over one frame, which stays in the second-level cache (numba, pocketfft).

Each function works on one frame and its M probe modes; :func:`sweep` strings them together without coming back to
Python and without the GIL, so that plain threads scale. The transform is pocketfft by way of rocket-fft (BSD), the
one place to put a faster one is :func:`to_detector` and :func:`to_sample`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numpy as np
from rocket_fft import c2c

__all__ = ["evaluate", "exit_waves", "illuminate", "project", "shift", "sweep", "to_detector", "to_sample", "update"]

_F = TypeVar("_F", bound=Callable[..., Any])

f32: Any = np.float32
SAFE_FASTMATH = {"contract", "reassoc", "nsz", "arcp"}  # NaN must stay NaN: the divergence guard looks for it
jit: Callable[[_F], _F] = numba.njit(nogil=True, cache=True, error_model="numpy", fastmath=SAFE_FASTMATH)


@jit
def exit_waves(obj: Any, probe: Any, y: int, x: int, waves: Any) -> None:
    """Write ``probe[m] * patch`` of the patch at (y, x) to waves (M, H, W)."""
    for m in range(probe.shape[0]):
        for i in range(probe.shape[1]):
            o, p, w = obj[y + i, x : x + probe.shape[2]], probe[m, i], waves[m, i]
            for j in range(probe.shape[2]):
                w[j] = p[j] * o[j]


@jit
def _multiply(waves: Any, transfer: Any, conjugate: bool) -> None:
    sign = f32(-1) if conjugate else f32(1)
    for m in range(waves.shape[0]):
        for i in range(transfer.shape[0]):
            for j in range(transfer.shape[1]):
                t = transfer[i, j]
                waves[m, i, j] *= complex(t.real, sign * t.imag)


@jit
def to_detector(waves: Any, axes: Any, transfer: Any) -> None:
    """Propagate in place, without the far field's ``1 / n``; an empty transfer (0, 0) means the far field."""
    c2c(waves, waves, axes, True, f32(1), 1)
    if transfer.shape[0]:
        _multiply(waves, transfer, False)
        c2c(waves, waves, axes, False, f32(1) / f32(transfer.shape[0] * transfer.shape[1]), 1)


@jit
def to_sample(waves: Any, axes: Any, transfer: Any) -> None:
    """Propagate back in place; the adjoint of :func:`to_detector`, in the near field its inverse."""
    if transfer.shape[0]:
        c2c(waves, waves, axes, True, f32(1), 1)
        _multiply(waves, transfer, True)
        c2c(waves, waves, axes, False, f32(1) / f32(transfer.shape[0] * transfer.shape[1]), 1)
    else:
        c2c(waves, waves, axes, False, f32(1), 1)


@jit
def project(waves: Any, amplitude: Any, scale: Any) -> Any:
    """Replace the modulus over the modes by the measured one, in place; return ``sum | modulus - amplitude |``.

    A negative amplitude marks a bad pixel: the model's value stays, and counts for no error. `scale` makes the
    transform unitary; it is applied twice, for the way here and the way back.
    """
    error: Any = 0.0
    line = np.empty(amplitude.shape[1], np.float32)  # modes outside, pixels inside: the loops become SIMD
    for i in range(amplitude.shape[0]):
        line[:] = f32(0)
        for m in range(waves.shape[0]):
            for j in range(line.shape[0]):
                v = waves[m, i, j]
                line[j] += v.real * v.real + v.imag * v.imag
        row = f32(0)
        for j in range(line.shape[0]):
            modulus = np.sqrt(line[j]) * scale
            measured = amplitude[i, j]
            bad = measured < f32(0)
            row += f32(0) if bad else abs(modulus - measured)
            ratio = f32(1) if bad else measured / (modulus + f32(1e-6))
            line[j] = ratio * scale * scale
        for m in range(waves.shape[0]):
            for j in range(line.shape[0]):
                v = waves[m, i, j]
                waves[m, i, j] = complex(v.real * line[j], v.imag * line[j])
        error += row
    return error


@jit
def update(
    obj: Any,
    probe: Any,
    y: int,
    x: int,
    waves: Any,
    probe_max: Any,
    alpha_object: Any,
    alpha_probe: Any,
    step_object: Any,
    step_probe: Any,
) -> Any:
    """Move object and probe towards the projected waves; return the new ``max sum |probe|**2``.

    rPIE: Maiden, Johnson and Li, Optica 4, 736 (2017), eq. 19; with modes: Thibault and Menzel, Nature 494, 68
    (2013). The exit wave is computed anew, which is cheaper than to keep it; `waves` holds the difference afterwards.
    """
    width = probe.shape[2]
    weight, old2, new2 = np.empty(width, np.float32), np.empty(width, np.float32), np.zeros(width, np.float32)
    power, real, imag = np.empty(width, np.float32), np.empty(width, np.float32), np.empty(width, np.float32)
    for i in range(probe.shape[1]):
        o = obj[y + i, x : x + width]  # whole lines, few arrays a loop: else LLVM gives up on SIMD
        for j in range(width):
            o2 = o[j].real * o[j].real + o[j].imag * o[j].imag
            weight[j] = step_probe / max((f32(1) - alpha_probe) * o2 + alpha_probe, o2)
            old2[j] = power[j] = real[j] = imag[j] = f32(0)
        for m in range(probe.shape[0]):
            p, w = probe[m, i], waves[m, i]
            for j in range(width):
                w[j] -= p[j] * o[j]
            for j in range(width):
                old2[j] += p[j].real * p[j].real + p[j].imag * p[j].imag
                real[j] += p[j].real * w[j].real + p[j].imag * w[j].imag
                imag[j] += p[j].real * w[j].imag - p[j].imag * w[j].real
            for j in range(width):
                qr = p[j].real + weight[j] * (o[j].real * w[j].real + o[j].imag * w[j].imag)
                qi = p[j].imag + weight[j] * (o[j].real * w[j].imag - o[j].imag * w[j].real)
                p[j] = complex(qr, qi)
                power[j] += qr * qr + qi * qi
        for j in range(width):
            p2 = old2[j]
            s = step_object / max((f32(1) - alpha_object) * p2 + alpha_object * probe_max, p2 + f32(1e-30))
            o[j] = complex(o[j].real + real[j] * s, o[j].imag + imag[j] * s)
        for j in range(width):
            new2[j] = max(new2[j], power[j])
    return new2.max()


@jit
def shift(obj: Any, probe: Any, y: int, x: int, waves: Any, found: Any) -> None:
    """Write to found (2,) by how many pixels the corner should move to explain the projected waves better.

    The least-squares solution of ``wave - P O = s_y P dO/dy + s_x P dO/dx`` (Odstrcil, Menzel and Guizar-Sicairos,
    Optics Express 26, 3108 (2018), eq. 28, both axes together).
    """
    height, width = probe.shape[1], probe.shape[2]
    yy, xx, yx, by, bx = f32(0), f32(0), f32(0), f32(0), f32(0)
    for i in range(height):
        up, here, down = obj[max(y + i - 1, 0)], obj[y + i], obj[min(y + i + 1, obj.shape[0] - 1)]
        for j in range(width):
            left, right = max(x + j - 1, 0), min(x + j + 1, obj.shape[1] - 1)
            o = here[x + j]
            gy, gx = (down[x + j] - up[x + j]) * f32(0.5), (here[right] - here[left]) * f32(0.5)
            power, cross = f32(0), complex(f32(0), f32(0))
            for m in range(probe.shape[0]):
                p = probe[m, i, j]
                power += p.real * p.real + p.imag * p.imag
                cross += p.conjugate() * (waves[m, i, j] - p * o)
            yy += power * (gy.real * gy.real + gy.imag * gy.imag)
            xx += power * (gx.real * gx.real + gx.imag * gx.imag)
            yx += power * (gy.real * gx.real + gy.imag * gx.imag)
            by += gy.real * cross.real + gy.imag * cross.imag
            bx += gx.real * cross.real + gx.imag * cross.imag
    det = yy * xx - yx * yx
    safe = det > f32(1e-6) * yy * xx
    found[0] = (xx * by - yx * bx) / det if safe else 0.0
    found[1] = (yy * bx - yx * by) / det if safe else 0.0


@jit
def illuminate(intensity: Any, corners: Any, weight: Any) -> None:
    """Add intensity (H, W) to weight (Y, X) at each of corners (n, 2)."""
    for k in range(corners.shape[0]):
        y, x = corners[k, 0], corners[k, 1]
        for i in range(intensity.shape[0]):
            for j in range(intensity.shape[1]):
                weight[y + i, x + j] += intensity[i, j]


@jit
def _peak(probe: Any) -> Any:
    largest = f32(0)
    for i in range(probe.shape[1]):
        for j in range(probe.shape[2]):
            power = f32(0)
            for m in range(probe.shape[0]):
                v = probe[m, i, j]
                power += v.real * v.real + v.imag * v.imag
            largest = max(largest, power)
    return largest


@jit
def sweep(
    rows: Any,
    corners: Any,
    groups: Any,
    amplitude: Any,
    obj: Any,
    probes: Any,
    waves: Any,
    axes: Any,
    transfer: Any,
    alpha_object: Any,
    alpha_probe: Any,
    step_object: Any,
    step_probe: Any,
    shifts: Any,
) -> Any:
    """Visit frames one after the other; update obj (Y, X) and probes (groups, M, H, W) in place.

    Frame k has amplitude ``amplitude[rows[k]]``, corner ``corners[k]`` and probe ``probes[groups[k]]``; shifts (n, 2)
    takes what :func:`shift` finds, unless it is empty (0, 2). Returns the summed error, as seen by each frame just
    before it moved anything.
    """
    scale = f32(1) if transfer.shape[0] else f32(1) / f32(amplitude.shape[1])
    peaks = np.empty(probes.shape[0], np.float32)
    for c in range(probes.shape[0]):
        peaks[c] = _peak(probes[c])
    error = 0.0
    for k in range(rows.shape[0]):
        y, x, c = corners[k, 0], corners[k, 1], groups[k]
        exit_waves(obj, probes[c], y, x, waves)
        to_detector(waves, axes, transfer)
        error += project(waves, amplitude[rows[k]], scale)
        to_sample(waves, axes, transfer)
        if shifts.shape[0]:
            shift(obj, probes[c], y, x, waves, shifts[k])
        peaks[c] = update(obj, probes[c], y, x, waves, peaks[c], alpha_object, alpha_probe, step_object, step_probe)
    return error


@jit
def evaluate(
    rows: Any,
    corners: Any,
    groups: Any,
    amplitude: Any,
    obj: Any,
    probes: Any,
    waves: Any,
    axes: Any,
    transfer: Any,
    factor: Any,
) -> tuple[float, float, float]:
    """Return ``sum |factor m - a|``, ``sum m a`` and ``sum m m`` over the good pixels of the frames of `rows`."""
    scale = f32(1) if transfer.shape[0] else f32(1) / f32(amplitude.shape[1])
    absolute, cross, power = 0.0, 0.0, 0.0
    for k in range(rows.shape[0]):
        exit_waves(obj, probes[groups[k]], corners[k, 0], corners[k, 1], waves)
        to_detector(waves, axes, transfer)
        for i in range(amplitude.shape[1]):
            row_absolute, row_cross, row_power = f32(0), f32(0), f32(0)
            for j in range(amplitude.shape[2]):
                measured = amplitude[rows[k], i, j]
                if measured < f32(0):
                    continue
                modulus = f32(0)
                for m in range(waves.shape[0]):
                    v = waves[m, i, j]
                    modulus += v.real * v.real + v.imag * v.imag
                modulus = np.sqrt(modulus) * scale
                row_absolute += abs(factor * modulus - measured)
                row_cross += modulus * measured
                row_power += modulus * modulus
            absolute += row_absolute
            cross += row_cross
            power += row_power
    return absolute, cross, power
