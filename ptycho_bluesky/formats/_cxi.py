"""CXI 1.6, the HDF5 layout of the Coherent X-ray Imaging data bank (Maia, Nature Methods 9, 854 (2012)).

NXcxi_ptycho, its NeXus relative, differs where it matters here in two points: ``source_1/energy`` is the storage
ring's, and the photons' stands in ``beam_1/energy``; the beam's centre has a place. Values are SI unless an attribute
``units`` says otherwise.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from ptycho_bluesky.errors import FormatError
from ptycho_bluesky.experiment import HC_KEV_M
from ptycho_bluesky.formats._fields import kept_hdf5
from ptycho_bluesky.formats._hdf5 import Hdf5Frames
from ptycho_bluesky.formats._measured import Measured

__all__ = [
    "BEAM",
    "DETECTOR",
    "JOULE_PER_KEV",
    "SOURCE",
    "TRANSLATION",
    "energy_kev",
    "number",
    "read_cxi",
    "si",
    "text",
]

JOULE_PER_KEV = 1.602176634e-16
UNITS = {"m": 1.0, "mm": 1e-3, "um": 1e-6, "µm": 1e-6, "micron": 1e-6, "nm": 1e-9, "angstrom": 1e-10}
UNITS |= {"j": 1.0, "ev": JOULE_PER_KEV / 1e3, "kev": JOULE_PER_KEV}
FRAMES = tuple(
    f"entry_1/{key}" for key in ("data_1/data", "instrument_1/detector_1/data_1", "instrument_1/detector_1/data")
)
PIXELS = ("px", "pixel", "pixels")
TRANSLATION = (
    "entry_1/data_1/translation",
    "entry_1/sample_1/geometry_1/translation",
    "entry_1/instrument_1/detector_1/translation",
)
DETECTOR = "entry_1/instrument_1/detector_1/"
SOURCE = "entry_1/instrument_1/source_1/"
BEAM = "entry_1/instrument_1/beam_1/"


def read_cxi(path: Path, file: h5py.File) -> Measured:
    """Read frames, sample translations, geometry and mask of ``entry_1``."""
    frames_key = _first(path, file, FRAMES, "frames")
    translation = si(path, file, _first(path, file, TRANSLATION, "sample translations"))
    if translation.ndim != 2 or translation.shape[1] not in (2, 3):
        raise FormatError(f"{path}: translation has shape {translation.shape}; allowed is (N, 3): x, y, z in metres")
    basis, pixel = _basis(path, file)
    mask = None
    if DETECTOR + "mask" in file:
        mask = np.asarray(file[DETECTOR + "mask"][()]) != 0  # every bit of a CXI mask names a defect
        if mask.ndim != 2:
            raise FormatError(f"{path}: mask has shape {mask.shape}; allowed is one mask (H, W) for all frames")
    illumination = file.get(SOURCE + "illumination")
    probe = None
    if illumination is not None and illumination.dtype.kind == "c":
        probe = np.asarray(illumination[()], dtype=np.complex64)
        probe = probe[None] if probe.ndim == 2 else probe
    # The probe moves over the sample against the sample's own translation; frames' axes are the object's axes.
    positions = -translation @ basis[:, : translation.shape[1]].T
    found = Measured(
        format="cxi",
        frames=Hdf5Frames(path, frames_key),
        positions=positions,
        positions_unit="m",
        energy_kev=energy_kev(path, file),
        distance_m=number(path, file, DETECTOR + "distance"),
        detector_pixel_m=pixel,
        beam_center_px=_center(path, file, pixel),
        mask=mask,
        probe=probe,
        name=text(file, "entry_1/title"),
    )
    return replace(found, **kept_hdf5(file))


def _first(path: Path, file: h5py.File, keys: tuple[str, ...], what: str) -> str:
    broken = []
    for key in keys:
        if isinstance(file.get(key), h5py.Dataset):
            return key
        link = file.get(key, getlink=True)
        if isinstance(link, h5py.ExternalLink):
            broken.append(f"; {key} is a link to {link.filename}, which is not there: copy that file as well")
    if keys is TRANSLATION and not broken:
        broken.append("; add one (ptychodus keeps positions in its product, a file beside)")
    raise FormatError(
        f"{path} is a CXI file without {what}: none of {', '.join(keys)} can be read{''.join(broken) or '; add one'}"
    )


def text(file: h5py.File, key: str) -> str:
    """Return one text; empty where there is none."""
    stored = file.get(key)
    if stored is None or stored.shape != () or h5py.check_string_dtype(stored.dtype) is None:
        return ""
    return str(stored.asstr()[()])


def si(path: Path, file: h5py.File, key: str) -> npt.NDArray[np.float64]:
    """Return the values of a dataset in metres or joules."""
    unit = file[key].attrs.get("units", "")
    unit = (unit.decode() if isinstance(unit, bytes) else str(unit)).strip()
    if unit and unit.lower() not in UNITS:
        raise FormatError(f"{path}: {key} has units {unit!r}; allowed are {', '.join(UNITS)}, or none for SI")
    return np.asarray(file[key][()], dtype=np.float64) * UNITS.get(unit.lower(), 1.0)


def number(path: Path, file: h5py.File, key: str) -> float | None:
    """Return the size of a value, the same for all frames, in metres or joules; None where it is not there."""
    if key not in file:
        return None
    value = si(path, file, key)
    if not value.size or not np.isfinite(value).all() or np.ptp(value) > 1e-6 * abs(float(value.flat[0])):
        raise FormatError(f"{path}: {key} is {value.tolist()!r:.60}; allowed is one finite number for all frames")
    return abs(float(value.flat[0]))


def energy_kev(path: Path, file: h5py.File) -> float | None:
    """Return the photon energy, from the wavelength where it is there; None where neither is."""
    wavelength = number(path, file, SOURCE + "wavelength") or number(path, file, BEAM + "incident_wavelength")
    if wavelength:
        return HC_KEV_M / wavelength
    key = BEAM + "energy" if BEAM + "energy" in file else SOURCE + "energy"
    energy = number(path, file, key)
    if not energy:
        return None
    if not 1e-3 * JOULE_PER_KEV < energy < 1000 * JOULE_PER_KEV:
        raise FormatError(
            f"{path}: {key} is {energy:g} J = {energy / JOULE_PER_KEV:g} keV, which are no X-rays; CXI wants joules "
            "(10 keV = 1.602e-15 J): mend the value, or its attribute units"
        )
    return energy / JOULE_PER_KEV


def _basis(path: Path, file: h5py.File) -> tuple[npt.NDArray[np.float64], float | None]:
    """Return the unit vectors (2, 3) along which rows and columns grow, and the pixel's side in metres.

    Without ``basis_vectors`` rows run along -y and columns along -x, as most CXI files have it.
    """
    sides: list[float | None] = [number(path, file, DETECTOR + f"{axis}_pixel_size") for axis in "yx"]
    vectors: Any = np.array([[0.0, -1.0, 0.0], [-1.0, 0.0, 0.0]])
    if DETECTOR + "basis_vectors" in file:
        vectors = np.asarray(file[DETECTOR + "basis_vectors"][()], dtype=np.float64)
        vectors = vectors.T if vectors.shape == (2, 3) else vectors
        if vectors.shape != (3, 2) or not (np.linalg.norm(vectors, axis=0) > 0).all():
            raise FormatError(f"{path}: basis_vectors have shape {vectors.shape}; allowed is (3, 2), of length above 0")
        vectors = vectors.T
        sides = [float(side) for side in np.linalg.norm(vectors, axis=1)]
        vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    known = [side for side in sides if side is not None]
    if len(known) == 2 and abs(known[0] / known[1] - 1) > 1e-3:
        raise FormatError(f"{path}: pixels are {known[0]:g} x {known[1]:g} m; only square pixels can be reconstructed")
    return vectors, known[0] if known else None


def _center(path: Path, file: h5py.File, pixel: float | None) -> tuple[float, float] | None:
    """Return NXcxi_ptycho's beam centre (row, column) in pixels; CXI has none."""
    center = []
    for axis in "yx":
        key = DETECTOR + f"beam_center_{axis}"
        if key not in file:
            return None
        unit = str(file[key].attrs.get("units", "")).strip().lower()
        if unit in PIXELS:
            center.append(float(file[key][()]))
        elif pixel is None:
            return None
        else:
            center.append((number(path, file, key) or 0.0) / pixel)
    return center[0], center[1]
