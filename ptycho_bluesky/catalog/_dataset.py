"""A run in the catalogue, and those that continue it, as a PtychoDataset, by the ``ptychography`` block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote, urlparse

import numpy as np
import numpy.typing as npt

from ptycho_bluesky.catalog._amendments import amendments_of
from ptycho_bluesky.catalog._continued import continued
from ptycho_bluesky.catalog._events import Events
from ptycho_bluesky.catalog._frames import TiledFrames, stream_array
from ptycho_bluesky.catalog._mapping import block_from, mapping_from
from ptycho_bluesky.errors import DatasetError, report
from ptycho_bluesky.experiment import POSITION_UNITS_M, PtychoDataset, PtychographyMetadata
from ptycho_bluesky.formats import FrameView, JoinedFrames
from ptycho_bluesky.optics import probe_from_info

__all__ = ["block_of", "dataset_from_run", "dataset_from_runs", "measured"]


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


def _positions(events: Events, block: PtychographyMetadata) -> npt.NDArray[np.float64]:
    """Return (N, 2) positions, metres or pixels, one for each event of the frames, or each frame of an event."""
    stream = block.positions_stream or block.frames_stream
    columns = [np.asarray(events.column(key, stream), np.float64).reshape(-1) for key in block.position_keys]
    if stream != block.frames_stream:
        wanted, known = events.column("time", block.frames_stream), events.column("time", stream)
        if wanted is None or known is None or wanted.min() < known.min() or wanted.max() > known.max():
            raise DatasetError(
                f"positions in stream {stream!r} do not cover the time of all frames in {block.frames_stream!r}; "
                "they are taken by time: monitor them from before the first frame until after the last"
            )
        columns = [np.interp(wanted, known, column) for column in columns]
    count = min(map(len, columns))
    unit = 1.0 if block.position_unit == "px" else POSITION_UNITS_M[block.position_unit]
    placed = np.stack([c[:count] for c in columns], axis=1) * np.asarray(block.axis_signs, np.float64) * unit
    return np.asarray(placed + np.asarray(block.position_offset_m))


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


def _mask(
    block: PtychographyMetadata, frames: TiledFrames | JoinedFrames, view: FrameView
) -> npt.NDArray[np.bool_] | None:
    """Return True where a pixel is declared bad, or saturated in any frame."""
    mask = None if block.mask_uri is None else _declared_bad(block.mask_uri, view)
    if block.saturation is not None:
        saturated = np.zeros(frames.shape[1:], bool)
        for start in range(0, len(frames), 64):
            saturated |= (np.asarray(frames[start : start + 64]) >= block.saturation).any(axis=0)
        if saturated.any():
            mask = saturated if mask is None else mask | saturated
    return mask


def measured(run: Any, block: PtychographyMetadata) -> tuple[npt.NDArray[np.float64], int]:
    """Return (N, 2) positions, (row, column), and the number of frames of one run; `block` are its metadata.

    Raises
    ------
    DatasetError
        When the run ended well and the numbers differ.
    """
    piece = piece_of(run, block)
    return piece.positions, piece.count


def dataset_from_run(run: Any, mapping: Path | str | Mapping[str, Any] | None = None) -> PtychoDataset:
    """Return the dataset of a run: of our own plans, of somebody's with an amendment, or with a mapping.

    Frames stay in Tiled and are read by slices. Orientation, zero frequency, units and signs are applied; frames are
    cut to the largest square around the beam's centre; saturated and masked pixels become the mask; the probe is read
    from its file or computed from its optics. A run that was aborted gives the frames that exist, and those of the
    runs that continue it.

    Parameters
    ----------
    run:
        Tiled client of a run, e.g. ``client["raw"][uid]``.
    mapping:
        TOML file with a table ``[ptychography]``, or its contents, applied after the amendments that are stored; see
        :func:`amend_run`.

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
    return dataset_with(run, block_of(run, mapping), alone=mapping is not None)


def dataset_with(run: Any, block: PtychographyMetadata, *, alone: bool) -> PtychoDataset:
    """Return the dataset of a run by `block`, and, unless `alone`, of those that continue it."""
    pieces = pieces_with(run, block, alone=alone)
    return joined(run, block, [piece for piece in pieces if piece.count] or pieces[:1]).validate()


def pieces_with(run: Any, block: PtychographyMetadata, *, alone: bool) -> list[Piece]:
    """Return what a run, and those that continue it, give to a dataset, in the order of their positions.

    Raises
    ------
    CatalogError, DatasetError
        As for :func:`dataset_from_run`.
    """
    if faults := block.missing():
        raise DatasetError(report(f"'ptychography' block of run {str(run.metadata['start']['uid'])[:8]}", faults))
    family = [run] if alone else continued(run)
    blocks = [(member, block if member is run else block_of(member)) for member in family]
    begun = blocks
    if len(blocks) > 1:
        begun = [(member, own) for member, own in blocks if own.frames_stream in member] or [(run, block)]
    pieces = [piece_of(member, own) for member, own in begun]
    ends = [*(piece.first for piece in pieces[1:]), None]
    for piece, end in zip(pieces, ends, strict=True):
        if end is not None:
            piece.count = max(0, min(piece.count, end - piece.first))
    return pieces


