"""Where an engine begins: at an earlier result, a coarser one, or what a network showed live."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt
import scipy.ndimage

from ptycho_bluesky.errors import FormatError, ReconstructionError
from ptycho_bluesky.experiment import Reconstruction
from ptycho_bluesky.formats import read_reconstruction
from ptycho_bluesky.reconstruction._model import ComplexArray, Model
from ptycho_bluesky.reconstruction._modes import with_modes
from ptycho_bluesky.reconstruction._problem import Problem

__all__ = ["Start", "begun_from", "object_on_grid", "read_start"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Start:
    """An image to begin with, and a probe if there is one."""

    object: ComplexArray
    """(slices, Y, X)."""

    origin: tuple[float, float]
    """Position (row, column) whose patch begins at pixel (0, 0), in the unit of the dataset's positions."""

    pixel_size: float
    """In the unit of the dataset's positions: metres, or 1 for pixel units."""

    known: npt.NDArray[np.bool_]
    """(Y, X) True where the image means something; elsewhere the object begins empty."""

    probe: ComplexArray | None = None
    """(modes, H, W), or None for the dataset's."""

    @classmethod
    def of(cls, result: Reconstruction) -> Start:
        """Return the start that goes on from a result."""
        seen = result.coverage > 0  # dim edges, too: they are part of what the frames show
        return cls(result.object, result.origin, result.pixel_size_m or 1.0, seen, np.asarray(result.probe))


def read_start(path: str | Path) -> Start:
    """Return the start in a file: a reconstruction (HDF5), or a mosaic that ``infer`` or live inference wrote (NPZ).

    Raises
    ------
    FormatError
        When the file is neither.
    """
    path = Path(path).expanduser()
    if path.is_file() and not h5py.is_hdf5(path):
        try:
            with np.load(path, allow_pickle=False) as found:
                phase, origin, pixel = found["phase"], found["origin"], float(found["pixel_size"])
                amplitude = found["amplitude"] if "amplitude" in found.files and found["amplitude"].ndim == 2 else 1.0
                image = np.asarray(amplitude * np.exp(1j * phase), np.complex64)
        except (OSError, KeyError, ValueError) as error:
            raise FormatError(
                f"{path} is no image to begin with ({error}); give a reconstruction (HDF5) or a mosaic (NPZ with "
                "phase, origin, pixel_size) that 'infer' or live inference wrote"
            ) from None
        return Start(image[None], (float(origin[0]), float(origin[1])), pixel, np.isfinite(image))
    return Start.of(read_reconstruction(path))


def object_on_grid(start: Start, problem: Problem) -> ComplexArray:
    """Return (slices, Y, X), the image of `start` on a problem's grid, 1 where it is not known.

    Raises
    ------
    ReconstructionError
        When not a hundredth of the scanned field is known: another sample, or another unit.
    """
    grid = problem.grid
    scale = grid.pixel_size / start.pixel_size
    offset = (np.array(grid.origin) - np.array(start.origin)) / start.pixel_size

    def onto(image: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        moved = scipy.ndimage.affine_transform(
            image, np.full(2, scale), offset, output_shape=grid.shape, order=1, mode="constant", output=np.float32
        )
        return np.asarray(moved, np.float32)

    known = onto(start.known.astype(np.float32)) > 0.99
    size = problem.amplitudes.size
    centers = np.rint(problem.start.corners + size / 2).astype(np.int64)
    share = float(known[centers[:, 0], centers[:, 1]].mean())
    if share < 0.01:
        raise ReconstructionError(
            f"the image to begin with covers {share:.0%} of the scan positions (its origin {start.origin}, pixel "
            f"{start.pixel_size:g}; the scan's {grid.origin}, {grid.pixel_size:g}): is it of this field, in this unit?"
        )
    slices = []
    for image in start.object:
        filled = np.where(start.known, image, 1)
        moved = onto(filled.real.astype(np.float32)) + 1j * onto(filled.imag.astype(np.float32))
        slices.append(np.where(known, moved, 1))
    return np.asarray(slices, np.complex64)


def begun_from(problem: Problem, start: Start) -> Problem:
    """Return the problem that begins at `start`.

    The probe is taken over where its frame has the same size and pixel; its power is that of the problem.
    """
    model: Model = problem.start
    obj = object_on_grid(start, problem)
    if len(obj) != len(model.object):
        whole = np.prod(obj, axis=0, dtype=np.complex64)[None] if len(model.object) == 1 else None
        obj = whole if whole is not None else np.concatenate([obj[:1], model.object[1:]])
    probe = model.probe
    same = start.probe is not None and start.probe.shape[-2:] == probe.shape[-2:]
    if same and abs(problem.grid.pixel_size / start.pixel_size - 1) < 1e-3 and start.probe is not None:
        first = with_modes(start.probe, probe.shape[1])
        power = (np.abs(probe[0]) ** 2).sum(dtype=np.float64) / (np.abs(first) ** 2).sum(dtype=np.float64)
        probe = np.concatenate([(first * np.float32(np.sqrt(power)))[None], probe[1:]])
    elif start.probe is not None:
        logger.info("the start's probe has another size or pixel and is not taken over")
    return replace(problem, start=replace(model, object=obj, probe=probe))
