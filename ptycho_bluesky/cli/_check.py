"""``ptycho-bluesky check``: one tree that says what looks wrong with a measurement, before it is reconstructed."""

from __future__ import annotations

import logging
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.tree import Tree

from ptycho_bluesky.cli._input import DistanceM, EnergyKev, FocusToSampleM, PixelM, load_input
from ptycho_bluesky.cli._output import Json, emit, start_logging

__all__ = ["check_command"]

COLOURS = {"error": "red", "warning": "yellow"}


def check_command(
    source: Annotated[str, typer.Argument(metavar="INPUT", help="Data file (NPZ, CXI) or uid of a run in Tiled.")],
    trials: Annotated[
        bool, typer.Option(help="Reconstruct some frames: orientation, signs, scale and order of the positions.")
    ] = True,
    energy_kev: EnergyKev = None,
    distance_m: DistanceM = None,
    detector_pixel_m: PixelM = None,
    focus_to_sample_m: FocusToSampleM = None,
    json_output: Json = False,
) -> None:
    """Look for what is most often wrong with a measurement; exit status 1 if a reconstruction would be wrong.

    Axes and signs, units, energy, centre, bad pixels, dark frames, frames and positions out of step.
    """
    start_logging(logging.WARNING)
    from ptycho_bluesky.reconstruction import diagnosis

    dataset = load_input(
        source,
        energy_kev=energy_kev,
        distance_m=distance_m,
        detector_pixel_m=detector_pixel_m,
        focus_to_sample_m=focus_to_sample_m,
    )
    report = diagnosis.check_dataset(dataset, trials=trials)
    found = report.orientation
    if json_output:
        emit(
            {
                "ok": report.ok,
                "findings": [asdict(finding) for finding in report.findings],
                "orientation": None if found is None else str(found),
                "orientation_decided": found is not None and found.decided,
                "load_arguments": {} if found is None or not found.decided else found.arguments,
                "r_factor_of_noise": report.limits.noise,
                "r_factor_of_nothing": report.limits.nothing,
            },
            True,
        )
    else:
        tree = Tree(f"[bold]{escape(report.name)}[/bold]  {len(dataset)} frames of {dataset.frame_shape[0]} pixels")
        for finding in report.findings:
            colour = COLOURS[finding.level]
            tree.add(f"[{colour}]{finding.level}[/] [bold]{escape(finding.what)}[/bold]  {escape(finding.text)}")
        if found is not None and (found.as_given or not found.decided):
            tree.add(f"[bold]orientation[/bold]  {escape(str(found))}")
        if not report.findings:
            tree.add("[green]nothing looks wrong[/green]")
        Console().print(tree)
    if not report.ok:
        raise typer.Exit(1)
