"""``ptycho-bluesky ioc``: the simulated beamline, or a recorded measurement, as an EPICS IOC."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from ptycho_bluesky.cli._output import Json, emit, start_logging
from ptycho_bluesky.config import settings

__all__ = ["ioc_command"]


def ioc_command(
    replay: Annotated[
        Path | None, typer.Argument(help="A recorded file to serve; the simulated beamline where none is given.")
    ] = None,
    prefix: Annotated[str, typer.Option(help="Of all process variables.")] = "SIM:",
    protocol: Annotated[
        Literal["both", "ca", "pva"], typer.Option(help="Channel Access, PV Access, or both.")
    ] = "both",
    detector: Annotated[
        Literal["generic", "eiger"], typer.Option(help="Which areaDetector driver to look like.")
    ] = "generic",
    specimen: Annotated[str, typer.Option(help="Sample of the simulation.")] = "siemens-star",
    frame_size: Annotated[int, typer.Option(min=16, max=2048, help="Pixels along a side of a frame.")] = 128,
    field: Annotated[float, typer.Option(min=0.5, help="Side of the scanned field, micrometres.")] = 6.0,
    speedup: Annotated[float, typer.Option(min=0.01, help="How many times faster than real.")] = 1.0,
    ideal_stage: Annotated[bool, typer.Option("--ideal-stage", help="Without the errors of a piezo stage.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of sample, noise and stage.")] = 0,
    interface: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    json_output: Json = False,
) -> None:
    """Serve motor records, an areaDetector with its HDF5 plugin and a PVA image, until Ctrl-C.

    Behind them are the physics, or the recording: frames show the sample where the stage is. Ports are EPICS's own
    (EPICS_CA_SERVER_PORT, EPICS_PVAS_SERVER_PORT, EPICS_PVAS_BROADCAST_PORT). Prints one line when clients
    can connect.
    """
    start_logging()
    from ptycho_bluesky.devices import PIEZO_ERRORS, replay_beamline, simulated_beamline
    from ptycho_bluesky.devices.ioc import PROTOCOLS, BeamlineIoc, serve_ioc

    folder = settings().home / "beamlines" / "ioc"
    if replay is None:
        side_m = field * 1e-6
        beamline = simulated_beamline(
            specimen, frame_size=frame_size, field_m=(side_m, side_m), folder=folder, speedup=speedup, seed=seed,
            stage_errors=None if ideal_stage else PIEZO_ERRORS,
        )  # fmt: skip
    else:
        from ptycho_bluesky.formats import load_dataset

        beamline = replay_beamline(load_dataset(replay), folder=folder)
    ioc = BeamlineIoc(beamline, prefix, detector)
    protocols = PROTOCOLS if protocol == "both" else (protocol,)
    served = {"ready": True, "prefix": prefix, "protocols": list(protocols), "variables": len(ioc.records)}
    serve_ioc(ioc, protocols, interface=interface, ready=lambda: emit(served, json_output))
