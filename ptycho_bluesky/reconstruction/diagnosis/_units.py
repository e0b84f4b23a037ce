"""What the positions alone tell, beside the pixel and the probe: a wrong unit, no overlap, no motion."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from ptycho_bluesky.experiment import PtychoDataset
from ptycho_bluesky.optics import probe_diameter_m
from ptycho_bluesky.reconstruction.diagnosis._finding import DatasetFinding

__all__ = ["position_findings"]

UNITS = {1e-3: "millimetres", 1e-6: "micrometres", 1e-9: "nanometres"}

SHORTEST_STEP_PX = 0.3
"""Object pixels; a scan with shorter steps would see nothing new from frame to frame."""


def position_findings(dataset: PtychoDataset) -> list[DatasetFinding]:
    """Return what is wrong with the lengths of a valid dataset; no frame is read."""
    places = np.unique(dataset.positions, axis=0)
    if len(dataset) < 2:
        return []
    if len(places) < 2:
        text = "all frames have the same position, so nothing overlaps with anything else: give the positions measured"
        return [DatasetFinding("positions", "warning", text)]
    pixel, size = dataset.pixel_size_m or 1.0, dataset.frame_shape[0]
    step = float(np.median(np.asarray(cKDTree(places).query(places, k=2)[0])[:, 1])) / pixel
    unit = "object pixels" if dataset.pixel_size_m is None else f"object pixels of {pixel:.3g} m"
    seen = f"neighbouring positions are {step:.3g} {unit} apart and a frame's patch is {size} wide"
    if step > size / 2:
        return [_too_far(dataset, step, seen)]
    extent = float(np.ptp(places, axis=0).max()) / pixel
    if extent < 1 or step < 0.01:
        return [_too_close(dataset, step, seen)]
    if dataset.probe is not None and step > (width := probe_diameter_m(dataset.probe, 1.0)):
        text = (
            f"neighbouring positions are {step:.3g} {unit} apart but the probe is only {width:.3g} wide, so that "
            "neighbours hardly overlap: check pixel, positions and probe, or scan with shorter steps"
        )
        return [DatasetFinding("overlap", "warning", text)]
    return []


def _plausible(step: float, size: int) -> bool:
    return SHORTEST_STEP_PX <= step <= size / 3


def _too_far(dataset: PtychoDataset, step: float, seen: str) -> DatasetFinding:
    size = dataset.frame_shape[0]
    for factor, name in UNITS.items():
        if _plausible(step * factor, size):
            taken = "object pixels" if dataset.pixel_size_m is None else "metres"
            text = f"{seen}: the positions look like {name} taken for {taken}; multiply them by {factor:g}"
            if dataset.pixel_size_m is None:
                text = (
                    f"{seen}: the positions are no object pixels; give them in metres, with energy_kev, distance_m and "
                    "detector_pixel_m"
                )
            return DatasetFinding("unit", "error", text)
    near = ", or whether this is a near field (focus_to_sample_m, modality='near-field')"
    text = (
        f"{seen}, so that neighbours hardly overlap: check the unit of the positions, energy, distance and detector "
        f"pixel{near if dataset.modality == 'far-field' else ' and focus_to_sample_m'}"
    )
    return DatasetFinding("overlap", "error", text)


def _too_close(dataset: PtychoDataset, step: float, seen: str) -> DatasetFinding:
    if dataset.pixel_size_m is None:
        text = (
            f"{seen}: the positions look like metres or micrometres taken for object pixels; give energy_kev, "
            "distance_m and detector_pixel_m, with positions in metres"
        )
        return DatasetFinding("unit", "error", text)
    for factor in (1 / factor for factor in UNITS):
        if _plausible(step * factor, dataset.frame_shape[0]):
            text = (
                f"{seen}: the positions are about {factor:g} times too small, such as converted twice, or the pixel as "
                "much too large: check the unit of positions, distance_m and detector_pixel_m"
            )
            return DatasetFinding("unit", "error", text)
    text = f"{seen}: the sample hardly moves; check the unit of the positions, energy, distance and detector pixel"
    return DatasetFinding("unit", "error", text)
