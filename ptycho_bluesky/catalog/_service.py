"""Which model is in service: a pointer that running edge processes watch, and the history of its changes.

``in-service.json`` is written whole or not at all and holds the last change itself, so that the history
(``history.jsonl``) can be completed after a power cut between the two.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from pydantic import ValidationError

from ptycho_bluesky._locks import file_lock
from ptycho_bluesky._who import whoami
from ptycho_bluesky.catalog._library import ModelLibrary, write_whole
from ptycho_bluesky.catalog._model_record import ModelRecord, ServiceEvent
from ptycho_bluesky.errors import InferenceError

__all__ = ["in_service", "install", "promote", "rollback", "service_history"]

POINTER = "in-service.json"
HISTORY = "history.jsonl"
LOCK_S = 30.0


def _pointed(library: ModelLibrary) -> ServiceEvent | None:
    path = library.folder / POINTER
    try:
        return ServiceEvent.model_validate(json.loads(path.read_bytes())["event"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
        raise InferenceError(
            f"{path} cannot be read ({type(error).__name__}); delete it: the default model is in service then, and "
            "`ptycho-bluesky models promote` puts another one there"
        ) from None


@contextmanager
def _alone(library: ModelLibrary) -> Iterator[None]:
    """Be the only process that changes the model in service."""
    with file_lock(library.folder / "service.lock", timeout_s=LOCK_S) as ours:
        if not ours:
            raise InferenceError(f"another process has held {library.folder / 'service.lock'} for {LOCK_S:.0f} s")
        yield


def service_history(library: ModelLibrary) -> list[ServiceEvent]:
    """Return the changes of the model in service, oldest first."""
    events = []
    path = library.folder / HISTORY
    for line in path.read_text(errors="replace").splitlines() if path.exists() else []:
        try:
            events.append(ServiceEvent.model_validate_json(line))
        except ValidationError:
            continue  # torn by a power cut
    last = _pointed(library)
    if last is not None and last not in events:
        events.append(last)
    return events


def in_service(library: ModelLibrary) -> ModelRecord | None:
    """Return the model in service; None where nothing was ever put into service, and the default model serves."""
    event = _pointed(library)
    return None if event is None else library.find(event.content_hash)


def _stack(events: list[ServiceEvent]) -> list[str]:
    """Content hashes of the models that served one upon the other; a roll-back takes the last one off."""
    stack: list[str] = []
    for event in events:
        if event.event == "rolled-back":
            stack = stack[:-1]
        else:
            stack.append(event.content_hash)
    return stack


def _change(
    library: ModelLibrary,
    event: Literal["installed", "promoted", "rolled-back"],
    record: ModelRecord,
    previous: str | None,
    who: str | None,
    why: str,
    forced: bool = False,
) -> ServiceEvent:
    """Turn the pointer, then write the history."""
    path = library.path(record)
    if not path.is_file():
        raise InferenceError(
            f"the file {path} of model {record.stem} is gone; fetch the model from the catalogue again"
        )
    library.update(
        record.content_hash, lambda r: r.model_copy(update={"registered": False})
    )  # the catalogue is to know
    known = service_history(library)
    entry = ServiceEvent(
        event=event,
        content_hash=record.content_hash,
        name=record.name,
        previous=previous,
        who=who or whoami(),
        why=why,
        forced=forced,
        host=socket.gethostname(),
        when=time.time(),
    )
    pointer = {"model": str(path), "content_hash": record.content_hash, "since": entry.when}
    text = json.dumps({**pointer, "event": entry.model_dump(mode="json")}, indent=1)
    write_whole(library.folder / POINTER, text.encode())
    lines = "".join(e.model_dump_json() + "\n" for e in [*known, entry])
    write_whole(library.folder / HISTORY, lines.encode())
    return entry


def install(library: ModelLibrary, record: ModelRecord) -> ServiceEvent | None:
    """Put the model that comes with the package into service where there is none; returns what was done, if anything.

    It is where roll-backs end: `record` of the `library`.
    """
    with _alone(library):
        if _pointed(library) is not None:
            return None
        return _change(library, "installed", record, None, None, "it comes with the package")


def promote(
    library: ModelLibrary, model: str, *, why: str = "", who: str | None = None, force: str | None = None
) -> ServiceEvent | None:
    """Put a model into service; running edge processes that follow the pointer swap to it between two batches.

    Parameters
    ----------
    library:
        Which holds it.
    model:
        Hash, beginning of it, or name.
    why:
        For the history.
    who:
        None for the user of this process.
    force:
        Reason to do it though it has not passed the gate against the model in service; recorded.

    Returns
    -------
    ServiceEvent or None
        What was done; None where it is in service already.

    Raises
    ------
    InferenceError
        When there is no such model, or it has not passed the gate.
    """
    with _alone(library):
        record, current = library.find(model), _pointed(library)
        if current is not None and current.content_hash == record.content_hash:
            return None
        against = None if current is None else current.content_hash
        passed = record.passed_against(against)
        if not passed and not (force or "").strip():
            name = (
                "the default model"
                if current is None
                else f"{current.name} ({current.content_hash[:8]}), now in service"
            )
            said = f": {'; '.join(record.gate[-1].reasons)}" if record.gate else ""
            raise InferenceError(
                f"model {record.stem} has not passed the gate against {name}{said}. Try it by `ptycho-bluesky models "
                f'trial {record.content_hash[:8]} DATASET RECONSTRUCTION`, or give --force "reason", which is recorded'
            )
        reason = why if passed else f"forced: {str(force).strip()}"
        return _change(library, "promoted", record, against, who, reason or "it passed the gate", forced=not passed)


def rollback(library: ModelLibrary, *, why: str = "", who: str | None = None) -> ServiceEvent:
    """Put the model back into service that served before the one that serves now.

    Parameters
    ----------
    library:
        Which holds both.
    why:
        For the history.
    who:
        None for the user of this process.

    Raises
    ------
    InferenceError
        When there was none before.
    """
    with _alone(library):
        stack = _stack(service_history(library))
        if len(stack) < 2:
            serving = library.find(stack[-1]).stem if stack else "the default model"
            raise InferenceError(f"{serving} is the first model in service here; there is nothing to go back to")
        record = library.find(stack[-2])
        return _change(library, "rolled-back", record, stack[-1], who, why or "rolled back")
