"""``ptycho-bluesky infer``: a recorded file through a network, to a mosaic."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from ptycho_bluesky.cli._input import DistanceM, EnergyKev, PixelM, check_writable, load_input, probe_of
from ptycho_bluesky.cli._output import Json, emit, progress, say, start_logging

__all__ = ["infer_command"]


def infer_command(
    source: Annotated[str, typer.Argument(metavar="INPUT", help="Data file (NPZ, CXI) or uid of a run in Tiled.")],
    model: Annotated[str, typer.Option("--model", "-m", help="Network: a name or a file.")] = "default",
    output: Annotated[Path, typer.Option("--output", "-o", help="NPZ file to write.")] = Path("mosaic.npz"),
    probe: Annotated[
        str | None, typer.Option(help="Where the file has no probe: a reconstruction, or a dataset with one.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, max=1024, help="Frames for one call of the network.")] = 8,
    backend: Annotated[
        Literal["auto", "torch", "openvino", "onnxruntime"],
        typer.Option(help="What computes the network; auto measures what is installed."),
    ] = "auto",
    precision: Annotated[
        Literal["auto", "f32", "bf16", "f16", "int8"],
        typer.Option(help="Numbers it computes with; int8 is calibrated with this input's frames, once."),
    ] = "auto",
    threads: Annotated[
        int, typer.Option(min=1, help="CPU threads; more than one pays only where nothing else uses the cores.")
    ] = 1,
    picture: Annotated[Path | None, typer.Option(help="PNG of the phase to write as well.")] = None,
    energy_kev: EnergyKev = None,
    distance_m: DistanceM = None,
    detector_pixel_m: PixelM = None,
    json_output: Json = False,
) -> None:
    """Run a network over every frame of a dataset, as a live scan would, and put the patches together."""
    start_logging()
    import torch

    from ptycho_bluesky.cli._pictures import Panel, save_panels
    from ptycho_bluesky.inference import infer, load_model
    from ptycho_bluesky.inference.backends import BackendOptions

    torch.set_num_threads(threads)
    for file in (output, picture):
        check_writable(file)
    dataset = load_input(source, energy_kev=energy_kev, distance_m=distance_m, detector_pixel_m=detector_pixel_m)
    known = None if probe is None else probe_of(probe)
    with progress(f"inferring {dataset.name}", len(dataset)) as update:
        result = infer(
            dataset,
            load_model(model),
            probe=known,
            batch=batch,
            backend=BackendOptions(name=backend, precision=precision, threads=threads),
            on_progress=lambda done, total: update(done, "", total),
        )
    result.save(output)
    if picture is not None:
        pixel = None if dataset.pixel_size_m is None else result.pixel_size
        save_panels(picture, [Panel(f"{dataset.name}: live image", result.phase, pixel)])
        say(f"picture: {picture}")
    emit({**result.report(), "output": str(output)}, json_output)
