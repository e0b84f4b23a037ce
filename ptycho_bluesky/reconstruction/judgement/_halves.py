"""Two halves of a measurement, reconstructed apart: what both show is in the sample, what one shows is noise."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from pydantic import BaseModel, ValidationError

from ptycho_bluesky.errors import DatasetError, ReconstructionError
from ptycho_bluesky.experiment import Geometry, PtychoDataset, Reconstruction, hilbert_order
from ptycho_bluesky.reconstruction._reconstruct import reconstruct
from ptycho_bluesky.reconstruction.engines import ENGINES
from ptycho_bluesky.reconstruction.judgement._frc import RingCorrelation, fourier_ring_correlation

__all__ = ["HalfDataResult", "as_reconstructed", "half_data_frc", "half_data_sets", "made_with"]

LEAST_FRAMES = 32
"""A half of fewer than 16 frames seldom overlaps enough to be reconstructed."""


@dataclass(frozen=True)
class HalfDataResult:
    """Two reconstructions from independent data, and how they agree."""

    first: Reconstruction = field(repr=False)
    second: Reconstruction = field(repr=False)

    correlation: RingCorrelation
    """Of the two phases; its thresholds speak of the full data set (see :func:`half_data_frc`)."""

    @property
    def resolution(self) -> float:
        """Half-bit resolution of the full data set, metres (object pixels where no pixel size is known)."""
        return self.correlation.resolution


def half_data_sets(dataset: PtychoDataset, seed: int = 0) -> tuple[PtychoDataset, PtychoDataset]:
    """Divide the frames into two halves that both cover the field evenly, in memory.

    Of each two neighbours along the Hilbert curve one goes to either half, drawn by lot: both halves have the same
    density everywhere, and no lattice of the scan falls into one of them.

    Parameters
    ----------
    dataset:
        With at least 32 frames.
    seed:
        Of the lots; another seed gives another division.

    Raises
    ------
    DatasetError
        When the dataset has faults or too few frames.
    """
    dataset.validate()
    if len(dataset) < LEAST_FRAMES:
        raise DatasetError(
            f"dataset {dataset.name or '(unnamed)'} has {len(dataset)} frames; half data sets need at least "
            f"{LEAST_FRAMES}: measure more frames, or compare two whole measurements of the field"
        )
    order = hilbert_order(dataset.positions)
    lots = np.random.default_rng(seed).integers(0, 2, (len(order) + 1) // 2)
    to_second = np.empty(len(order), bool)
    to_second[order] = (np.arange(len(order)) + np.repeat(lots, 2)[: len(order)]) % 2 == 1
    return dataset.subset(~to_second), dataset.subset(to_second)


def made_with(result: Reconstruction) -> tuple[str, dict[str, Any]]:
    """Return engine and options of a result, to reconstruct other data alike; ``auto`` for one of a foreign engine."""
    return (result.engine, result.parameters) if result.engine in ENGINES else ("auto", {})


def as_reconstructed(dataset: PtychoDataset, result: Reconstruction) -> PtychoDataset:
    """Return `dataset` with the distance that its reconstruction `result` found (near field); else as it is.

    Raises
    ------
    ReconstructionError
        When the result's geometry cannot be understood.
    """
    geometry = result.provenance.get("geometry")
    if dataset.modality != "near-field" or geometry is None:
        return dataset
    try:
        used = Geometry.model_validate(geometry)
    except ValidationError as error:
        raise ReconstructionError(f"the result's geometry cannot be understood ({error}); reconstruct again") from None
    return replace(dataset, geometry=used, pixel_size_m=used.pixel_size_m(dataset.frame_shape[0]))


def half_data_frc(
    dataset: PtychoDataset,
    engine: str = "auto",
    options: BaseModel | Mapping[str, Any] | None = None,
    *,
    device: str = "cpu",
    seed: int = 0,
    max_seconds: float | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> HalfDataResult:
    """Reconstruct two halves of the data apart and correlate them ring by ring: the resolution that the data support.

    Each half has half the dose, so its own signal-to-noise ratio is half that of the full set. The half-bit threshold
    allows for that: it is crossed where the *full* set holds half a bit a pixel (SNR 0.414 there, 0.207 in a half:
    van Heel and Schatz, J. Struct. Biol. 151, 250 (2005)). So does 1/7: a correlation of 1/7 between halves is one of
    0.5 between the full set and the truth, ``sqrt(2 C / (1 + C))`` (Rosenthal and Henderson, J. Mol. Biol. 333, 721
    (2003)). No further factor is due. A half has half the overlap as well; where that, and not the dose, limits
    the halves, the full set is better than stated.

    Parameters
    ----------
    dataset:
        With at least 32 frames.
    engine, options, device, should_stop:
        As for :func:`reconstruct`; take those of the result that is judged (:func:`made_with`).
    seed:
        Of the division.
    max_seconds:
        For both halves together.

    Raises
    ------
    DatasetError, ReconstructionError
        When a half cannot be reconstructed, or the field is too small for a ring correlation.
    """
    limit = None if max_seconds is None else max_seconds / 2
    first, second = (
        reconstruct(half, engine, options, device=device, max_seconds=limit, should_stop=should_stop)
        for half in half_data_sets(dataset, seed)
    )
    return HalfDataResult(first, second, fourier_ring_correlation(first, second))
