"""``ptycho-bluesky models``: the networks of the live image, from training to service and back."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

from ptycho_bluesky.cli._input import probe_of
from ptycho_bluesky.cli._models_here import ModelName, model_here, registered_now
from ptycho_bluesky.cli._models_service import history, promote, rollback, train, trial
from ptycho_bluesky.cli._output import Json, emit, start_logging
from ptycho_bluesky.errors import FormatError

if TYPE_CHECKING:
    from ptycho_bluesky.catalog import ModelRecord

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True, help="Models: list, show, add, fetch, train, trial, promote, rollback, history, download."
)

Tiled = Annotated[bool, typer.Option("--tiled", help="Those of the catalogue as well.")]

app.command()(train)
app.command()(trial)
app.command()(promote)
app.command()(rollback)
app.command()(history)


@app.callback()
def _root() -> None:
    start_logging()


def _described(record: ModelRecord, serving: str | None, here: bool = True) -> dict[str, Any]:
    """Return a record as JSON values, with where it stands."""
    gate = record.gate[-1].passed if record.gate else None
    known = record.model_dump(mode="json", exclude={"gate", "notes", "architecture"})
    stands = {"here": here, "in_service": record.content_hash == serving, "passed": gate}
    return {**known, "file": record.file, **stands}


@app.command("list")
def list_models(tiled: Tiled = False, json_output: Json = False) -> None:
    """List the models of this home, newest first; with --tiled those of the catalogue too."""
    from ptycho_bluesky.catalog import ModelLibrary, connect, find_models, in_service

    library = ModelLibrary()
    current = in_service(library)
    serving = None if current is None else current.content_hash
    found = [_described(record, serving) for record in library.records()]
    if tiled:
        client = connect()
        known = {model["content_hash"] for model in found}
        with client.context:
            records = [node.record for node in find_models(client)]
        found += [_described(r, serving, here=False) for r in records if r.content_hash not in known]
    if json_output:
        emit({"models": found, "in_service": serving}, True)
        return
    table = Table("model", "kind", "data", "correlation", "gate", "service", "in Tiled", "created", box=None)
    for model in found:
        quality = model["metrics"].get("validation_correlation")
        table.add_row(
            f"{model['name']} [dim]{model['content_hash'][:8]}[/]" + ("" if model["here"] else " [dim](catalogue)[/]"),
            model["kind"],
            model["data"],
            "" if quality is None else f"{quality:.3f}",
            {True: "[green]passed[/]", False: "[red]not passed[/]", None: "not tried"}[model["passed"]],
            "[cyan]in service[/]" if model["in_service"] else "",
            "yes" if model["registered"] or not model["here"] else "not yet",
            time.strftime("%Y-%m-%d %H:%M", time.localtime(model["created"])),
        )
    Console().print(table if found else "no models yet: the one that comes with the package is in service")


@app.command()
def show(model: ModelName, json_output: Json = False) -> None:
    """Show all that is known of a model: training, trials, service."""
    from ptycho_bluesky.catalog import ModelLibrary, in_service, service_history

    library = ModelLibrary()
    record, current = model_here(library, model), in_service(library)
    service = [e.model_dump(mode="json") for e in service_history(library) if e.content_hash == record.content_hash]
    where = {"path": str(library.path(record)), "in_service": current is not None and current == record}
    emit({**record.model_dump(mode="json"), **where, "service": service}, json_output)


@app.command()
def add(
    file: Annotated[Path, typer.Argument(help="Model file: .safetensors of `train`, .pth of a published PtychoNN.")],
    name: Annotated[str | None, typer.Option(help="What to call it; the file's name by default.")] = None,
    licence: Annotated[str, typer.Option(help="Of the weights, e.g. CC-BY-4.0.")] = "",
    trained_on: Annotated[
        Literal["simulated", "reconstructions", "both", "unknown"], typer.Option(help="What it was trained on.")
    ] = "unknown",
    raw_uid: Annotated[list[str] | None, typer.Option(help="Run that it was trained on; may be repeated.")] = None,
    probe: Annotated[str | None, typer.Option(help="Reconstruction or dataset whose probe it was trained for.")] = None,
    json_output: Json = False,
) -> None:
    """Put a model file into the registry; nothing in it is run, and one that is there already stays as it is."""
    from ptycho_bluesky.catalog import ModelLibrary
    from ptycho_bluesky.dispatch.models import add_model

    if not file.is_file():
        raise FormatError(f"{file} is no file; give a model file that `ptycho-bluesky train` wrote, or a PtychoNN's")
    library = ModelLibrary()
    known = {"data": trained_on, "raw_uids": tuple(raw_uid or ()), "licence": licence, "probe_from": probe or ""}
    record = add_model(file, library, name=name, probe=None if probe is None else probe_of(probe), **known)
    registered = registered_now(library, record)
    emit({**_described(library.find(record.content_hash), None), "registered": registered}, json_output)


@app.command()
def fetch(model: ModelName, json_output: Json = False) -> None:
    """Bring a model of the catalogue here; its weights are checked against its content hash."""
    from ptycho_bluesky.catalog import ModelLibrary

    library = ModelLibrary()
    record = model_here(library, model)
    emit({"model": record.stem, "content_hash": record.content_hash, "path": str(library.path(record))}, json_output)


@app.command()
def download(
    model: ModelName,
    folder: Annotated[Path, typer.Option("--output", "-o", help="Folder to write the model file into.")] = Path(),
    json_output: Json = False,
) -> None:
    """Write a model's file into a folder, from here or from the catalogue."""
    from ptycho_bluesky.catalog import ModelLibrary

    library = ModelLibrary()
    record = model_here(library, model)
    target = folder / record.file
    try:
        target.write_bytes(library.path(record).read_bytes())
    except OSError as error:
        why = error.strerror or error
        raise FormatError(f"{target} cannot be written: {why}; give a folder that exists") from error
    emit({"model": record.stem, "content_hash": record.content_hash, "output": str(target)}, json_output)
