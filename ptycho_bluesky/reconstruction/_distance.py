"""A near field's distance, found from the data: the one that explains some frames best."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from ptycho_bluesky.errors import ReconstructionError
from ptycho_bluesky.experiment import Geometry, PtychoDataset

__all__ = ["DistanceReport", "refined_distance"]

logger = logging.getLogger(__name__)

REACH = 1.35
"""Largest factor by which the distance given may be off."""

FRAMES = 128

GOLDEN = (np.sqrt(5) - 1) / 2


@dataclass(frozen=True)
class DistanceReport:
    """What a search for the distance found."""

    quantity: str
    """``focus_to_sample_m`` of a cone beam, ``distance_m`` of a parallel one."""

    given_m: float
    found_m: float
    r_factor_given: float
    r_factor_found: float

    def __str__(self) -> str:
        return (
            f"{self.quantity} refined from {self.given_m:.5g} to {self.found_m:.5g} m "
            f"(R-factor of a try {self.r_factor_given:.4f} -> {self.r_factor_found:.4f})"
        )


def _with(dataset: PtychoDataset, quantity: str, value_m: float) -> PtychoDataset:
    if dataset.geometry is None:
        raise ReconstructionError("a near field needs a geometry: energy_kev, distance_m, detector_pixel_m")
    values = {**dataset.geometry.model_dump(), quantity: value_m}
    geometry = Geometry.model_validate(values)
    return replace(dataset, geometry=geometry, pixel_size_m=geometry.pixel_size_m(dataset.frame_shape[0]))


def refined_distance(
    dataset: PtychoDataset, r_factor: Callable[[PtychoDataset], float], tolerance: float = 0.002
) -> tuple[PtychoDataset, DistanceReport]:
    """Return the dataset with the near-field distance that explains its frames best.

    A cone beam's distance from focus to sample, which sets magnification, object pixel and effective distance at once;
    a parallel beam's distance from sample to detector. Factors from ``1 / 1.35`` to 1.35 are tried, first coarsely
    and then by golden sections around the best one. A probe that the dataset holds belongs to the old distance and is
    left out.

    Parameters
    ----------
    dataset:
        Near field.
    r_factor:
        Reconstructs a dataset for some epochs and returns the R-factor.
    tolerance:
        Relative accuracy asked for.

    Raises
    ------
    ReconstructionError
        When the dataset is a far-field one: its distance is a scale of the positions, not a focus.
    """
    if dataset.modality != "near-field" or dataset.geometry is None:
        raise ReconstructionError(
            f"dataset {dataset.name or '(unnamed)'} is a {dataset.modality} one; only a near field's distance can be "
            "refined: a far-field one scales the positions, which position_correction and the command 'check' look at"
        )
    quantity = "distance_m" if dataset.geometry.focus_to_sample_m is None else "focus_to_sample_m"
    given = float(getattr(dataset.geometry, quantity))
    few = replace(dataset, probe=None)
    few = few.subset(np.linspace(0, len(few) - 1, min(len(few), FRAMES)).astype(np.int64))
    tried: dict[float, float] = {}

    def at(factor: float) -> float:
        if factor not in tried:
            tried[factor] = r_factor(_with(few, quantity, given * factor))
        return tried[factor]

    ladder = [float(f) for f in REACH ** np.linspace(-1, 1, 13)]
    best = min(ladder, key=at)
    place = ladder.index(best)
    low, high = ladder[max(place - 1, 0)], ladder[min(place + 1, len(ladder) - 1)]
    while high / low - 1 > tolerance:
        left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
        low, high = (low, right) if at(left) <= at(right) else (left, high)
    best = min(tried, key=tried.__getitem__)
    found = DistanceReport(quantity, given, given * best, at(1.0), tried[best])
    if best in (ladder[0], ladder[-1]):
        logger.warning("%s; that is the end of the range searched: check the distance given", found)
    return _with(replace(dataset, probe=None), quantity, given * best), found
