"""``ptycho-bluesky replay``: the whole way over recorded data, as if they were measured now."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Annotated

import typer

from ptycho_bluesky.cli._input import DistanceM, EnergyKev, FocusToSampleM, PixelM, load_input
from ptycho_bluesky.cli._output import Json, emit, given, say, start_logging
from ptycho_bluesky.config import settings

__all__ = ["replay"]


def replay(
    source: Annotated[str, typer.Argument(metavar="INPUT", help="Data file (NPZ, CXI) or uid of a run in Tiled.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the pictures.")] = Path("replay-output"),
    model: Annotated[str, typer.Option(help="Network for the live image: a name or a file.")] = "default",
    engine: Annotated[str, typer.Option(help="Engine of the reconstruction; auto chooses.")] = "auto",
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over all frames.")] = None,
    modes: Annotated[int | None, typer.Option(min=1, max=32, help="Incoherent probe modes.")] = None,
    rate_hz: Annotated[float | None, typer.Option(min=0.01, help="Frames a second; as fast as possible.")] = None,
    max_seconds: Annotated[float | None, typer.Option(min=0, help="Limit of the reconstruction's time.")] = None,
    energy_kev: EnergyKev = None,
    distance_m: DistanceM = None,
    detector_pixel_m: PixelM = None,
    focus_to_sample_m: FocusToSampleM = None,
    json_output: Json = False,
) -> None:
    """Play a recorded scan back through devices, plan, live inference, dispatch and Tiled."""
    start_logging()
    from ptycho_bluesky.cli._compare import live_on_grid, result_picture
    from ptycho_bluesky.cli._pictures import Panel, save_panels
    from ptycho_bluesky.cli._whole_way import whole_way
    from ptycho_bluesky.devices import replay_beamline

    dataset = load_input(
        source,
        energy_kev=energy_kev,
        distance_m=distance_m,
        detector_pixel_m=detector_pixel_m,
        focus_to_sample_m=focus_to_sample_m,
    )
    pace = {} if rate_hz is None else {"rate_hz": rate_hz}
    beamline = replay_beamline(dataset, folder=settings().home / "beamlines" / uuid.uuid4().hex, **pace)
    options = given(epochs=epochs, modes=modes)
    outcome = whole_way(
        beamline,
        model=model,
        engine=engine,
        options=options,
        max_seconds=max_seconds,
        md={"sample": dataset.name, "purpose": "replay"},
    )
    rec = outcome.result.to_reconstruction()
    written = [result_picture(output / "reconstruction.png", rec)]
    if outcome.live["frames_inferred"]:
        live = live_on_grid(Path(outcome.live["mosaic"]), rec)
        panels = [Panel("live image", live, rec.pixel_size_m), Panel("reconstruction", rec.phase, rec.pixel_size_m)]
        written.append(save_panels(output / "live-reconstruction.png", panels))
    say(f"pictures: {', '.join(map(str, written))}")
    emit({**outcome.summary(), "pictures": [str(path) for path in written]}, json_output)
