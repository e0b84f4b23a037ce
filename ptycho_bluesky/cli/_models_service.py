"""``ptycho-bluesky models``: what changes which network is in service."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal
from uuid import UUID

import typer
from rich.console import Console
from rich.table import Table

from ptycho_bluesky.cli._input import load_input
from ptycho_bluesky.cli._models_here import ModelName, model_here, registered_now
from ptycho_bluesky.cli._output import Json, emit, given
from ptycho_bluesky.errors import DispatchError, FormatError

if TYPE_CHECKING:
    from ptycho_bluesky.dispatch import FileSource, ReconstructionSource, TiledSource

__all__ = ["history", "promote", "rollback", "train", "trial"]

Why = Annotated[str, typer.Option("--why", help="For the history.")]


def train(
    source: Annotated[
        str,
        typer.Argument(help="Job of a reconstruction, uid of a run (in full), result (.h5), or frames (a file)."),
    ],
    reconstruction: Annotated[Path | None, typer.Option(help="Result (.h5) of the frames in SOURCE.")] = None,
    data: Annotated[
        Literal["simulated", "reconstructions", "both"], typer.Option(help="Frames to train on.")
    ] = "simulated",
    start_from: Annotated[
        str, typer.Option(help="Model to begin with: default, in-service, a name, a hash, a file; none to begin anew.")
    ] = "default",
    size: Annotated[
        Literal["edge", "jetson", "gpu"] | None, typer.Option(help="Of the network; else as --start-from.")
    ] = None,
    seconds: Annotated[
        float | None, typer.Option(min=1, help="Time to train; steps are chosen for it unless --set gives them.")
    ] = None,
    name: Annotated[str, typer.Option(help="What to call the model.")] = "trained",
    promote: Annotated[bool, typer.Option("--promote", help="Into service, when it passes the gate.")] = False,
    licence: Annotated[str, typer.Option(help="Of the weights.")] = "",
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    max_seconds: Annotated[float | None, typer.Option(min=1, help="Stop after this long, with a usable model.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Option of the training, e.g. steps=2000.")
    ] = None,
    json_output: Json = False,
) -> None:
    """Train a model as a job: dispatched, tried against the model in service, registered. `jobs wait JOB` waits."""
    from ptycho_bluesky.dispatch import JobSpec, submit

    options: dict[str, Any] = {
        "name": name,
        "data": data,
        "promote": promote,
        "licence": licence,
        "training": _training(settings or []),
        "start_from": None if start_from == "none" else start_from,
        **given(size=size, seconds=seconds, reconstruction=reconstruction and str(reconstruction.absolute())),
    }
    where, raw_uid = _source(source)
    spec = {"recipe": "train", "source": where.model_dump(), "options": options, "device": device, "raw_uid": raw_uid}
    job_id = submit(JobSpec.parse(json.dumps({**spec, **given(max_seconds=max_seconds)}), "the training"))
    emit({"job_id": job_id, "source": where.kind, "data": data, "promote": promote}, json_output)


def _source(text: str) -> tuple[FileSource | ReconstructionSource | TiledSource, str | None]:
    """Return a training's source, and the run that it belongs to where that is known."""
    from ptycho_bluesky.dispatch import FileSource, Ledger, ReconstructionSource, TiledSource

    if Path(text).is_file():
        return FileSource(path=text), None
    try:
        job = Ledger().job(text)
    except DispatchError as error:  # of another machine, or a run: the catalogue knows
        try:
            UUID(text)
        except ValueError:
            raise DispatchError(
                f"{text!r} is no file, no job of this home (or the beginning of several), and not the full uid of "
                "a run; `ptycho-bluesky jobs list` shows jobs"
            ) from error
        return TiledSource(uid=text), text
    return ReconstructionSource(job_id=job.job_id), job.spec().raw_uid


def _training(pairs: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise FormatError(f"--set {pair}: give KEY=VALUE, e.g. --set steps=2000")
        try:
            found[key] = json.loads(text)
        except json.JSONDecodeError:
            found[key] = text
    return found


def trial(
    model: ModelName,
    dataset: Annotated[str, typer.Argument(help="Frames that it has not seen: a file, or uid of a run.")],
    reconstruction: Annotated[Path, typer.Argument(help="Result (.h5) of these frames.")],
    json_output: Json = False,
) -> None:
    """Try a model against the one in service; the verdict is kept with it. Exit status 1 where it is not passed."""
    from ptycho_bluesky.catalog import ModelLibrary
    from ptycho_bluesky.dispatch.models import try_model
    from ptycho_bluesky.formats import read_reconstruction

    library = ModelLibrary()
    record = model_here(library, model)
    verdict = try_model(library, record, load_input(dataset), read_reconstruction(reconstruction))
    registered_now(library, record)
    emit({"model": record.stem, **verdict.model_dump(mode="json")}, json_output)
    if not verdict.passed:
        raise typer.Exit(1)


def promote(
    model: ModelName,
    why: Why = "",
    force: Annotated[
        str | None, typer.Option(help="Reason to do it though the gate against the model in service is not passed.")
    ] = None,
    json_output: Json = False,
) -> None:
    """Put a model into service; running edge processes that follow it swap between two batches, without a loss."""
    from ptycho_bluesky import catalog
    from ptycho_bluesky.dispatch.models import model_in_service

    library = catalog.ModelLibrary()
    record = model_here(library, model)
    model_in_service(library)  # so that a roll-back has somewhere to go
    event = catalog.promote(library, record.content_hash, why=why, force=force)
    registered_now(library, record)
    found = {"model": record.stem, "content_hash": record.content_hash, "changed": event is not None}
    emit({**found, **({} if event is None else event.model_dump(mode="json"))}, json_output)


def rollback(why: Why = "", json_output: Json = False) -> None:
    """Put the model back into service that served before."""
    from ptycho_bluesky import catalog

    library = catalog.ModelLibrary()
    event = catalog.rollback(library, why=why)
    registered_now(library, library.find(event.content_hash))
    emit(event.model_dump(mode="json"), json_output)


def history(json_output: Json = False) -> None:
    """Show which model was put into service when, by whom and why."""
    from ptycho_bluesky.catalog import ModelLibrary, service_history

    events = service_history(ModelLibrary())
    if json_output:
        emit({"history": [event.model_dump(mode="json") for event in events]}, True)
        return
    table = Table("when", "what", "model", "who", "why", box=None)
    for event in events:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(event.when))
        table.add_row(when, event.event, f"{event.name} [dim]{event.content_hash[:8]}[/]", event.who, event.why)
    Console().print(table if events else "nothing was put into service yet: the model of the package serves")
