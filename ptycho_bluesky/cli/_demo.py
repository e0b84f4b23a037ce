"""``ptycho-bluesky demo``: the whole way on the simulated beamline, and how good its images are."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Annotated

import typer

from ptycho_bluesky.cli._output import Json, emit, given, say, start_logging
from ptycho_bluesky.config import settings

__all__ = ["demo"]


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the pictures.")] = Path("demo-output"),
    specimen: Annotated[
        str, typer.Option(help="Sample: siemens-star, cells, foam or integrated-circuit.")
    ] = "siemens-star",
    photons: Annotated[float, typer.Option(min=1, help="Photons a frame.")] = 5e5,
    model: Annotated[str, typer.Option(help="Network for the live image: a name or a file.")] = "default",
    engine: Annotated[str, typer.Option(help="Engine of the reconstruction; auto chooses.")] = "auto",
    epochs: Annotated[
        int, typer.Option(min=1, help="Passes over all frames; a number of one's own skips the polish.")
    ] = 40,
    modes: Annotated[int | None, typer.Option(min=1, max=32, help="Incoherent probe modes.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of sample, noise and stage.")] = 0,
    json_output: Json = False,
) -> None:
    """Scan a simulated sample, watch it live, reconstruct it and find the result in Tiled; no hardware, no GPU.

    Writes pictures of the sample, the live image and the reconstruction side by side.
    """
    start_logging()
    from ptycho_bluesky.cli._compare import compare_with_truth, pictures
    from ptycho_bluesky.cli._whole_way import whole_way
    from ptycho_bluesky.devices import simulated_beamline

    folder = settings().home / "beamlines" / uuid.uuid4().hex
    beamline = simulated_beamline(specimen, photons_per_frame=photons, folder=folder, seed=seed)
    options = given(epochs=epochs, modes=modes)
    outcome = whole_way(
        beamline, model=model, engine=engine, options=options, md={"sample": specimen, "purpose": "demo"}
    )
    rec = outcome.result.to_reconstruction()
    images = compare_with_truth(beamline, rec, Path(outcome.live["mosaic"]))
    written = pictures(output, images, rec)
    say(f"pictures: {', '.join(map(str, written))}")
    emit(
        {
            **outcome.summary(),
            "correlation_reconstruction": images.reconstruction_correlation,
            "correlation_live": images.live_correlation,
            "pictures": [str(path) for path in written],
        },
        json_output,
    )
