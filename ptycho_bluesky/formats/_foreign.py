"""A result in another program's layout: what is common to all of them, and the one way from there to the house's.

The corner of a frame's patch in object pixels is what conventions must agree on: here ``(position - origin) / pixel``,
elsewhere positions count from the object's centre, or to the patch's centre.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from ptycho_bluesky.errors import FormatError, report
from ptycho_bluesky.experiment import HC_KEV_M, Geometry, Reconstruction, phase_contrast
from ptycho_bluesky.formats._fields import record

__all__ = [
    "FoundResult",
    "assemble_result",
    "coherent_of",
    "geometry_of",
    "layers_of",
    "photon_energy_kev",
    "variation_of",
]

CommonProbe = tuple[npt.NDArray[Any], npt.NDArray[np.complex64] | None, npt.NDArray[np.float32] | None]


@dataclass(frozen=True)
class FoundResult:
    """Content of a file, positions and origin already such that ``(position - origin) / pixel`` is the corner."""

    layout: str
    object: npt.NDArray[Any]
    probe: npt.NDArray[Any]
    positions: npt.NDArray[np.float64]
    origin: tuple[float, float]
    pixel_size_m: float
    errors: npt.NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    opr_modes: npt.NDArray[np.complex64] | None = None
    opr_weights: npt.NDArray[np.float32] | None = None
    energy_kev: float | None = None
    distance_m: float | None = None
    focus_to_sample_m: float | None = None
    modality: str = "far-field"
    notes: dict[str, Any] = field(default_factory=dict)


def assemble_result(path: Path, found: FoundResult, kept: Mapping[str, Any]) -> Reconstruction:
    """Return the reconstruction; `kept` are the fields that the file holds beside its layout.

    Where another program wrote the file, coverage and contrast are computed, ``errors`` are that program's own and
    ``r_factor`` is NaN, for there are no frames to compare with; ``provenance`` says so.

    Raises
    ------
    FormatError
        When shapes do not fit together or numbers are not finite; the text names every fault.
    """
    obj = np.asarray(found.object if found.object.ndim != 2 else found.object[None])
    probe = np.asarray(found.probe if found.probe.ndim != 2 else found.probe[None])
    if faults := _faults(found, obj, probe):
        raise FormatError(report(str(path), faults))
    values: dict[str, Any] = {
        "object": np.ascontiguousarray(obj, np.complex64),
        "probe": np.ascontiguousarray(probe, np.complex64),
        "positions": np.ascontiguousarray(found.positions, np.float64),
        "origin": found.origin,
        "pixel_size_m": found.pixel_size_m,
        "errors": np.asarray(found.errors, np.float64).ravel(),
        "opr_modes": found.opr_modes,
        "opr_weights": found.opr_weights,
        "coverage": None,
        "r_factor": np.nan,
        "phase_contrast_rad": np.nan,
        "engine": found.layout,
        "modality": found.modality,
        "provenance": _provenance(path, found),
    }
    values |= kept
    if values["coverage"] is None:
        values["coverage"] = _coverage(values)
    result = record(path, Reconstruction, {k: v for k, v in values.items() if v is not None})
    if "phase_contrast_rad" not in kept:
        object.__setattr__(result, "phase_contrast_rad", phase_contrast(result.phase))
    return result


def _faults(found: FoundResult, obj: npt.NDArray[Any], probe: npt.NDArray[Any]) -> list[str]:
    faults = []
    for name, array in (("object", obj), ("probe", probe)):
        if array.dtype.kind != "c" or array.ndim != 3 or not array.size:
            faults.append(f"{name} is {array.dtype} of shape {array.shape}; allowed is complex, 2 or 3 dimensions")
        elif not np.isfinite(array).all():
            faults.append(f"{name} has values that are not finite")
    if found.positions.ndim != 2 or found.positions.shape[1] != 2 or not len(found.positions):
        faults.append(f"positions have shape {found.positions.shape}; allowed is (N, 2) with at least one")
    elif not np.isfinite(found.positions).all():
        faults.append("positions have values that are not finite")
    if not np.isfinite([*found.origin, found.pixel_size_m]).all() or found.pixel_size_m <= 0:
        faults.append(f"the pixel size is {found.pixel_size_m}, the origin {found.origin}; allowed are finite numbers")
    if not faults and (obj.shape[1] < probe.shape[1] or obj.shape[2] < probe.shape[2]):
        faults.append(f"object is {obj.shape[1:]} but probe {probe.shape[1:]}; the probe must fit into the object")
    return faults


def _provenance(path: Path, found: FoundResult) -> dict[str, Any]:
    provenance: dict[str, Any] = {"imported_from": found.layout, "file": path.name, **found.notes}
    provenance["imported_errors"] = f"the loss that {found.layout} reported, no R-factor"
    geometry = {key: getattr(found, key) for key in ("energy_kev", "distance_m", "focus_to_sample_m")}
    known = {key: value for key, value in geometry.items() if value}
    if found.modality == "far-field":
        known.pop("focus_to_sample_m", None)  # a far field has none in this package
    if found.energy_kev and found.distance_m:
        known["detector_pixel_m"] = _detector_pixel(found, found.energy_kev, found.distance_m)
    return provenance | ({"geometry": known} if known else {})


def _detector_pixel(found: FoundResult, energy_kev: float, distance_m: float) -> float:
    """Return the detector's pixel, which layouts leave to be computed from the object's."""
    if found.modality == "near-field":
        z1 = found.focus_to_sample_m
        return found.pixel_size_m * (1.0 if z1 is None else (z1 + distance_m) / z1)
    return float(HC_KEV_M / energy_kev * distance_m / (found.probe.shape[-1] * found.pixel_size_m))


def _coverage(values: Mapping[str, Any]) -> npt.NDArray[np.float32]:
    """Return (Y, X), the probe's intensity summed over all positions, 1 at a well illuminated pixel."""
    (height, width), (h, w) = values["object"].shape[1:], values["probe"].shape[1:]
    corners = np.rint((values["positions"] - np.asarray(values["origin"])) / values["pixel_size_m"]).astype(np.int64)
    corners = np.clip(corners, 0, (height - h, width - w))
    intensity = (np.abs(values["probe"]) ** 2).sum(axis=0)
    total = np.zeros((height, width), np.float32)
    for y, x in corners:
        total[y : y + h, x : x + w] += intensity
    seen = total > 0.01 * total.max()
    return (
        np.asarray(np.minimum(total / max(np.percentile(total[seen], 90), 1e-30), 1), np.float32)
        if seen.any()
        else total
    )


