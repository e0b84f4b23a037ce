"""What the keys of somebody's run mean: a partial ``ptychography`` block whose values may be looked up in the run."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from ptycho_bluesky.catalog._frames import stream_array
from ptycho_bluesky.errors import CatalogError, DatasetError, report
from ptycho_bluesky.experiment import PtychographyMetadata

__all__ = ["Lookup", "block_from", "mapping_from", "merged", "resolved"]

REDUCE: dict[str, Callable[[Any], Any]] = {
    "first": lambda v: v[0],
    "last": lambda v: v[-1],
    "median": np.median,
    "mean": np.mean,
}


class Lookup(BaseModel):
    """A number that stands in the run: in a data key, in a device's configuration, or in the start document."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str | None = None
    """Data key, or configuration key where `device` is given."""

    stream: str = "primary"
    """Event stream of the key, e.g. ``"baseline"``."""

    device: str | None = None
    """Device whose configuration holds the key."""

    start: str | None = None
    """Instead of a key: place in the start document, with dots, e.g. ``"scan.detector_distance"``."""

    reduce: Literal["first", "last", "median", "mean"] = "median"
    """What is taken of several values."""

    scale: float = 1.0
    """Factor, e.g. 0.001 from eV to keV."""

    offset: float = 0.0
    """Added after the factor."""

    @model_validator(mode="after")
    def _one_place(self) -> Lookup:
        if (self.key is None) == (self.start is None):
            raise ValueError("give either key (with stream, device) or start")
        return self

    def value(self, run: Any) -> Any:
        """Return what stands there: a number scaled, or a text as it is.

        Raises
        ------
        CatalogError
            When there is no such place; the text names those that there are.
        """
        found = self._in_start(run) if self.start is not None else self._in_stream(run)
        if isinstance(found, str | bool):
            return found
        values = np.asarray(found, np.float64).reshape(-1)
        if not len(values) or not np.isfinite(values).all():
            raise CatalogError(f"{self.start or self.key}: the run holds {found!r} there; a finite number is needed")
        return float(REDUCE[self.reduce](values)) * self.scale + self.offset

    def _in_start(self, run: Any) -> Any:
        found: Any = run.metadata["start"]
        for part in str(self.start).split("."):
            if not isinstance(found, Mapping) or part not in found:
                known = sorted(found) if isinstance(found, Mapping) else "no more keys"
                raise CatalogError(f"start: {self.start!r} stops at {part!r}; there are {known}")
            found = found[part]
        return found

    def _in_stream(self, run: Any) -> Any:
        if self.device is None:
            return stream_array(run, str(self.key), self.stream).read()
        configuration = run[self.stream].metadata.get("configuration", {})
        if self.device not in configuration:
            raise CatalogError(f"stream {self.stream!r} has no device {self.device!r}; it has {sorted(configuration)}")
        data = configuration[self.device].get("data", {})
        if self.key not in data:
            raise CatalogError(f"configuration of {self.device!r} has no {self.key!r}; it has {sorted(data)}")
        return data[self.key]


def mapping_from(source: Path | str | Mapping[str, Any]) -> dict[str, Any]:
    """Return the partial ``ptychography`` block of a TOML file, or of plain values.

    Parameters
    ----------
    source:
        File with a table ``[ptychography]``, or its contents.

    Raises
    ------
    DatasetError
        When the file cannot be read, has other tables, or names keys that the block does not have.
    """
    if isinstance(source, Mapping):
        block, where = dict(source), "mapping"
    else:
        where = str(source)
        try:
            tables = tomllib.loads(Path(source).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise DatasetError(f"the mapping {where} cannot be read: {error}; it must be a TOML file") from None
        block = tables.get("ptychography", {})
        if set(tables) != {"ptychography"} or not isinstance(block, dict):
            raise DatasetError(f"{where} has {sorted(tables)}; one table [ptychography] is allowed, and needed")
    unknown = sorted(set(block) - set(PtychographyMetadata.model_fields))
    if unknown:
        allowed = ", ".join(PtychographyMetadata.model_fields)
        raise DatasetError(f"{where}: [ptychography] has the unknown keys {unknown}; allowed are {allowed}")
    return block


def merged(base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with the values of `change`, table by table."""
    found = dict(base)
    for key, value in change.items():
        before = found.get(key)
        tables = isinstance(before, Mapping) and isinstance(value, Mapping) and not _is_lookup(value)
        found[key] = merged(before, value) if tables and isinstance(before, Mapping) else value
    return found


def resolved(run: Any, block: Mapping[str, Any]) -> dict[str, Any]:
    """Return the block with all values looked up in the run.

    Raises
    ------
    DatasetError
        Naming every value that could not be found.
    """
    faults: list[str] = []
    found = _resolve(run, block, "", faults)
    if faults:
        raise DatasetError(report(f"mapping of run {str(run.metadata['start'].get('uid', '?'))[:8]}", faults))
    return dict(found)


def block_from(run: Any, *changes: Mapping[str, Any]) -> PtychographyMetadata:
    """Return the run's block with `changes` applied in their order, all values looked up.

    Raises
    ------
    DatasetError
        When there is no block at all, or one that is not complete; the text names every fault.
    """
    start = dict(run.metadata["start"])
    block: Mapping[str, Any] = start.get("ptychography") or {}
    for change in changes:
        block = merged(block, change)
    if changes:
        start["ptychography"] = resolved(run, block)
    return PtychographyMetadata.from_start(start)


def _is_lookup(value: Mapping[str, Any]) -> bool:
    return bool({"key", "start"} & set(value)) and set(value) <= set(Lookup.model_fields)


def _resolve(run: Any, value: Any, place: str, faults: list[str]) -> Any:
    if isinstance(value, list | tuple):
        return [_resolve(run, item, f"{place}[{i}]", faults) for i, item in enumerate(value)]
    if not isinstance(value, Mapping):
        return value
    if not _is_lookup(value):
        return {key: _resolve(run, item, f"{place}.{key}".lstrip("."), faults) for key, item in value.items()}
    try:
        return Lookup.model_validate(value).value(run)
    except ValidationError as error:
        faults.extend(f"{place}: {e['msg']}" for e in error.errors())
    except CatalogError as error:
        faults.append(f"{place}: {error}")
    return None
