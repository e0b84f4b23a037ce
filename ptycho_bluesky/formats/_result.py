"""Results to files and back: our own HDF5, CXI, PtyPy's .ptyr, ptychodus' product, and fold_slice's .mat to read."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import h5py

from ptycho_bluesky.errors import FormatError
from ptycho_bluesky.experiment import PtychoDataset, Reconstruction
from ptycho_bluesky.formats._cxi_result import read_cxi_result, write_cxi_result, write_cxi_together
from ptycho_bluesky.formats._fold_slice import read_fold_slice
from ptycho_bluesky.formats._hdf5 import open_hdf5
from ptycho_bluesky.formats._identify import KNOWN_RESULTS, identify
from ptycho_bluesky.formats._own import read_own, write_own
from ptycho_bluesky.formats._product import read_product, read_product_npz, write_product, write_product_npz
from ptycho_bluesky.formats._ptyr import read_ptyr, write_ptyr

__all__ = ["ResultFormat", "read_reconstruction", "save_together", "write_reconstruction"]

ResultFormat = Literal["hdf5", "cxi", "ptyr", "product", "product-npz"]
"""Layouts that :func:`write_reconstruction` writes."""

WRITERS: dict[ResultFormat, Callable[[Path, Reconstruction], None]] = {
    "hdf5": write_own,
    "cxi": write_cxi_result,
    "ptyr": write_ptyr,
    "product": write_product,
    "product-npz": write_product_npz,
}
SUFFIXES: dict[str, ResultFormat] = {".cxi": "cxi", ".ptyr": "ptyr", ".npz": "product-npz"}
READERS: dict[str, Callable[[Path, h5py.File], Reconstruction]] = {
    "hdf5": read_own,
    "cxi": read_cxi_result,
    "ptyr": read_ptyr,
    "product": read_product,
}
DAMAGED: tuple[type[Exception], ...] = (
    *(AttributeError, EOFError, KeyError, OSError, RuntimeError, TypeError, ValueError),
    *(zipfile.BadZipFile, zlib.error),
)
"""What the readers of HDF5, NumPy and ZIP raise on bytes that make no sense."""


def write_reconstruction(path: str | Path, reconstruction: Reconstruction, format: ResultFormat | None = None) -> None:
    """Write `reconstruction` to a file, which :func:`read_reconstruction` gives back without loss.

    An existing file is replaced, and only when the new one is whole and on the disk. What another program's layout has
    no place for stands in a group ``ptycho_bluesky`` of the file, which that program passes over; the log says what.

    Parameters
    ----------
    path:
        Of the file, in a folder that exists.
    reconstruction:
        What to write.
    format:
        ``"hdf5"``, our own: ``/entry`` holds arrays as datasets, numbers as attributes, ``parameters`` and
        ``provenance`` as JSON; ``/entry/image`` is an NXdata of the phase, for viewers. ``"cxi"``: images of CXI 1.6.
        ``"ptyr"``: PtyPy. ``"product"`` and ``"product-npz"``: ptychodus. None takes the suffix's: ``.cxi``, ``.ptyr``,
        ``.npz`` (a product), and ``"hdf5"`` for any other. All but ``"hdf5"`` need a pixel size in metres.

    Raises
    ------
    FormatError
        When the file cannot be written (no such folder, no permission, disk full), when `parameters` or
        `provenance` hold what JSON cannot, or when the format holds metres and positions are in pixels.
    """
    path = Path(path).expanduser()
    chosen = format or SUFFIXES.get(path.suffix.lower(), "hdf5")
    if chosen not in WRITERS:
        raise FormatError(f"{path} was not written: format is {chosen!r}; allowed for results are {', '.join(WRITERS)}")
    WRITERS[chosen](path, reconstruction)


def save_together(path: str | Path, dataset: PtychoDataset, reconstruction: Reconstruction) -> None:
    """Write a measurement and its result to one NXcxi_ptycho file, for this program and others.

    :func:`load_dataset` gives the measurement back and :func:`read_reconstruction` the result, without loss.

    Parameters
    ----------
    path:
        Of the file, in a folder that exists; replaced where it is there, when the new one is whole.
    dataset:
        Measurement with positions in metres.
    reconstruction:
        What was made from it: a position for each frame, the same pixel size.

    Raises
    ------
    FormatError
        When the two do not belong together, positions are in pixels, or the file cannot be written.
    """
    write_cxi_together(Path(path).expanduser(), dataset, reconstruction)


def read_reconstruction(path: str | Path) -> Reconstruction:
    """Return the reconstruction that a file holds; the layout is told by the content.

    Besides what :func:`write_reconstruction` wrote: CXI with images, PtyPy's ``.ptyr``, ptychodus' product (HDF5 and
    NPZ), and ``.mat`` of fold_slice and PtychoShelves. In those of another program ``r_factor`` is NaN, ``errors`` are
    that program's own, and ``provenance`` says where they come from.

    Raises
    ------
    FormatError
        When the file is missing, unreadable, damaged, or holds no reconstruction.
    """
    path = Path(path).expanduser()
    kind = identify(path, "a reconstruction")
    if not kind.result:
        raise FormatError(
            f"{path} is no reconstruction but a measurement ({kind.layout}), which load_dataset and 'reconstruct' "
            f"read; known reconstructions are {'; '.join(KNOWN_RESULTS)}"
        )
    try:
        if kind.layout == "fold_slice":
            return read_fold_slice(path)
        if kind.layout == "product-npz":
            return read_product_npz(path)
        with open_hdf5(path) as file:
            return READERS[kind.layout](path, file)
    except DAMAGED as error:
        raise FormatError(f"{path} is damaged ({_words(error)}); reconstruct again, or copy the file again") from None


def _words(error: Any) -> str:
    return f"{error.args[0]}" if isinstance(error, KeyError) and error.args else f"{error}"
