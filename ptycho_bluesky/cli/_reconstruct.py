"""``ptycho-bluesky reconstruct``: a file, or a run in Tiled, to an image."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ptycho_bluesky.cli._interrupt import stop_on_interrupt
from ptycho_bluesky.cli._output import Json, emit, given, progress, say, start_logging
from ptycho_bluesky.errors import FormatError
from ptycho_bluesky.experiment import PtychoDataset

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = [
    "DistanceM",
    "EnergyKev",
    "FocusToSampleM",
    "PixelM",
    "check_writable",
    "load_input",
    "probe_of",
    "reconstruct_command",
]

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
    import h5py

    from ptycho_bluesky.formats import read_reconstruction

    path = Path(source)
    if path.is_file() and h5py.is_hdf5(path):
        try:
            return read_reconstruction(path).probe
        except FormatError:  # not a reconstruction: perhaps a dataset that carries a probe
            pass
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


def reconstruct_command(
    source: Annotated[str, typer.Argument(metavar="INPUT", help="Data file (NPZ, CXI) or uid of a run in Tiled.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="HDF5 file to write.")] = Path("reconstruction.h5"),
    engine: Annotated[str, typer.Option(help="Engine; auto chooses.")] = "auto",
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Passes over all frames; the engine's own by default.")
    ] = None,
    modes: Annotated[int | None, typer.Option(min=1, max=32, help="Incoherent probe modes.")] = None,
    device: Annotated[Literal["cpu", "cuda"], typer.Option(help="Where to compute.")] = "cpu",
    max_seconds: Annotated[
        float | None, typer.Option(min=0, help="Stop after this long, with a usable result.")
    ] = None,
    picture: Annotated[Path | None, typer.Option(help="PNG of phase, amplitude and probe to write as well.")] = None,
    energy_kev: EnergyKev = None,
    distance_m: DistanceM = None,
    detector_pixel_m: PixelM = None,
    focus_to_sample_m: FocusToSampleM = None,
    json_output: Json = False,
) -> None:
    """Reconstruct object and probe from a recorded file, or from a run in the catalogue.

    Ctrl-C stops at the next step and keeps the result.
    """
    start_logging(logging.INFO if not json_output else logging.WARNING)
    from ptycho_bluesky.cli._compare import result_picture
    from ptycho_bluesky.formats import write_reconstruction
    from ptycho_bluesky.reconstruction import reconstruct

    for file in (output, picture):
        check_writable(file)
    dataset = load_input(
        source,
        energy_kev=energy_kev,
        distance_m=distance_m,
        detector_pixel_m=detector_pixel_m,
        focus_to_sample_m=focus_to_sample_m,
    )
    wanted = given(epochs=epochs, modes=modes)
    with progress(f"reconstructing {dataset.name}", None) as update, stop_on_interrupt("the result") as should_stop:
        rec = reconstruct(
            dataset,
            engine,
            wanted,
            device=device,
            max_seconds=max_seconds,
            should_stop=should_stop,
            on_state=lambda state: update(state.epoch, f"R {state.r_factor:.4f}", state.epochs),
        )
    write_reconstruction(output, rec)
    if picture is not None:
        result_picture(picture, rec)
        say(f"picture: {picture}")
    emit(
        {
            "engine": rec.engine,
            "device": rec.provenance.get("device", device),
            "ranks": rec.provenance.get("ranks", 1),
            "frames": len(dataset),
            "epochs": len(rec.errors),
            "modes": len(rec.probe),
            "seconds": rec.provenance["seconds"],
            "seconds_per_epoch": rec.provenance["seconds_per_epoch"],
            "r_factor": rec.r_factor,
            "phase_contrast_rad": rec.phase_contrast_rad,
            "object_shape": list(rec.object.shape),
            "pixel_size_m": rec.pixel_size_m,
            "output": str(output),
        },
        json_output,
    )
