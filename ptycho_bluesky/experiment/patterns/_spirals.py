"""Patterns about a centre: the Fermat spiral and concentric circles."""

from __future__ import annotations

import numpy as np

from ptycho_bluesky.experiment.patterns._pattern import ScanPattern, few_enough, positive

__all__ = ["concentric", "fermat"]

GOLDEN_ANGLE_RAD = np.pi * (3 - np.sqrt(5))


def fermat(height_m: float, width_m: float, step_m: float) -> ScanPattern:
    """Return a Fermat spiral, cut to a box centred on 0: even overlap and no raster grid artefact.

    Huang et al., Optics Express 22, 12634 (2014), eq. 4: ``r = c sqrt(n)``, ``theta = n * golden angle``. The factor
    ``c`` is chosen such that a position has ``step_m`` squared of area to itself, as in a raster of that step.

    Parameters
    ----------
    height_m, width_m:
        Sides of the box, metres.
    step_m:
        Side of the square that each position has to itself, metres.
    """
    positive(height_m=height_m, width_m=width_m, step_m=step_m)
    c = step_m / np.sqrt(np.pi)
    few_enough("fermat", (np.hypot(height_m, width_m) / 2 / c) ** 2)  # of the circle that is cut to the box
    count = int(np.ceil((np.hypot(height_m, width_m) / 2 / c) ** 2)) + 1
    n = np.arange(count)
    r, theta = c * np.sqrt(n), n * GOLDEN_ANGLE_RAD
    positions = np.stack([r * np.sin(theta), r * np.cos(theta)], axis=1)
    inside = (np.abs(positions) <= np.array([height_m, width_m]) / 2 * (1 + 1e-12)).all(axis=1)
    return ScanPattern("fermat", positions[inside], {"height_m": height_m, "width_m": width_m, "step_m": step_m})


def concentric(diameter_m: float, step_m: float) -> ScanPattern:
    """Return circles about 0, from the middle outwards, without the symmetry of a raster; each circle is a fly line.

    Circles as in Dierolf et al., New J. Phys. 12, 035017 (2010); here neighbours on a circle are `step_m` apart.

    Parameters
    ----------
    diameter_m:
        Of the outermost circle that is allowed, metres.
    step_m:
        From circle to circle, and (within the rounding to whole positions) along a circle, metres.
    """
    positive(diameter_m=diameter_m, step_m=step_m)
    few_enough("concentric", np.pi * (diameter_m / 2 / step_m) ** 2)
    circles = int(np.floor(diameter_m / 2 / step_m + 1e-9))
    positions, lines = [np.zeros((1, 2))], [(0, 1)]
    for k in range(1, circles + 1):
        count = round(2 * np.pi * k)
        angle = 2 * np.pi * np.arange(count) / count
        positions.append(k * step_m * np.stack([np.sin(angle), np.cos(angle)], axis=1))
        lines.append((lines[-1][1], lines[-1][1] + count))
    parameters = {"diameter_m": diameter_m, "step_m": step_m}
    return ScanPattern("concentric", np.concatenate(positions), parameters, lines=tuple(lines))
