"""What a file is, told by its content: which layout, and whether it holds a measurement, a result or both."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import h5py

from ptycho_bluesky.errors import FormatError
from ptycho_bluesky.formats._files import check_readable
from ptycho_bluesky.formats._hdf5 import open_hdf5

__all__ = ["KNOWN_FORMATS", "KNOWN_RESULTS", "RESULT_KIND", "FileKind", "identify"]

KNOWN_FORMATS = (
    "plain NPZ (frames, positions, positions_unit)",
    "tike's NPZ (data, scan, probe)",
    "CXI 1.6 and NXcxi_ptycho (HDF5)",
    "PtyPy's .ptyd (HDF5)",
    "either NPZ packed with bzip2 or gzip",
)
"""What :func:`load_dataset` reads, in words."""

KNOWN_RESULTS = (
    "ptycho-bluesky's HDF5",
    "CXI with images (HDF5)",
    "PtyPy's .ptyr (HDF5)",
    "ptychodus products (HDF5 and NPZ)",
    "fold_slice's and PtychoShelves' .mat",
)
"""What :func:`read_reconstruction` reads, in words."""

RESULT_KIND = "ptycho-bluesky reconstruction"
"""Root attribute ``kind`` of a result's own file."""

PRODUCT = {"probe", "object", "probe_position_x_m", "probe_position_y_m"}
FOLD_SLICE = {"probe", "object", "p", "outputs"}


@dataclass(frozen=True)
class FileKind:
    """A layout, and what a file of it holds."""

    layout: Literal["npz", "cxi", "ptyd", "hdf5", "ptyr", "product", "product-npz", "fold_slice"]
    measurement: bool = False
    result: bool = False
    packing: Literal["bz2", "gzip"] | None = None
    """How an NPZ file as a whole is packed."""


def identify(path: Path, what: str = "a measurement or a reconstruction") -> FileKind:
    """Return what `path` is.

    Raises
    ------
    FormatError
        When the file is missing, unreadable, damaged or of no known layout; the text names `what` was wanted.
    """
    check_readable(path, what)
    with path.open("rb") as file:
        head = file.read(128)
    if head.startswith(b"PK\x03\x04"):
        return _archive(path)
    if head.startswith(b"BZh"):
        return FileKind("npz", measurement=True, packing="bz2")
    if head.startswith(b"\x1f\x8b"):
        return FileKind("npz", measurement=True, packing="gzip")
    if head.startswith(b"\x93NUMPY"):
        raise FormatError(f"{path} is one .npy array; frames need positions beside them: np.savez both ({_known()})")
    if head.startswith(b"MATLAB 5.0"):
        return FileKind("fold_slice", result=True)
    if head.startswith((b"\x89HDF\r\n\x1a\n", b"MATLAB 7.3")) or h5py.is_hdf5(path):
        with open_hdf5(path) as hdf5:
            try:
                return _hdf5(path, hdf5)
            except (KeyError, OSError, RuntimeError) as error:
                raise FormatError(f"{path} is damaged: {error}; copy it again") from None
    raise FormatError(f"{path} is of no known format: it begins with {head[:8]!r}; {_known()}")


def _archive(path: Path) -> FileKind:
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.removesuffix(".npy") for name in archive.namelist()}
    except zipfile.BadZipFile:  # the reader of NPZ files says what is wrong
        names = set()
    return FileKind("product-npz", result=True) if names >= PRODUCT else FileKind("npz", measurement=True)


def _hdf5(path: Path, file: h5py.File) -> FileKind:
    keys = set(file)
    if file.attrs.get("kind") == RESULT_KIND:
        return FileKind("hdf5", result=True)
    if "entry_1" in keys and ("cxi_version" in keys or "entry_1/instrument_1" in file):
        result = "entry_1/image_2/data" in file
        frames = _linked(file, ("entry_1/data_1/data", "entry_1/instrument_1/detector_1/data"))
        return FileKind("cxi", measurement=frames or not result, result=result)
    if {"chunks", "meta"} <= keys:
        return FileKind("ptyd", measurement=True)
    if _linked(file, ("content/obj", "content/probe")):
        return FileKind("ptyr", result=True)
    if keys >= PRODUCT:
        return FileKind("product", result=True)
    if keys >= FOLD_SLICE:
        return FileKind("fold_slice", result=True)
    raise FormatError(
        f"{path} is HDF5 but of no known layout: its root holds {', '.join(sorted(keys)[:8]) or 'nothing'}; {_known()}"
    )


def _linked(file: h5py.File, keys: Iterable[str]) -> bool:
    """Tell whether one of `keys` is there, be it a link whose target is not."""
    return any(file.get(key, getlink=True) is not None for key in keys)


def _known() -> str:
    return f"known are, as measurements, {'; '.join(KNOWN_FORMATS)}; as results {'; '.join(KNOWN_RESULTS)}"
