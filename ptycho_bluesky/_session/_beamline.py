"""From a few words to devices: a simulated sample, a TOML file, or a beamline that is there already."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from pydoc import ErrorDuringImport, locate
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from ptycho_bluesky.config import settings
from ptycho_bluesky.errors import ConfigurationError, report
from ptycho_bluesky.experiment import PtychographyMetadata, ScanPattern, pattern_named

__all__ = ["BeamlineFile", "Devices", "beamline_from"]

NEEDED = ("stage", "detector", "metadata")


@dataclass(frozen=True)
class Devices:
    """What a session needs of a beamline; :class:`ptycho_bluesky.devices.Beamline` has it, too."""

    stage: Any
    """With axes ``y`` and ``x``."""
    detector: Any
    metadata: PtychographyMetadata
    pattern: ScanPattern | None = None
    """What ``s.scan()`` measures when it is told nothing."""
    flyer: Any = None
    """For fly scans."""


class DeviceFile(BaseModel):
    """One device of a beamline's TOML file: what makes it, and the arguments for that."""

    model_config = ConfigDict(extra="allow", frozen=True)

    make: str
    """Class or function with its module, e.g. ``"ptycho_bluesky.devices.epics.EpicsStage"``."""


class BeamlineFile(BaseModel):
    """A beamline's TOML file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    control_layer: Literal["caproto", "pyepics", "dummy"] | None = None
    """EPICS client of classic devices; None leaves ophyd's choice."""
    stage: DeviceFile
    detector: DeviceFile
    flyer: DeviceFile | None = None
    metadata: dict[str, Any]
    """The ``ptychography`` block: geometry, data keys, units and signs of the axes, probe."""
    pattern: dict[str, Any] | None = None
    """Name and arguments, metres."""


def beamline_from(given: Any, simulation: Mapping[str, Any]) -> tuple[Any, str]:
    """Return a beamline (``stage``, ``detector``, ``metadata``, ``pattern``, ``flyer``) and its name for people.

    Parameters
    ----------
    given:
        Name of a simulated sample, path of a TOML file, or an object that has the devices.
    simulation:
        More arguments of :func:`ptycho_bluesky.devices.simulated_beamline`.

    Raises
    ------
    ConfigurationError
        When it is none of these, or the file does not describe a beamline.
    """
    from ptycho_bluesky.devices import SPECIMENS, simulated_beamline

    if isinstance(given, str) and given in SPECIMENS:
        options = {"folder": settings().home / "beamlines" / "session", **simulation}
        return simulated_beamline(given, **options), f"simulated {given}"
    if simulation:
        raise ConfigurationError(f"{', '.join(simulation)}: only a simulated sample takes these, not {given!r}")
    if all(hasattr(given, name) for name in NEEDED):
        return given, type(given).__name__
    if isinstance(given, str | Path) and (path := Path(given).expanduser()).suffix == ".toml":
        return _from_file(path), path.stem
    raise ConfigurationError(
        f"the beamline is {given!r}; allowed are a simulated sample ({', '.join(sorted(SPECIMENS))}), a TOML file, the "
        f"folder of a profile, or an object with {', '.join(NEEDED)}"
    )


def _from_file(path: Path) -> Devices:
    try:
        file = BeamlineFile.model_validate(tomllib.loads(path.read_text()))
        metadata = PtychographyMetadata.model_validate(file.metadata)
    except OSError as error:
        raise ConfigurationError(f"the beamline {path} cannot be read: {error.strerror}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"the beamline {path} is no valid TOML: {error}") from None
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        raise ConfigurationError(report(f"beamline {path}", faults)) from None
    if file.control_layer is not None:
        import ophyd

        ophyd.set_cl(file.control_layer)
    parts = {"stage": file.stage, "detector": file.detector, "flyer": file.flyer}
    made = {name: _made(name, part) for name, part in parts.items() if part is not None}
    if any(type(device).__module__.startswith("ptycho_bluesky.devices.epics") for device in made.values()):
        from ptycho_bluesky.devices.epics import connect_devices

        connect_devices(*made.values())
    arguments = dict(file.pattern or {})
    pattern = pattern_named(arguments.pop("name", None), arguments) if file.pattern else None
    return Devices(**made, metadata=metadata, pattern=pattern)


def _made(name: str, part: DeviceFile) -> Any:
    try:
        make = locate(part.make)
    except ErrorDuringImport as error:
        raise ConfigurationError(f"{name}: {part.make!r} cannot be imported: {error.value}") from None
    if not callable(make):
        raise ConfigurationError(f"{name}: there is no {part.make!r}; correct the name, or install what has it")
    try:
        return make(**{"name": name, **(part.model_extra or {})})
    except TypeError as error:
        raise ConfigurationError(f"{name}: {part.make} refuses its arguments: {error}") from None
