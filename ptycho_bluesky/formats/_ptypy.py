"""HDF5 as PtyPy's ``io.h5rw`` writes and reads it: each item carries an attribute ``type``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from ptycho_bluesky.errors import FormatError

__all__ = ["pair", "put_param", "scalar", "value"]


def put_param(group: h5py.Group, values: Mapping[str, Any]) -> None:
    """Write `values` under `group`, each with the type by which PtyPy reads it back."""
    group.attrs["type"] = "dict"
    for key, value in values.items():
        if isinstance(value, Mapping):
            put_param(group.create_group(key), value)
            continue
        if isinstance(value, str):
            group.create_dataset(key, data=value, dtype=h5py.string_dtype())
            group[key].attrs["type"] = "string"
        else:
            group[key] = np.zeros(1) if value is None else value
            group[key].attrs["type"] = (
                "None" if value is None else "array" if isinstance(value, np.ndarray) else "scalar"
            )


def value(group: h5py.Group, key: str) -> Any:
    """Return an item as stored; None where it is missing or PtyPy's None."""
    stored = group.get(key)
    kind = None if stored is None else stored.attrs.get("type")
    return None if stored is None or kind in ("None", b"None") else stored[()]


def scalar(path: Path, group: h5py.Group, key: str) -> float | None:
    """Return one finite number; None where there is none.

    Raises
    ------
    FormatError
        When it is something else.
    """
    found = value(group, key)
    if found is None:
        return None
    number = np.asarray(found)
    if number.dtype.kind not in "uif" or number.size != 1 or not np.isfinite(number).all():
        raise FormatError(f"{path}: {group.name}/{key} is {number.tolist()!r:.60}; allowed is one finite number")
    return float(number.reshape(()))


def pair(path: Path, group: h5py.Group, key: str) -> npt.NDArray[np.float64] | None:
    """Return two finite numbers (rows, columns), or one for both; None where there are none.

    Raises
    ------
    FormatError
        When it is something else.
    """
    found = value(group, key)
    if found is None:
        return None
    numbers = np.asarray(found)
    if numbers.dtype.kind not in "uif" or numbers.size not in (1, 2) or not np.isfinite(numbers).all():
        raise FormatError(f"{path}: {group.name}/{key} is {numbers.tolist()!r:.60}; allowed are two finite numbers")
    return np.broadcast_to(numbers.astype(np.float64).ravel(), 2)