def dataset_from_runs(runs: Sequence[Any]) -> PtychoDataset:
    """Return one dataset of several runs of one sample in one state: the tiles of a mosaic.

    Parameters
    ----------
    runs:
        Tiled clients, e.g. ``client["raw"].search(CampaignRuns(uid)).values()``; each with its ``position_offset_m``.

    Raises
    ------
    DatasetError
        When there is none, or they differ in geometry, orientation or frames; and as for :func:`dataset_from_run`.
    """
    members = sorted(runs, key=lambda run: float(run.metadata["start"].get("time", 0.0)))
    if not members:
        raise DatasetError("there is no run to make a dataset of; give at least one")
    blocks = [block_of(run) for run in members]
    first, faults = blocks[0], []
    for run, block in zip(members, blocks, strict=True):
        uid = str(run.metadata["start"]["uid"])[:8]
        faults += [f"run {uid}: {fault}" for fault in block.missing()]
        for name in ("geometry", "orientation", "position_unit", "zero_frequency", "mask_uri", "rotation_deg"):
            if getattr(block, name) != getattr(first, name):
                faults.append(f"run {uid} has {name} {getattr(block, name)}, the first {getattr(first, name)}")
    if faults:
        raise DatasetError(report("runs that do not join", faults))
    pieces = [piece_of(run, block) for run, block in zip(members, blocks, strict=True)]
    dataset = joined(members[0], first, [piece for piece in pieces if piece.count] or pieces[:1])
    uids = [str(run.metadata["start"]["uid"]) for run in members]
    return replace(dataset, source={**dataset.source, "raw_uids": uids}).validate()


def block_of(run: Any, mapping: Path | str | Mapping[str, Any] | None = None) -> PtychographyMetadata:
    """Return the run's block with its amendments, and then a mapping, applied.

    Raises
    ------
    DatasetError
        When there is none, or it is not complete.
    """
    return block_with(run, amendments_of(run), mapping)


def block_with(
    run: Any, amendments: Sequence[Mapping[str, Any]], mapping: Path | str | Mapping[str, Any] | None
) -> PtychographyMetadata:
    """Return the run's block with these amendments, and then a mapping, applied."""
    changes = [item["ptychography"] for item in amendments]
    if mapping is not None:
        changes.append(mapping_from(mapping))
    return block_from(run, *changes)


@dataclass
class Piece:
    """What one run gives to a dataset."""

    first: int
    count: int
    frames: TiledFrames
    positions: npt.NDArray[np.float64]
    times: npt.NDArray[np.float64] | None


def piece_of(run: Any, block: PtychographyMetadata) -> Piece:
    """Return what one run alone gives, as far as it has arrived."""
    events = Events(run, block)
    positions = _positions(events, block)
    array = stream_array(events, block.frames_key, block.frames_stream)
    stored = TiledFrames(array, per_event=block.frames_per_event)
    complete = (run.metadata.get("stop") or {}).get("exit_status") == "success"
    if complete and len(stored) != len(positions):
        raise DatasetError(
            f"run {str(run.metadata['start']['uid'])[:8]} has {len(stored)} frames but {len(positions)} positions "
            f"although it ended well; frames_key {block.frames_key!r} and position_keys {list(block.position_keys)} "
            "must be of one stream, and frames_per_event the frames of each event"
        )
    count = min(len(stored), len(positions))
    times = None if block.frames_per_event > 1 else events.column("time", block.frames_stream)
    frames = TiledFrames(array, _view(block, stored.view.stored), count, block.frames_per_event)
    return Piece(block.first_point, count, frames, positions, times)


def joined(run: Any, block: PtychographyMetadata, pieces: list[Piece]) -> PtychoDataset:
    """Return the dataset of pieces that lie one after the other."""
    start, first = run.metadata["start"], pieces[0]
    parts = [TiledFrames(p.frames.array, p.frames.view, p.count, p.frames.per_event) for p in pieces]
    if any(part.shape[1:] != parts[0].shape[1:] or part.dtype != parts[0].dtype for part in parts):
        shapes = [f"{part.dtype} {part.shape}" for part in parts]
        raise DatasetError(f"run {str(start['uid'])[:8]} and those that continue it have frames that differ: {shapes}")
    times = [None if p.times is None or len(p.times) < p.count else p.times[: p.count] for p in pieces]
    geometry = None if block.geometry is None else block.geometry.model_copy(update={"beam_center_px": None})
    size = first.frames.view.shape[0]
    frames = parts[0] if len(parts) == 1 else JoinedFrames(cast(Any, parts))  # all that it asks of a part
    return PtychoDataset(
        frames=frames,
        positions=np.concatenate([p.positions[: p.count] for p in pieces]),
        geometry=geometry,
        modality="far-field" if geometry is None else geometry.modality,
        pixel_size_m=None if geometry is None else geometry.pixel_size_m(size),
        mask=_mask(block, frames, first.frames.view),
        probe=None if block.probe is None else probe_from_info(block.probe, geometry, size),
        rotation_deg=block.rotation_deg,
        timestamps=None if any(t is None for t in times) else np.concatenate([t for t in times if t is not None]),
        name=str(start["uid"]),
        source={"kind": "tiled", "raw_uid": str(start["uid"]), "scan_id": start.get("scan_id"), "uri": str(run.uri)},
    )
