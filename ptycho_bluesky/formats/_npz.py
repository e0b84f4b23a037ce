"""NPZ: the plain format that everyone can write, and the layout of tike's test data."""

from __future__ import annotations

import bz2
import difflib
import gzip
import io
import json
import zipfile
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from ptycho_bluesky.errors import FormatError
from ptycho_bluesky.experiment import PtychoDataset
from ptycho_bluesky.formats._files import replaced_when_whole
from ptycho_bluesky.formats._measured import Measured

__all__ = ["read_npz", "write_npz"]

REQUIRED = ("frames", "positions", "positions_unit")
NUMBERS = ("energy_kev", "distance_m", "detector_pixel_m", "focus_to_sample_m", "pixel_size_m", "rotation_deg")
TEXTS = ("positions_unit", "zero_frequency", "modality", "name", "source")
ARRAYS = ("frames", "positions", "mask", "probe", "timestamps", "beam_center_px")
ALLOWED = {
    "positions_unit": ("m", "px"),
    "zero_frequency": ("center", "corner"),
    "modality": ("far-field", "near-field"),
}
TIKE = ("data", "scan")


def read_npz(path: Path, packing: str | None) -> Measured:
    """Read an NPZ file, itself packed with ``"bz2"``, ``"gzip"`` or not at all (None)."""
    opener: Any = {"bz2": bz2.open, "gzip": gzip.open, None: open}[packing]
    try:
        with opener(path, "rb") as file:
            content = {"file": file} if packing is None else {"file": io.BytesIO(file.read())}
            return _read(path, content["file"])
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise FormatError(
            f"{path} is truncated or damaged ({error}); it should be an NPZ file"
            f"{f' packed with {packing}' if packing else ''}: copy it again"
        ) from None
    except (OSError, ValueError) as error:
        raise FormatError(f"{path} cannot be read as an NPZ file: {error}") from None


def _read(path: Path, file: BinaryIO) -> Measured:
    with zipfile.ZipFile(file) as check:
        names = check.namelist()
    if not names or not all(name.endswith(".npy") for name in names):
        raise FormatError(f"{path} is a ZIP archive but no NPZ file: it holds {_few(names)}; allowed are .npy members")
    file.seek(0)
    with np.load(file, allow_pickle=False) as arrays:
        if set(REQUIRED[:2]) <= set(arrays.files):
            return _plain(path, arrays)
        if set(TIKE) <= set(arrays.files):
            return _tike(path, arrays)
        raise FormatError(
            f"{path} holds the keys {_few(arrays.files)}; allowed are plain NPZ ({', '.join(REQUIRED)}, optional "
            f"probe, mask, energy_kev, distance_m, detector_pixel_m, ...) or tike's layout (data, scan, probe): "
            "rename the arrays"
        )


def _few(names: list[str]) -> str:
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "") or "nothing"


def _plain(path: Path, arrays: Any) -> Measured:
    known = (*NUMBERS, *TEXTS, *ARRAYS)
    for key in set(arrays.files) - set(known):
        if close := difflib.get_close_matches(key.lower(), known, n=1, cutoff=0.8):
            raise FormatError(f"{path} holds the key {key!r}, which is not known; is it {close[0]!r}? Rename it")
    if "positions_unit" not in arrays.files:
        raise FormatError(f"{path} lacks positions_unit; store 'm' (metres) or 'px' (object pixels)")
    values: dict[str, Any] = {key: _number(path, key, arrays[key]) for key in NUMBERS if key in arrays.files}
    values |= {key: _text(path, key, arrays[key]) for key in TEXTS if key in arrays.files}
    for key, allowed in ALLOWED.items():
        if key in values and values[key] not in allowed:
            raise FormatError(f"{path}: {key} is {values[key]!r}; allowed are {', '.join(map(repr, allowed))}")
    if "source" in values:
        values["source"] = json.loads(values["source"])
    if "mask" in arrays.files:
        values["mask"] = _as(path, "mask", arrays["mask"], "bui").astype(bool)
    if "probe" in arrays.files:
        probe = _as(path, "probe", arrays["probe"], "cf").astype(np.complex64)
        values["probe"] = probe[None] if probe.ndim == 2 else probe
    if "timestamps" in arrays.files:
        values["timestamps"] = _as(path, "timestamps", arrays["timestamps"], "uif").astype(np.float64)
    if "beam_center_px" in arrays.files:
        center = _as(path, "beam_center_px", arrays["beam_center_px"], "uif")
        if center.shape != (2,):
            raise FormatError(f"{path}: beam_center_px has shape {center.shape}; allowed is (2,): row, column")
        values["beam_center_px"] = (float(center[0]), float(center[1]))
    positions = _as(path, "positions", arrays["positions"], "uif").astype(np.float64)
    return Measured(format="npz", frames=arrays["frames"], positions=positions, **values)


