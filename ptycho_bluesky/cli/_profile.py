"""``ptycho-bluesky profile``: a beamline's startup files, queue server, instrument and Tiled server, to be edited."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Annotated, Literal

import typer

from ptycho_bluesky.cli._output import Json, emit, start_logging
from ptycho_bluesky.errors import ConfigurationError

__all__ = ["app", "make_profile"]

app = typer.Typer(no_args_is_help=True, help="Profiles of a beamline: new.")

TEMPLATES = Path(__file__).parents[1] / "profiles"
LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.pyc", "existing_plans_and_devices.yaml")

Devices = Literal["simulated", "epics"]


def make_profile(name: str, folder: Path, devices: Devices = "simulated", prefix: str = "") -> list[Path]:
    """Write the profile of a beamline into ``folder/name`` and return its files.

    Parameters
    ----------
    name:
        Of the beamline: letters, digits, ``-`` and ``_``, a letter first.
    folder:
        Where to.
    devices:
        ``"simulated"``: the package's own beamline, complete; ``"epics"``: motor records and areaDetector.
    prefix:
        Of the process variables, e.g. ``"26idc:"``; for ``"epics"``.

    Raises
    ------
    ConfigurationError
        When the name is not allowed, the folder exists, or cannot be written.
    """
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]{0,62}", name):
        raise ConfigurationError(
            f"the profile's name is {name!r}; allowed are letters, digits, '-' and '_', a letter first"
        )
    if devices == "epics" and not prefix:
        raise ConfigurationError("a profile with EPICS devices needs the prefix of their process variables (--prefix)")
    target = folder.expanduser().absolute() / name
    if target.exists():
        raise ConfigurationError(f"{target} exists already; choose another name or folder, or remove it first")
    try:
        shutil.copytree(TEMPLATES, target, ignore=LEFT_OUT)
        (target / "__init__.py").unlink()
        _fill(target, name, devices, prefix)
    except OSError as error:
        raise ConfigurationError(f"the profile cannot be written to {target}: {error}") from None
    return sorted(path for path in target.rglob("*") if path.is_file())


def _fill(target: Path, name: str, devices: Devices, prefix: str) -> None:
    """Put the beamline's name and devices into the copied templates."""
    by_epics = target / "profile_ptycho" / "beamline-epics.py"
    if devices == "epics":
        text = by_epics.read_text().replace("PREFIX", prefix)
        (target / "profile_ptycho" / "startup" / "10-beamline.py").write_text(text)
    by_epics.unlink()
    start = target / "profile_ptycho" / "startup" / "00-runengine.py"
    start.write_text(start.read_text().replace("RunEngine()", f'RunEngine({{"beamline_id": "{name}"}})'))
    instrument = target / "instrument_ptycho" / "configs" / "iconfig.yml"
    instrument.write_text(instrument.read_text().replace("BEAMLINE", name))
    manager = target / "queueserver" / "re-manager.yml"
    manager.write_text(manager.read_text().replace("redis_name_prefix: ptycho", f"redis_name_prefix: {name}"))


@app.callback()
def _root() -> None:
    start_logging()


@app.command("new")
def new(
    name: Annotated[str, typer.Argument(help="Of the beamline; a folder of this name is made.")],
    folder: Annotated[Path, typer.Option(help="Where to make it.")] = Path(),
    devices: Annotated[Devices, typer.Option(help="What it begins with.")] = "simulated",
    prefix: Annotated[str, typer.Option(help="Of the EPICS process variables, e.g. 26idc: .")] = "",
    json_output: Json = False,
) -> None:
    """Make a profile for a beamline: IPython startup files, queue server, BITS-style instrument, Tiled server.

    `ptycho-bluesky doctor --profile NAME` then says what is wrong with it.
    """
    files = make_profile(name, folder, devices, prefix)
    target = folder.expanduser().absolute() / name
    emit({"profile": str(target), "devices": devices, "files": len(files)}, json_output)