def geometry_of(rec: Reconstruction) -> Geometry | None:
    """Return the geometry that ``provenance["geometry"]`` holds; None where it is not known, or not whole."""
    stored = rec.provenance.get("geometry")
    if not isinstance(stored, Mapping) or not {"energy_kev", "distance_m", "detector_pixel_m"} <= set(stored):
        return None
    try:
        return Geometry.model_validate({"modality": rec.modality, **stored})
    except ValidationError:
        return None


def layers_of(rec: Reconstruction) -> npt.NDArray[np.float64]:
    """Return the (slices - 1,) distances between slices in metres; 0 where they are not known."""
    gaps = len(rec.object) - 1
    known = rec.provenance.get("slice_distances_m", rec.parameters.get("slice_distance_m"))
    return np.broadcast_to(np.asarray(known or 0.0, np.float64), gaps).copy()


def photon_energy_kev(path: Path, energy_ev: float) -> float | None:
    """Return the photon energy from electronvolts; None where it is 0, as peers write what they do not know.

    Raises
    ------
    FormatError
        When these are no X-rays: keV stored as eV, or NaN.
    """
    if energy_ev == 0:
        return None
    if not 25 <= energy_ev <= 1e6:
        hint = f"; is it {energy_ev:g} keV? Multiply it by 1000" if 0.1 <= energy_ev < 25 else ""
        raise FormatError(f"{path}: the photon energy is {energy_ev:g}; allowed are eV, 25 to 1e6{hint}")
    return energy_ev / 1e3


def coherent_of(rec: Reconstruction) -> tuple[npt.NDArray[np.complex64], npt.NDArray[np.float64] | None]:
    """Return the probe as (coherent, incoherent, H, W) and (N, coherent) weights, as ptychodus and pty-chi have it.

    The first incoherent mode of frame k is ``sum_c weights[k, c] * probe[c, 0]``.
    """
    if rec.opr_modes is None or rec.opr_weights is None:
        return rec.probe[None], None
    probe = np.zeros((1 + len(rec.opr_modes), *rec.probe.shape), np.complex64)
    probe[0], probe[1:, 0] = rec.probe, rec.opr_modes
    ones = np.ones((len(rec.opr_weights), 1))
    return probe, np.concatenate([ones, rec.opr_weights], axis=1, dtype=np.float64)


def variation_of(path: Path, probe: npt.NDArray[Any], weights: npt.NDArray[Any] | None, count: int) -> CommonProbe:
    """Return (modes, H, W), OPR modes and weights: the inverse of :func:`coherent_of`, exact for any weights.

    Raises
    ------
    FormatError
        When the shapes do not fit together.
    """
    if probe.ndim != 4:
        return probe, None, None
    if weights is None or len(probe) == 1:
        return probe[0], None, None
    if weights.shape != (count, len(probe)):
        raise FormatError(
            f"{path}: OPR weights have shape {weights.shape}; allowed is ({count}, {len(probe)}): a row a position, a "
            "column a coherent mode"
        )
    main = np.array(probe[0])
    if np.ptp(weights[:, 0]) == 0:  # the usual case: the first mode is steady, the others vary
        main[0] = weights[0, 0] * probe[0, 0]
        modes, moving = probe[1:, 0], weights[:, 1:]
    else:  # what does not change from frame to frame is the probe, what does its variation
        mean = weights.mean(axis=0)
        main[0] = np.tensordot(mean, probe[:, 0], axes=1)
        modes, moving = probe[:, 0], weights - mean
    return main, np.ascontiguousarray(modes, np.complex64), np.ascontiguousarray(moving, np.float32)
