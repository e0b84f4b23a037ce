"""What the commands of ``ptycho-bluesky models`` share: a model by its name, wherever it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ptycho_bluesky.cli._complete import complete_model
from ptycho_bluesky.cli._output import say
from ptycho_bluesky.errors import InferenceError

if TYPE_CHECKING:
    from ptycho_bluesky.catalog import ModelLibrary, ModelRecord

__all__ = ["ModelName", "model_here", "registered_now"]

ModelName = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="Content hash, the beginning of it, or a name.", autocompletion=complete_model
    ),
]


def registered_now(library: ModelLibrary, record: ModelRecord) -> bool:
    """Register a model where the catalogue can be reached; it waits where not."""
    from ptycho_bluesky.catalog import connect, register_waiting_models
    from ptycho_bluesky.errors import CatalogError

    try:
        client = connect()
    except CatalogError as error:
        say(f"{record.stem} waits for Tiled: {error}")
        return False
    with client.context:
        return record.content_hash in register_waiting_models(client, library) or record.registered


def model_here(library: ModelLibrary, text: str) -> ModelRecord:
    """Return a model of the library, fetched from the catalogue where it is not here yet."""
    from ptycho_bluesky.catalog import connect
    from ptycho_bluesky.dispatch.models import fetch_model

    try:
        return library.find(text)
    except InferenceError as unknown:
        if "no model" not in str(unknown):
            raise
        say(f"{text} is not here; looking in the catalogue")
    client = connect()
    with client.context:
        return fetch_model(client, library, text)
