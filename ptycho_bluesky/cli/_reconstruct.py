"""``ptycho-bluesky reconstruct``: a file, or a run in Tiled, to an image."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ptycho_bluesky.cli._arrays import is_campaign, submitted
from ptycho_bluesky.cli._input import DistanceM, EnergyKev, FocusToSampleM, PixelM, check_writable, load_input
from ptycho_bluesky.cli._interrupt import stop_on_interrupt
from ptycho_bluesky.cli._output import Json, emit, given, progress, say, start_logging
from ptycho_bluesky.errors import FormatError
from ptycho_bluesky.experiment import PtychoDataset, Reconstruction

if TYPE_CHECKING:
    from ptycho_bluesky.reconstruction import EngineState
    from ptycho_bluesky.reconstruction.distributed import Progress

__all__ = ["reconstruct_command"]


def _options(pairs: list[str] | None, name: str = "--set", example: str = "step=0.5") -> dict[str, Any]:
    """Return the options in ``KEY=VALUE`` texts; a value that is JSON is read as such, any other is a text."""
    options = {}
    for pair in pairs or []:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise FormatError(f"{name} {pair}: give KEY=VALUE, e.g. {name} {example}")
        try:
            options[key] = json.loads(text)
        except json.JSONDecodeError:
            options[key] = text
    return options


def reconstruct_command(
    sources: Annotated[
        list[str],
        typer.Argument(metavar="INPUT...", help="Data file (NPZ, CXI, ...), uid of a run in Tiled, or of a campaign."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="HDF5 file to write.")] = Path("reconstruction.h5"),
    engine: Annotated[str, typer.Option(help="Engine; auto chooses and chains the others.")] = "auto",
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Passes over all frames; the engine's own by default.")
    ] = None,
    modes: Annotated[int | None, typer.Option(min=1, max=32, help="Incoherent probe modes.")] = None,
    position_correction: Annotated[
        bool | None, typer.Option("--position-correction/--no-position-correction", help="Refine the positions.")
    ] = None,
    background: Annotated[bool | None, typer.Option("--background", help="Estimate scattered counts.")] = None,
    opr: Annotated[int | None, typer.Option(min=0, help="Modes by which the probe varies from frame to frame.")] = None,
    slices: Annotated[int | None, typer.Option(min=1, help="Slices of a thick object.")] = None,
    slice_distance_m: Annotated[float | None, typer.Option(help="Between two slices, metres.")] = None,
    refine_distance: Annotated[
        bool, typer.Option("--refine-distance", help="Near field: find the distance that explains the frames best.")
    ] = False,
    start: Annotated[
        Path | None, typer.Option(help="Begin at a result (HDF5) or a live mosaic (NPZ) of the same field.")
    ] = None,
    share: Annotated[
        Literal["object", "probe"] | None, typer.Option(help="What several INPUTs have in common.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any other option of the engine.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check/--no-check", help="Refuse data whose axes, signs, scale or units look wrong.")
    ] = True,
    device: Annotated[Literal["cpu", "cuda"], typer.Option(help="Where to compute.")] = "cpu",
    ranks: Annotated[
        int | None, typer.Option(min=1, help="Processes that share frames and object, one for each core or GPU.")
    ] = None,
    together: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="With --ranks: how they work together, e.g. weights=[1,2]."),
    ] = None,
    checkpoints: Annotated[
        Path | None, typer.Option(help="With --ranks: folder to save to, and to go on from after a break.")
    ] = None,
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

    The uid of a campaign submits one job for each of its runs, followed by `jobs array`.
    Several INPUTs with --share give one result each, OUT-1.h5, OUT-2.h5, ... Ctrl-C stops at the next step and keeps
    the result.
    """
    start_logging(logging.INFO if not json_output else logging.WARNING)
    from ptycho_bluesky.cli._compare import result_picture
    from ptycho_bluesky.formats import write_reconstruction
    from ptycho_bluesky.reconstruction import read_start, reconstruct, reconstruct_scans
    from ptycho_bluesky.reconstruction.distributed import reconstruct_ranks

    for file in (output, picture):
        check_writable(file)
    if (share is None) != (len(sources) == 1):
        raise FormatError(f"{len(sources)} inputs and --share {share}: give one input, or several and what they share")
    if share is not None and (start is not None or refine_distance or picture is not None):
        raise FormatError("--start, --refine-distance and --picture are for one input; leave them out with --share")
    if ranks is not None and (share is not None or refine_distance):
        raise FormatError("--share and --refine-distance are for one process; leave --ranks out with them")
    if ranks is None and (checkpoints is not None or together):
        raise FormatError("--checkpoints and --together are for ranks; give --ranks as well")
    measured = given(
        energy_kev=energy_kev,
        distance_m=distance_m,
        detector_pixel_m=detector_pixel_m,
        focus_to_sample_m=focus_to_sample_m,
    )
    wanted = given(
        epochs=epochs,
        modes=modes,
        position_correction=position_correction,
        background=background,
        opr=opr,
        slices=slices,
        slice_distance_m=slice_distance_m,
    ) | _options(settings)
    if not measured and len(sources) == 1 and is_campaign(sources[0]):
        refused = given(start=start, picture=picture, checkpoints=checkpoints, together=together) | (
            {"refine_distance": True} if refine_distance else {}
        )
        if refused:
            raise FormatError(f"{', '.join(refused)}: for one scan, but {sources[0]} is a campaign; leave them out")
        asked = given(max_seconds=max_seconds, ranks=ranks)
        emit(submitted(sources[0], engine=engine, options=wanted, device=device, **asked), json_output)
        return
    datasets = [load_input(source, **measured) for source in sources]
    beginning = None if start is None else read_start(start)
    with progress(f"reconstructing {datasets[0].name}", None) as update, stop_on_interrupt("the result") as should_stop:

        def tell(state: EngineState | Progress) -> None:
            update(state.epoch, f"R {state.r_factor:.4f}", state.epochs)

        common: dict[str, Any] = {"device": device, "max_seconds": max_seconds, "should_stop": should_stop}
        alone: dict[str, Any] = {
            "start": beginning,
            "refine_distance": refine_distance,
            "check": check,
            "on_state": tell,
        }
        if ranks is not None:
            where = sources[0] if Path(sources[0]).is_file() else datasets[0]
            division = None if picture is None else picture.with_stem(f"{picture.stem}-partition")
            of_ranks: dict[str, Any] = {
                "together": _options(together, "--together", "weights=[1,2]"),
                "load": measured,
                "check": check,
                "start": start,
                "folder": checkpoints,
                "on_progress": tell,
                "picture": division,
            }
            results = [reconstruct_ranks(where, ranks, engine, wanted, **of_ranks, **common)]
        elif share is None:
            results = [reconstruct(datasets[0], engine, wanted, **alone, **common)]
        else:
            results = reconstruct_scans(datasets, share, engine, wanted, on_state=tell, **common)
    outputs = [output]
    if share is not None:
        outputs = [output.with_stem(f"{output.stem}-{number + 1}") for number in range(len(results))]
    for file, rec in zip(outputs, results, strict=True):
        write_reconstruction(file, rec)
    if picture is not None:
        result_picture(picture, results[0])
        say(f"picture: {picture}")
    summaries = [_summary(*each) for each in zip(datasets, results, outputs, strict=True)]
    emit(summaries[0] | ({"scans": summaries} if share is not None else {}), json_output)


def _summary(dataset: PtychoDataset, rec: Reconstruction, output: Path) -> dict[str, Any]:
    return {
        "engine": rec.engine,
        "device": rec.provenance["device"],
        "ranks": rec.provenance["ranks"],
        "frames": len(dataset),
        "epochs": len(rec.errors),
        "modes": len(rec.probe),
        "seconds": rec.provenance["seconds"],
        "seconds_per_epoch": rec.provenance["seconds_per_epoch"],
        "r_factor": rec.r_factor,
        "phase_contrast_rad": rec.phase_contrast_rad,
        "object_shape": list(rec.object.shape),
        "pixel_size_m": rec.pixel_size_m,
        "messages": rec.provenance["messages"],
        "output": str(output),
    } | _of_ranks(rec)


def _of_ranks(rec: Reconstruction) -> dict[str, Any]:
    """Return how ranks shared the work: the quality of the partition, and what each computed, held and sent."""
    found = rec.provenance.get("distributed")
    if found is None:
        return {}
    return {"distributed": {key: found[key] for key in ("partition", "divisions", "checkpoints_s", "of_rank")}}
