"""What the commands read: a file or a run in Tiled, and the options that describe it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ptycho_bluesky.cli._output import given
from ptycho_bluesky.errors import FormatError
from ptycho_bluesky.experiment import PtychoDataset

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["DistanceM", "EnergyKev", "FocusToSampleM", "PixelM", "check_writable", "load_input", "probe_of"]

EnergyKev = Annotated[float | None, typer.Option(help="Photon energy in keV, where the file has none.")]
DistanceM = Annotated[float | None, typer.Option(help="Sample to detector in metres, where the file has none.")]
PixelM = Annotated[float | None, typer.Option(help="Side of a detector pixel in metres, where the file has none.")]
FocusToSampleM = Annotated[
    float | None, typer.Option(help="Focus to sample (z1) in metres: a near field with a cone beam.")
]


def load_input(source: str, **options: Any) -> PtychoDataset:
    """Return the dataset of a file, or else of the Tiled run with this uid.

    Options whose value is None are as if they were not given.
    """
    from ptycho_bluesky.formats import load_dataset

    chosen = given(**options)
    if Path(source).exists() or Path(source).suffix:
        return load_dataset(Path(source), **chosen)
    if chosen:
        raise FormatError(f"{', '.join(chosen)}: these options describe a file, but {source!r} is no file here")
    from ptycho_bluesky.catalog import connect, dataset_from_run

    client = connect()
    try:
        run = client["raw"][source]
    except KeyError:
        raise FormatError(
            f"{source!r} is neither a file nor the uid of a run in the catalogue; give a path or a uid"
        ) from None
    return dataset_from_run(run)


def probe_of(source: str) -> npt.NDArray[np.complex64]:
    """Return the probe of a reconstruction file, or else of a dataset."""
    from ptycho_bluesky.formats import identify, read_reconstruction

    path = Path(source)
    if path.is_file() and identify(path).result:
        return read_reconstruction(path).probe
    probe = load_input(source).probe
    if probe is None:
        raise FormatError(f"{source} holds no probe; give a reconstruction, or a dataset with a probe")
    return probe


def check_writable(file: Path | None) -> None:
    """Refuse a file that could not be written, before the work is done and not after it."""
    if file is None:
        return
    if not file.parent.is_dir() or not os.access(file.parent, os.W_OK) or file.is_dir():
        raise FormatError(f"{file} cannot be written; give a file in a folder that exists and can be written to")
