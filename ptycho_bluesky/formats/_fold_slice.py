"""Results of PtychoShelves and fold_slice: ``.mat`` of MATLAB 5 and 7.3.

PtychoShelves: Wakonig et al., J. Appl. Cryst. 53, 574 (2020).

``object`` (y, x[, layers]), ``probe`` (y, x[, modes[, varying]]), ``outputs.probe_positions`` (N, 2), x and y in
object pixels from the place where the patch lies in the middle of the object; ``p.dx_spec`` is the object's pixel and
``p.lambda`` the wavelength, both in metres.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
from scipy.io import loadmat
from scipy.io.matlab import MatReadError

from ptycho_bluesky.errors import FormatError
from ptycho_bluesky.experiment import HC_KEV_M, Reconstruction
from ptycho_bluesky.formats._foreign import FoundResult, assemble_result, variation_of
from ptycho_bluesky.formats._hdf5 import open_hdf5

__all__ = ["read_fold_slice"]

log = logging.getLogger(__name__)

NEEDED = ("object", "probe", "p", "outputs")
WANTED = {
    "p": ("lambda", "dx_spec", "z", "ds", "angle", "multi_slice_param"),
    "outputs": ("probe_positions", "fourier_error_out", "probe_evolution"),
}


def read_fold_slice(path: Path) -> Reconstruction:
    """Read a result; ``r_factor`` is not known, and the scale of the probe is the file's."""
    content = _matlab73(path) if h5py.is_hdf5(path) else _matlab5(path)
    if missing := [key for key in NEEDED if key not in content]:
        raise FormatError(
            f"{path} is a .mat file but no result of fold_slice: it lacks {', '.join(missing)}; give the file that the "
            "engine wrote, with object, probe, p and outputs"
        )
    p, outputs = content["p"], content["outputs"]
    pixel = np.ravel(_needed(path, p, "p", "dx_spec")).astype(np.float64)
    if pixel.size not in (1, 2) or not (pixel > 0).all() or abs(pixel[-1] / pixel[0] - 1) > 1e-3:
        raise FormatError(f"{path}: p.dx_spec is {pixel.tolist()} m; allowed are two equal numbers above 0")
    positions = np.asarray(_needed(path, outputs, "outputs", "probe_positions"), np.float64)
    positions = positions[..., 0] if positions.ndim == 3 else positions  # of a fly scan: those of the first mode
    if positions.ndim != 2 or positions.shape[1] != 2:
        raise FormatError(f"{path}: outputs.probe_positions has shape {positions.shape}; allowed is (N, 2): x, y")
    obj, probe = _leading(content["object"], 3), _leading(content["probe"], 4)
    evolution = outputs.get("probe_evolution")
    if evolution is None and len(probe) > 1:
        log.warning("%s: the probe varies but outputs.probe_evolution is not there; its mean alone is read", path)
    modes, opr_modes, opr_weights = variation_of(path, probe, evolution, len(positions))
    side = float(pixel[0])
    row, column = -side * np.ceil((np.array(obj.shape[-2:]) - probe.shape[-2:]) / 2)
    wavelength, angle = _number(path, p, "lambda"), _number(path, p, "angle")
    distances = np.ravel(p.get("multi_slice_param", {}).get("z_distance", []))[: len(obj) - 1]
    notes: dict[str, Any] = {"slice_distances_m": distances.tolist()} if len(distances) else {}
    found = FoundResult(
        layout="fold_slice",
        object=obj,
        probe=modes,
        positions=positions[:, ::-1] * side,
        origin=(float(row), float(column)),
        pixel_size_m=side,
        errors=np.ravel(outputs.get("fourier_error_out", np.empty(0))).astype(np.float64),
        opr_modes=opr_modes,
        opr_weights=opr_weights,
        energy_kev=HC_KEV_M / wavelength if wavelength else None,
        distance_m=_number(path, p, "z"),
        notes=notes | ({"rotation_deg": angle} if angle else {}),
    )
    return assemble_result(path, found, {})


def _leading(array: Any, ndim: int) -> npt.NDArray[Any]:
    """Return MATLAB's (y, x, modes, ...) as (..., modes, y, x), with axes of length 1 where MATLAB dropped them."""
    array = np.asarray(array)
    array = array.reshape(*array.shape, *(1,) * (ndim - array.ndim)) if array.ndim < ndim else array
    return np.asarray(array.transpose(*range(array.ndim - 1, 1, -1), 0, 1))


def _needed(path: Path, group: dict[str, Any], name: str, key: str) -> Any:
    if key not in group:
        raise FormatError(f"{path} lacks {name}.{key}, without which object and positions have no scale")
    return group[key]


def _number(path: Path, group: dict[str, Any], key: str) -> float | None:
    value = np.asarray(group.get(key, 0.0))
    if value.size == 0:
        return None
    if value.dtype.kind not in "uif" or value.size != 1 or not np.isfinite(value).all():
        raise FormatError(f"{path}: p.{key} is {value.tolist()!r:.60}; allowed is one finite number")
    return float(value.reshape(())) or None


def _matlab5(path: Path) -> dict[str, Any]:
    try:
        content = loadmat(path, simplify_cells=True, variable_names=list(NEEDED))
    except (MatReadError, ValueError, TypeError, OSError, NotImplementedError) as error:
        raise FormatError(
            f"{path} is truncated or damaged ({error}); it should be a .mat file: copy it again"
        ) from None
    return {key: value for key, value in content.items() if isinstance(value, np.ndarray | dict)}


def _matlab73(path: Path) -> dict[str, Any]:
    with open_hdf5(path) as file:
        content = {key: _array(file[key]) for key in ("object", "probe") if isinstance(file.get(key), h5py.Dataset)}
        for name, keys in WANTED.items():
            if isinstance(file.get(name), h5py.Group):
                content[name] = {key: _array(file[name][key]) for key in keys if key in file[name]}
        return content


def _array(item: Any) -> Any:
    """Return a variable in MATLAB's order of axes, which HDF5 reverses; complex numbers are pairs."""
    if isinstance(item, h5py.Group):
        return {key: _array(item[key]) for key in item if isinstance(item[key], h5py.Dataset)}
    value = np.asarray(item[()])
    if value.dtype.names == ("real", "imag"):
        value = value["real"] + 1j * value["imag"]
    return value.T
