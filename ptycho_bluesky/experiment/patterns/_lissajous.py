"""A pattern without a corner: for stages that fly."""

from __future__ import annotations

import numpy as np

from ptycho_bluesky.experiment.patterns._pattern import ScanPattern, few_enough, positive

__all__ = ["lissajous"]


def lissajous(height_m: float, width_m: float, step_m: float) -> ScanPattern:
    """Return a Lissajous curve over a box centred on 0, in one fly line: both axes swing, none ever turns sharply.

    The degenerate curve ``(cos((n + 1) t), cos(n t))``, t from 0 to pi, which passes each place in two directions
    (Bos et al., J. Approx. Theory 143, 15 (2006): the curve that generates the Padua points), at equal steps of
    t. It is denser at the rim than in the middle: it takes some 3.5 times the positions of a raster of that step.

    Parameters
    ----------
    height_m, width_m:
        Sides of the box, metres.
    step_m:
        Largest distance of neighbours along the curve, metres; no place in the box is further from a position.
    """
    positive(height_m=height_m, width_m=width_m, step_m=step_m)
    # Unfolded by arccos the curve is a straight line whose parallels lie 2 pi / (sqrt(2) n) apart; times half a side.
    n = max(1, int(np.ceil(np.pi * max(height_m, width_m) / 2 / step_m)))
    fastest = np.hypot(height_m / 2 * (n + 1), width_m / 2 * n)
    few_enough("lissajous", np.pi * fastest / step_m)
    t = np.linspace(0, np.pi, int(np.ceil(np.pi * fastest / step_m)) + 1)
    positions = np.stack([height_m / 2 * np.cos((n + 1) * t), width_m / 2 * np.cos(n * t)], axis=1)
    parameters = {"height_m": height_m, "width_m": width_m, "step_m": step_m}
    return ScanPattern("lissajous", positions, parameters, lines=((0, len(positions)),))