def _as(path: Path, key: str, value: npt.NDArray[Any], kinds: str) -> npt.NDArray[Any]:
    if value.dtype.kind not in kinds:
        words = {"b": "bool", "u": "unsigned", "i": "integer", "f": "float", "c": "complex"}
        raise FormatError(f"{path}: {key} is {value.dtype}; allowed are {', '.join(words[k] for k in kinds)}")
    return value


def _number(path: Path, key: str, value: npt.NDArray[Any]) -> float:
    value = _as(path, key, value, "uif")
    if value.size != 1 or not np.isfinite(value).all():
        raise FormatError(f"{path}: {key} is {value.tolist()!r:.60}; allowed is one finite number")
    return float(value.reshape(()))


def _text(path: Path, key: str, value: npt.NDArray[Any]) -> str:
    if value.dtype.kind not in "US" or value.size != 1:
        raise FormatError(f"{path}: {key} is {value.dtype} of shape {value.shape}; allowed is one text")
    text = value.reshape(())[()]
    return text.decode() if isinstance(text, bytes) else str(text)


def _tike(path: Path, arrays: Any) -> Measured:
    """Read ``data`` (1, N, H, W), ``scan`` (1, N, 2) and ``probe`` (1, 1, 1, modes, H, W).

    `scan` is the upper left corner of each patch in object pixels (row, column), a constant away from the probe's
    centre; frames have the zero frequency in the corner.
    """
    frames, scan = arrays["data"], _as(path, "scan", arrays["scan"], "uif").astype(np.float64)
    for key, value, inner in (("data", frames, 3), ("scan", scan, 2)):
        if value.ndim not in (inner, inner + 1) or (value.ndim == inner + 1 and len(value) != 1):
            wanted = "(1, N, H, W)" if key == "data" else "(1, N, 2)"
            raise FormatError(f"{path}: {key} has shape {value.shape}; allowed is {wanted}, one view a file")
    probe = None
    if "probe" in arrays.files:
        stored = _as(path, "probe", arrays["probe"], "c")
        if stored.ndim < 3 or any(n != 1 for n in stored.shape[:-3]):
            raise FormatError(f"{path}: probe has shape {stored.shape}; allowed is (1, 1, 1, modes, H, W)")
        probe = stored.reshape(stored.shape[-3:]).astype(np.complex64)
    return Measured(
        format="tike",
        frames=frames.reshape(frames.shape[-3:]),
        positions=scan.reshape(scan.shape[-2:]),
        positions_unit="px",
        zero_frequency="corner",
        probe=probe,
    )


def write_npz(path: Path, dataset: PtychoDataset) -> None:
    """Write a plain NPZ; frames go batch by batch, so that they need not fit into memory."""
    geometry, small = dataset.geometry, {}
    small["positions"] = np.asarray(dataset.positions)
    small["positions_unit"] = np.array("px" if dataset.pixel_size_m is None else "m")
    small["zero_frequency"] = np.array("center")
    small["modality"] = np.array(dataset.modality)
    small["rotation_deg"] = np.array(dataset.rotation_deg)
    small["name"] = np.array(dataset.name)
    try:
        small["source"] = np.array(json.dumps(dataset.source))
    except TypeError as error:
        raise FormatError(f"{path}: the dataset's source holds what JSON cannot: {error}; use JSON values") from None
    optional: dict[str, Any] = {key: getattr(dataset, key) for key in ("mask", "probe", "timestamps", "pixel_size_m")}
    if geometry is not None:
        for key in ("energy_kev", "distance_m", "detector_pixel_m", "focus_to_sample_m", "beam_center_px"):
            optional[key] = getattr(geometry, key)
    small |= {key: np.asarray(value) for key, value in optional.items() if value is not None}
    shape, dtype = tuple(dataset.frames.shape), np.dtype(dataset.frames.dtype)
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    with (
        replaced_when_whole(path) as part,
        zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
    ):
        with archive.open("frames.npy", "w", force_zip64=True) as member:
            np.lib.format.write_array_header_2_0(member, header)
            for _, frames in dataset.batches():
                member.write(np.ascontiguousarray(frames, dtype=dtype).data)
        for key, value in small.items():
            with archive.open(f"{key}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, value, allow_pickle=False)
