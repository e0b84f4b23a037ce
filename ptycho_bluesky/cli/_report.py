"""``ptycho-bluesky report``: how good a result is, on one page."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import typer

from ptycho_bluesky.cli._complete import complete_job
from ptycho_bluesky.cli._input import DistanceM, EnergyKev, FocusToSampleM, PixelM, check_writable, load_input
from ptycho_bluesky.cli._output import Json, emit, progress, say, start_logging
from ptycho_bluesky.cli._report_page import subject_of
from ptycho_bluesky.errors import FormatError
from ptycho_bluesky.experiment import PtychoDataset

__all__ = ["report_command"]


def report_command(
    source: Annotated[
        str,
        typer.Argument(
            metavar="RESULT|RUN|JOB",
            help="Reconstruction (HDF5), or uid of a run, or id of a job; beginnings do.",
            autocompletion=complete_job,
        ),
    ],
    data: Annotated[
        str | None, typer.Option(metavar="INPUT", help="What it was made from: a file, or uid of a run in Tiled.")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Page to write: .html or .png.")] = Path("report.html"),
    halves: Annotated[
        bool | None,
        typer.Option(
            "--halves/--no-halves",
            help="Reconstruct two halves of the data for a resolution; of a quick job unless told, else with --data.",
        ),
    ] = None,
    ensemble: Annotated[
        int | None,
        typer.Option(min=2, max=1000, help="Reconstruct so many times for a map of uncertainty; needs --data."),
    ] = None,
    kind: Annotated[
        Literal["half-data", "bootstrap", "seeds"],
        typer.Option(help="What sets the ensemble apart: frames, photon noise, or the order of frames."),
    ] = "half-data",
    keep: Annotated[
        Path | None, typer.Option(help="HDF5 file for the result with its map of uncertainty; needs --ensemble.")
    ] = None,
    against: Annotated[
        Path | None, typer.Option(metavar="OTHER", help="Another result of the same field to correlate with.")
    ] = None,
    device: Annotated[Literal["cpu", "cuda"], typer.Option(help="Where to compute.")] = "cpu",
    energy_kev: EnergyKev = None,
    distance_m: DistanceM = None,
    detector_pixel_m: PixelM = None,
    focus_to_sample_m: FocusToSampleM = None,
    json_output: Json = False,
) -> None:
    """Judge a reconstruction: R-factor against photon noise, resolution, contrast, uncertainty; one page.

    Of a run or a job the page also says how it was measured and where it was reconstructed. The more is given the more
    it can say: with --data the noise, with --halves the resolution, with --ensemble the uncertainty of each pixel.
    """
    start_logging()
    from ptycho_bluesky.formats import read_reconstruction, write_reconstruction
    from ptycho_bluesky.reconstruction.judgement import (
        HalfDataResult,
        RingCorrelation,
        as_reconstructed,
        fourier_ring_correlation,
        half_data_frc,
        made_with,
        uncertainty,
        write_report,
    )

    for file in (output, keep):
        check_writable(file)
    if output.suffix.lower() not in (".html", ".png"):
        raise FormatError(f"report {output} has the suffix {output.suffix!r}; allowed are .html and .png")
    if keep is not None and ensemble is None:
        raise FormatError("--keep writes a map of uncertainty, which --ensemble makes; give --ensemble 8, for example")
    if halves and against is not None:
        raise FormatError("--halves and --against are two ring correlations, and a report holds one; leave one out")
    subject = None
    if Path(source).suffix or Path(source).exists():
        result = read_reconstruction(Path(source))
    else:
        subject = subject_of(source)
        result, data = subject.result, data or subject.data
        halves = subject.quick and against is None if halves is None else halves
    if data is None and (halves or ensemble is not None):
        raise FormatError("--halves and --ensemble reconstruct anew; give the measurement with --data")
    other = None if against is None else read_reconstruction(against)
    dataset: PtychoDataset | None = None
    frc: RingCorrelation | HalfDataResult | None = None
    if data is not None:
        dataset = load_input(
            data,
            energy_kev=energy_kev,
            distance_m=distance_m,
            detector_pixel_m=detector_pixel_m,
            focus_to_sample_m=focus_to_sample_m,
        )
    if other is not None:
        frc = fourier_ring_correlation(result, other)
    spread = None
    if dataset is not None and ensemble is not None:
        with progress(f"{ensemble} reconstructions", ensemble) as update:
            spread = uncertainty(dataset, result, ensemble, kind, device=device, on_member=update)
    if dataset is not None and halves and (spread is None or kind != "half-data"):
        say("reconstructing two halves")
        engine, options = made_with(result)
        frc = half_data_frc(as_reconstructed(dataset, result), engine, options, device=device)
    title, sections = ("", ()) if subject is None else (subject.title, subject.sections)
    judgement = write_report(output, result, dataset, spread, frc, title, sections)
    if keep is not None and spread is not None:
        write_reconstruction(keep, replace(result, uncertainty=spread.phase_std))
        say(f"result with its uncertainty: {keep}")
    emit(
        {
            "verdict": judgement.headline,
            "good": judgement.good,
            **judgement.numbers(),
            "findings": [finding.text for finding in judgement.findings],
            "output": str(output),
        },
        json_output,
    )
