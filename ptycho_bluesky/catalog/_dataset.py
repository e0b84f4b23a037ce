"""A run in the catalogue as a PtychoDataset, by its ``ptychography`` block."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import numpy as np
import numpy.typing as npt

from ptycho_bluesky.catalog._frames import TiledFrames, stream_array
from ptycho_bluesky.errors import DatasetError, report
from ptycho_bluesky.experiment import POSITION_UNITS_M, PtychoDataset, PtychographyMetadata
from ptycho_bluesky.formats import FrameView
from ptycho_bluesky.optics import probe_from_info

__all__ = ["dataset_from_run"]


def _view(block: PtychographyMetadata, stored: tuple[int, int]) -> FrameView:
    """Return what is done to each frame: in the far field it is cut to the largest square around the beam."""
    view = FrameView(stored, block.orientation, block.zero_frequency == "corner")
    height, width = view.oriented
    far = block.geometry is None or block.geometry.modality == "far-field"
    centre = block.geometry.beam_center_px if block.geometry is not None and far else None
    if view.zero_frequency_in_corner or (centre is None and height == width):
        return view
    row, column = (height // 2, width // 2) if centre is None else (round(v) for v in view.place(centre))
    half = min(row, height - row, column, width - column)
    if half < 4:
        raise DatasetError(
            f"beam_center_px is {centre} on frames of {stored[0]} x {stored[1]} pixels: the square around it would "
            f"have {2 * max(half, 0)} pixels; it must lie 4 pixels or more inside, (row, column) as delivered"
        )
    return replace(view, window=(row - half, column - half, 2 * half))


def _rows(run: Any) -> npt.NDArray[np.int64] | None:
    """Return one row for each event, in order: a writer that had to try again may have appended rows twice."""
    if "seq_num" not in run["primary"]:
        return None
    numbers = np.asarray(stream_array(run, "seq_num").read()).reshape(-1)
    return np.asarray(np.unique(numbers, return_index=True)[1], dtype=np.int64)


def _positions(run: Any, block: PtychographyMetadata) -> npt.NDArray[np.float64]:
    columns = [np.asarray(stream_array(run, key).read(), np.float64).reshape(-1) for key in block.position_keys]
    if len(columns[0]) != len(columns[1]):
        columns = [c[: min(map(len, columns))] for c in columns]
    unit = 1.0 if block.position_unit == "px" else POSITION_UNITS_M[block.position_unit]
    return np.stack(columns, axis=1) * np.asarray(block.axis_signs, np.float64) * unit


def _declared_bad(uri: str, view: FrameView) -> npt.NDArray[np.bool_]:
    """Read the mask file; it has the shape of a frame as delivered."""
    parts = urlparse(uri)
    path = Path(unquote(parts.path))
    if parts.scheme != "file":
        raise DatasetError(f"mask_uri is {uri!r}; allowed is the file:// address of an .npy on this machine")
    try:
        delivered = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DatasetError(
            f"the mask cannot be read from {path}: {error}; mask_uri must name an .npy that this machine can see"
        ) from None
    if not isinstance(delivered, np.ndarray) or delivered.shape != view.stored:
        raise DatasetError(
            f"the mask in {path} has shape {getattr(delivered, 'shape', 'unknown')}, a frame as delivered "
            f"{view.stored}; they must agree. True = bad"
        )
    return np.ascontiguousarray(view.apply(delivered.astype(bool)))


def _mask(block: PtychographyMetadata, frames: TiledFrames, view: FrameView) -> npt.NDArray[np.bool_] | None:
    """Return True where a pixel is declared bad, or saturated in any frame."""
    mask = None if block.mask_uri is None else _declared_bad(block.mask_uri, view)
    if block.saturation is not None:
        saturated = np.zeros(frames.shape[1:], bool)
        for start in range(0, len(frames), 64):
            saturated |= (frames[start : start + 64] >= block.saturation).any(axis=0)
        if saturated.any():
            mask = saturated if mask is None else mask | saturated
    return mask


def dataset_from_run(run: Any) -> PtychoDataset:
    """Return the dataset of a run that :func:`ptycho_bluesky.plans.ptycho_scan` made, or that carries its block.

    Frames stay in Tiled and are read by slices. Orientation, zero frequency, units and signs are applied; frames are
    cut to the largest square around the beam's centre; saturated and masked pixels become the mask; the probe is read
    from its file or computed from its optics. A run that was aborted gives the frames that exist.

    Parameters
    ----------
    run:
        Tiled client of a run, e.g. ``client["raw"][uid]``.

    Returns
    -------
    PtychoDataset
        Frames (N, H, W), positions (N, 2) in metres, or in pixels where the block says so.

    Raises
    ------
    CatalogError
        When a stream or a data key is missing.
    DatasetError
        When the block is missing, or does not fit the data; the text names every fault.
    """
    start = dict(run.metadata["start"])
    uid = str(start["uid"])
    block = PtychographyMetadata.from_start(start)
    if faults := block.missing():
        raise DatasetError(report(f"'ptychography' block of run {uid[:8]}", faults))
    positions, rows = _positions(run, block), _rows(run)
    if rows is not None and len(rows) <= len(positions):
        positions = positions[rows]
    array = stream_array(run, block.frames_key)
    view = _view(block, TiledFrames(array).view.stored)
    count = int(array.shape[0])
    complete = (run.metadata.get("stop") or {}).get("exit_status") == "success"
    if complete and count != len(positions):
        raise DatasetError(
            f"run {uid[:8]} has {count} frames but {len(positions)} positions although it ended well; "
            f"frames_key {block.frames_key!r} and position_keys {list(block.position_keys)} must be of one stream"
        )

    count = min(count, len(positions))
    frames = TiledFrames(array, view, count)
    geometry = None if block.geometry is None else block.geometry.model_copy(update={"beam_center_px": None})
    size = view.shape[0]
    times = np.asarray(stream_array(run, "time").read(), np.float64).reshape(-1) if "time" in run["primary"] else None
    if times is not None and rows is not None and len(rows) <= len(times):
        times = times[rows]
    dataset = PtychoDataset(
        frames=frames,
        positions=positions[:count],
        geometry=geometry,
        modality="far-field" if geometry is None else geometry.modality,
        pixel_size_m=None if geometry is None else geometry.pixel_size_m(size),
        mask=_mask(block, frames, view),
        probe=None if block.probe is None else probe_from_info(block.probe, geometry, size),
        rotation_deg=block.rotation_deg,
        timestamps=None if times is None or len(times) < count else times[:count],
        name=uid,
        source={"kind": "tiled", "raw_uid": uid, "scan_id": start.get("scan_id"), "uri": str(run.uri)},
    )
    return dataset.validate()
