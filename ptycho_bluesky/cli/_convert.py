"""``ptycho-bluesky convert``: a measurement or a result from one format to another."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import typer

from ptycho_bluesky.cli._input import DistanceM, EnergyKev, FocusToSampleM, PixelM, check_writable
from ptycho_bluesky.cli._output import Json, emit, given, start_logging
from ptycho_bluesky.errors import FormatError

__all__ = ["convert"]

Format = Literal["npz", "cxi", "nxcxi", "ptyd", "hdf5", "ptyr", "product", "product-npz"]


def convert(
    source: Annotated[Path, typer.Argument(metavar="INPUT", help="Measurement or result, in any known format.")],
    output: Annotated[Path, typer.Argument(metavar="OUTPUT", help="File to write; its suffix chooses the format.")],
    format: Annotated[
        Format | None,
        typer.Option(
            help="npz, cxi, nxcxi or ptyd for a measurement; hdf5, cxi, ptyr, product or product-npz for a result."
        ),
    ] = None,
    energy_kev: EnergyKev = None,
    distance_m: DistanceM = None,
    detector_pixel_m: PixelM = None,
    focus_to_sample_m: FocusToSampleM = None,
    json_output: Json = False,
) -> None:
    """Convert a measurement or a result; which of them INPUT is, its content tells.

    What the new format has no place for is kept beside it, where it comes back from; the log says what.
    """
    start_logging(logging.INFO if not json_output else logging.WARNING)
    from ptycho_bluesky.formats import identify

    check_writable(output)
    kind = identify(source)
    options = given(
        energy_kev=energy_kev,
        distance_m=distance_m,
        detector_pixel_m=detector_pixel_m,
        focus_to_sample_m=focus_to_sample_m,
    )
    convert_one = _measurement if kind.measurement else _result
    emit(
        {
            "input": str(source),
            "input_format": kind.layout,
            **convert_one(source, output, format, options),
            "bytes": output.stat().st_size,
            "output": str(output),
        },
        json_output,
    )


def _measurement(source: Path, output: Path, format: Any, options: dict[str, Any]) -> dict[str, Any]:
    from ptycho_bluesky.formats import DatasetFormat, load_dataset, save_dataset

    if format not in (None, *get_args(DatasetFormat)):
        raise FormatError(
            f"{source} is a measurement, and {format} holds results; choose {', '.join(get_args(DatasetFormat))}"
        )
    dataset = load_dataset(source, **options)
    save_dataset(output, dataset, format)
    return {
        "kind": "measurement",
        "frames": len(dataset),
        "frame_shape": list(dataset.frame_shape),
        "modality": dataset.modality,
        "pixel_size_m": dataset.pixel_size_m,
    }


def _result(source: Path, output: Path, format: Any, options: dict[str, Any]) -> dict[str, Any]:
    from ptycho_bluesky.formats import ResultFormat, read_reconstruction, write_reconstruction

    if format not in (None, *get_args(ResultFormat)):
        raise FormatError(
            f"{source} is a result, and {format} holds measurements; choose {', '.join(get_args(ResultFormat))}"
        )
    if options:
        raise FormatError(f"{', '.join(options)}: these options describe a measurement, but {source} is a result")
    rec = read_reconstruction(source)
    write_reconstruction(output, rec, format)
    return {
        "kind": "result",
        "positions": len(rec.positions),
        "object_shape": list(rec.object.shape),
        "probe_shape": list(rec.probe.shape),
        "engine": rec.engine,
        "pixel_size_m": rec.pixel_size_m,
    }
