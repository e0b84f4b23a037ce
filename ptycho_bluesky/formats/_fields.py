"""Fields of a record to HDF5 and NPZ and back, whatever fields the record has.

A result's own file is written so. So is what another program's layout has no place for: it stands in a group of our
own beside the layout, which other programs pass over, so that a file that comes back has lost nothing.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import h5py
import numpy as np

from ptycho_bluesky.errors import FormatError

__all__ = ["KEPT", "keep_hdf5", "keep_npz", "kept_hdf5", "kept_npz", "put", "record", "take", "values_of"]

log = logging.getLogger(__name__)

KEPT = "ptycho_bluesky"
"""Name of the group (HDF5) and prefix of the keys (NPZ) for what a layout has no place for."""

Record = TypeVar("Record")


def values_of(value: Any, leave_out: Collection[str] = ()) -> dict[str, Any]:
    """Return the fields of a dataclass that are not None, but for those in `leave_out`."""
    found = {field.name: getattr(value, field.name) for field in fields(value) if field.name not in leave_out}
    return {name: item for name, item in found.items() if item is not None}


def put(path: Path, group: h5py.Group, values: Mapping[str, Any]) -> None:
    """Write `values`: arrays as datasets, numbers and texts as attributes, all else as JSON texts.

    Raises
    ------
    FormatError
        When a value is none of these.
    """
    for name, value in values.items():
        if isinstance(value, np.ndarray):
            group[name] = value
        elif isinstance(value, bool | int | float | str):
            group.attrs[name] = value
        elif isinstance(value, tuple) and all(isinstance(item, int | float) for item in value):
            group.attrs[name] = np.asarray(value, dtype=np.float64)
        else:
            group[name] = _to_json(path, name, value)


def take(group: h5py.Group) -> dict[str, Any]:
    """Return what :func:`put` wrote, and no other group."""
    values: dict[str, Any] = {}
    for name, item in group.items():
        if isinstance(item, h5py.Dataset):
            text = h5py.check_string_dtype(item.dtype) is not None
            values[name] = json.loads(item.asstr()[()]) if text else _native(item[()])
    for name, item in group.attrs.items():
        plain = item.tolist() if isinstance(item, np.ndarray | np.generic) else item
        values[name] = tuple(plain) if isinstance(plain, list) else plain
    return values


def _native(value: Any) -> Any:
    """Return an array in the machine's byte order; torch and numba take no other."""
    return value.astype(value.dtype.newbyteorder("="), copy=False)


def record(path: Path, kind: type[Record], values: Mapping[str, Any]) -> Record:
    """Return the dataclass `kind` made of `values`; fields that may be None or have a default may be missing.

    Raises
    ------
    FormatError
        When a field without a default is missing.
    """
    hints, given = get_type_hints(kind), {}
    for field in fields(kind):  # type: ignore[arg-type]
        hint = hints[field.name]
        if field.name in values:
            value = values[field.name]
            given[field.name] = tuple(value) if get_origin(hint) is tuple else value
        elif field.default is MISSING and field.default_factory is MISSING:
            if type(None) not in get_args(hint):
                raise FormatError(f"{path} is damaged: it lacks {field.name}; copy the file again")
            given[field.name] = None
    if unknown := sorted(set(values) - set(hints)):
        log.warning("%s holds %s, which this release does not know; it is left out", path, ", ".join(unknown))
    return kind(**given)


def keep_hdf5(path: Path, file: h5py.File, layout: str, values: Mapping[str, Any], part: str = "") -> None:
    """Write what `layout` has no place for into (a part of) a group of our own, and say so in the log."""
    if values:
        _say(path, layout, values)
        put(path, file.require_group(f"{KEPT}/{part}"), values)


def kept_hdf5(file: h5py.File, part: str = "") -> dict[str, Any]:
    """Return what :func:`keep_hdf5` wrote; nothing where another program wrote the file."""
    group = f"{KEPT}/{part}"
    return take(file[group]) if group in file else {}


def keep_npz(path: Path, layout: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arrays of an NPZ file that hold what `layout` has no place for."""
    if values:
        _say(path, layout, values)
    return {
        f"{KEPT}.{name}": value if isinstance(value, np.ndarray) else np.array(_to_json(path, name, value))
        for name, value in values.items()
    }


def kept_npz(arrays: Any) -> dict[str, Any]:
    """Return what :func:`keep_npz` returned; nothing where another program wrote the file."""
    found = {key.removeprefix(f"{KEPT}."): arrays[key] for key in arrays.files if key.startswith(f"{KEPT}.")}
    return {name: json.loads(str(value)) if value.dtype.kind == "U" else value for name, value in found.items()}


def _say(path: Path, layout: str, values: Mapping[str, Any]) -> None:
    log.info(
        "%s: %s has no place for %s; kept under %s, which other programs pass over",
        path,
        layout,
        ", ".join(sorted(values)),
        KEPT,
    )


def _to_json(path: Path, name: str, value: Any) -> str:
    try:
        return json.dumps(value)
    except (TypeError, ValueError) as error:
        raise FormatError(
            f"{path} was not written: {name} holds what JSON cannot ({error}); use numbers, texts, lists and dicts"
        ) from None
