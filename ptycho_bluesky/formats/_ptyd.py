"""PtyPy's prepared data, ``.ptyd``: ``meta`` and numbered ``chunks`` of frames, positions and weights.

Positions are the probe's on the sample, (row, column) in metres; energy is in keV; a weight above 0 makes a pixel
good; the zero frequency stands at ``meta/center``. Chunks may be links to files beside.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from ptycho_bluesky.errors import FormatError
from ptycho_bluesky.experiment import PtychoDataset
from ptycho_bluesky.formats._cxi_write import geometry_kept, in_metres
from ptycho_bluesky.formats._fields import keep_hdf5, kept_hdf5
from ptycho_bluesky.formats._hdf5 import Hdf5Frames, new_hdf5, write_frames
from ptycho_bluesky.formats._joined import JoinedFrames
from ptycho_bluesky.formats._measured import Measured
from ptycho_bluesky.formats._ptypy import pair, put_param, scalar, value

__all__ = ["read_ptyd", "write_ptyd"]

log = logging.getLogger(__name__)


def read_ptyd(path: Path, file: h5py.File) -> Measured:
    """Read all chunks that are there, in the order of their numbers."""
    meta, chunks = file["meta"], _chunks(path, file)
    frames = [Hdf5Frames(path, f"chunks/{name}/data") for name, _ in chunks]
    pixel = pair(path, meta, "psize")
    if pixel is not None and abs(pixel[0] / pixel[1] - 1) > 1e-3:
        raise FormatError(f"{path}: psize is {pixel.tolist()} m; only square pixels can be reconstructed")
    shape = frames[0].shape[1:]
    middle, center = np.array(shape) // 2, pair(path, meta, "center")
    if center is not None and np.abs(center - middle).max() > 1:
        log.warning(
            "%s: its zero frequency is at %s, not in the middle of the frame; give beam_center_px=%s to crop around it",
            path,
            center.tolist(),
            center.tolist(),
        )
    found = Measured(
        format="ptyd",
        frames=frames[0] if len(frames) == 1 else JoinedFrames(frames),
        positions=np.concatenate([_positions(path, name, chunk) for name, chunk in chunks]),
        positions_unit="m",
        energy_kev=_energy_kev(path, meta),
        distance_m=scalar(path, meta, "distance"),
        detector_pixel_m=None if pixel is None else float(pixel[0]),
        beam_center_px=None if center is None or (center == middle).all() else (float(center[0]), float(center[1])),
        mask=_mask(path, file, chunks, shape),
        name=_label(meta),
    )
    return replace(found, **kept_hdf5(file))


def _chunks(path: Path, file: h5py.File) -> list[tuple[str, h5py.Group]]:
    found = []
    for name in sorted((name for name in file["chunks"] if name.isdigit()), key=int):
        chunk = file["chunks"].get(name)
        if chunk is None:
            link = file["chunks"].get(name, getlink=True)
            raise FormatError(
                f"{path}: chunk {name} is a link to {getattr(link, 'filename', 'a place')}, which is not there; copy "
                "that file as well, into the same folder"
            )
        for key in ("data", "positions"):
            if not isinstance(chunk.get(key), h5py.Dataset):
                raise FormatError(f"{path}: chunk {name} lacks {key}; prepare the file again")
        found.append((name, chunk))
    if not found:
        raise FormatError(f"{path} is a .ptyd file without frames: chunks is empty; wait until the scan has begun")
    return found


def _positions(path: Path, name: str, chunk: h5py.Group) -> npt.NDArray[np.float64]:
    positions, count = np.asarray(chunk["positions"][()], dtype=np.float64), len(chunk["data"])
    if positions.shape != (count, 2):
        raise FormatError(
            f"{path}: chunk {name} has {count} frames but positions of shape {positions.shape}; allowed is "
            f"({count}, 2): row, column in metres"
        )
    return positions


def _energy_kev(path: Path, meta: h5py.Group) -> float | None:
    energy = scalar(path, meta, "energy")
    if energy is not None and not 1e-3 < energy <= 1000:
        hint = f"; is it {energy / 1e3:g} keV, stored in eV? Divide it by 1000" if energy > 1000 else ""
        raise FormatError(f"{path}: energy is {energy:g}; allowed are keV, above 0.001 and up to 1000{hint}")
    return energy


def _mask(
    path: Path, file: h5py.File, chunks: list[tuple[str, h5py.Group]], shape: tuple[int, ...]
) -> npt.NDArray[np.bool_] | None:
    """Return the pixels that are bad in any frame: weights of each frame, or one for all; None where there are none."""
    common = value(file["info"], "weight2d") if "info" in file else None
    if common is not None and np.asarray(common).ndim == 2:
        return np.asarray(~(np.asarray(common) > 0))
    bad, differ, found = np.zeros(shape, bool), False, False
    for name, chunk in chunks:
        weights = chunk.get("weights")
        if not isinstance(weights, h5py.Dataset) or weights.ndim < 2:
            continue
        if weights.shape[-2:] != shape:
            raise FormatError(
                f"{path}: chunk {name} has weights of shape {weights.shape}, frames of {shape}; they must agree"
            )
        stack = weights if weights.ndim == 3 else weights[()][None]
        for first in range(0, len(stack), 64):
            here = ~(np.asarray(stack[first : first + 64]) > 0)
            union = here.any(axis=0)
            differ |= bool((here != union).any()) or (found and bool((union != bad).any()))
            bad, found = bad | union, True
    if differ:
        log.warning("%s: weights differ from frame to frame; a pixel that is bad in one is left out of all", path)
    return bad if found else None


def _label(meta: h5py.Group) -> str:
    label = value(meta, "label")
    return label.decode(errors="replace") if isinstance(label, bytes) else ""


def write_ptyd(path: Path, dataset: PtychoDataset) -> None:
    """Write `dataset` as one chunk.

    Raises
    ------
    FormatError
        When the positions are in pixels, or the file cannot be written.
    """
    in_metres(path, ".ptyd", dataset.pixel_size_m)
    geometry, shape, count = dataset.geometry, np.array(dataset.frame_shape), len(dataset)
    center = shape // 2 if geometry is None or geometry.beam_center_px is None else geometry.beam_center_px
    meta: dict[str, Any] = {"version": "0.1", "num_frames": count, "label": dataset.name, "shape": shape}
    meta |= {"center": np.asarray(center, np.float64), "psize": None, "energy": None, "distance": None}
    if geometry is not None:
        meta |= {"psize": np.full(2, geometry.detector_pixel_m), "energy": geometry.energy_kev}
        meta["distance"] = geometry.distance_m
    with new_hdf5(path) as file:
        file.attrs["h5rw_version"] = "0.1"
        put_param(file.create_group("meta"), meta)
        put_param(file.create_group("info"), {"num_frames": count})
        chunk = file.create_group("chunks/0")
        put_param(chunk, {"positions": np.asarray(dataset.positions), "indices": np.arange(count)})
        write_frames(chunk, "data", dataset)
        chunk["data"].attrs["type"] = "array"
        if dataset.mask is not None:
            good = np.ascontiguousarray(~dataset.mask).astype(np.uint8)
            weights = chunk.create_dataset(
                "weights", (count, *dataset.frame_shape), "u1", chunks=(1, *dataset.frame_shape), compression="gzip"
            )
            for number in range(count):
                weights[number] = good
            weights.attrs["type"] = "array"
        keep_hdf5(path, file, ".ptyd", geometry_kept(dataset, "probe"))
