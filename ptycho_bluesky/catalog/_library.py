"""The models of one home: a file of weights and a record for each, whether Tiled can be reached or not.

``<name>-<hash>.safetensors`` (or ``.pth``), ``<name>-<hash>.record.json`` and, where it was trained for one probe,
``<name>-<hash>.probe.npy``.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from ptycho_bluesky._locks import file_lock
from ptycho_bluesky.catalog._model_record import GateVerdict, ModelRecord
from ptycho_bluesky.config import settings
from ptycho_bluesky.errors import FormatError, InferenceError

__all__ = ["ModelLibrary", "probe_hash", "write_whole"]

logger = logging.getLogger(__name__)

RECORD = ".record.json"
LOCK_S = 30.0

Probe = npt.NDArray[np.complex64]


def write_whole(path: Path, data: bytes) -> None:
    """Write a file such that it is seen whole or not at all, also after a power cut."""
    part = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def probe_hash(probe: Probe) -> str:
    """Return the SHA-256 of a probe (modes, H, W)."""
    kept = np.ascontiguousarray(probe, np.complex64)
    return hashlib.sha256(f"{kept.shape}".encode() + kept.tobytes()).hexdigest()


class ModelLibrary:
    """Models by their content hash.

    Parameters
    ----------
    folder:
        None for ``settings().home / "models"``.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = settings().home / "models" if folder is None else folder
        self.folder.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Be the only process that changes this library.

        Raises
        ------
        InferenceError
            When another process holds it for too long.
        """
        with file_lock(self.folder / "library.lock", timeout_s=LOCK_S) as ours:
            if not ours:
                raise InferenceError(f"another process has held {self.folder / 'library.lock'} for {LOCK_S:.0f} s")
            yield

    def path(self, record: ModelRecord) -> Path:
        """Return the file of a model."""
        return self.folder / record.file

    def probe(self, record: ModelRecord) -> Probe | None:
        """Return the probe (modes, H, W) that a model was trained for, or None.

        Raises
        ------
        FormatError
            When its file cannot be read.
        """
        if record.probe_hash is None:
            return None
        file = self.folder / f"{record.stem}.probe.npy"
        try:
            return np.asarray(np.load(file, allow_pickle=False), np.complex64)
        except (OSError, ValueError) as error:
            raise FormatError(f"the probe of model {record.stem} cannot be read from {file}: {error}") from None

    def add(self, data: bytes, record: ModelRecord, probe: Probe | None = None) -> ModelRecord:
        """Keep a model; one that is here already stays as it is, with its trials and its service.

        Parameters
        ----------
        data:
            The whole model file. It must have been loaded once, by code that runs nothing in it.
        record:
            Whose ``sha256`` and ``probe_hash`` are those of `data` and `probe`.
        probe:
            (modes, H, W) complex64.

        Raises
        ------
        FormatError
            When file or probe are not those of the record.
        """
        if hashlib.sha256(data).hexdigest() != record.sha256:
            raise FormatError(f"the file of model {record.name!r} was altered on its way; copy it anew")
        if (None if probe is None else probe_hash(probe)) != record.probe_hash:
            raise FormatError(f"the probe of model {record.name!r} is not the one of its record; copy it anew")
        with self.locked():
            for known in self.records():
                if known.content_hash == record.content_hash:
                    return known
            write_whole(self.path(record), data)
            if probe is not None:
                buffer = io.BytesIO()
                np.save(buffer, np.asarray(probe, np.complex64))
                write_whole(self.folder / f"{record.stem}.probe.npy", buffer.getvalue())
            self._write(record)  # last: a model without a record is none
        return record

    def remove(self, record: ModelRecord) -> None:
        """Forget a model and delete its files."""
        with self.locked():
            for file in (f"{record.stem}{RECORD}", f"{record.stem}.probe.npy", record.file):
                (self.folder / file).unlink(missing_ok=True)

    def _write(self, record: ModelRecord) -> None:
        write_whole(self.folder / f"{record.stem}{RECORD}", record.model_dump_json(indent=1).encode())

    def update(self, content_hash: str, change: Callable[[ModelRecord], ModelRecord]) -> ModelRecord:
        """Change the record of the model `content_hash`, and return the new one."""
        with self.locked():
            record = change(self.find(content_hash))
            self._write(record)
        return record

    def judge(self, content_hash: str, verdict: GateVerdict) -> ModelRecord:
        """Keep the verdict of a trial with its model, `content_hash`; the same verdict is kept once."""

        def judged(record: ModelRecord) -> ModelRecord:
            if verdict in record.gate:
                return record
            return record.model_copy(update={"gate": (*record.gate, verdict), "registered": False})

        return self.update(content_hash, judged)

    def records(self) -> list[ModelRecord]:
        """Return the records of all models, newest first; one that cannot be read is left out and logged."""
        found = []
        for file in self.folder.glob(f"*{RECORD}"):
            try:
                found.append(ModelRecord.model_validate_json(file.read_bytes()))
            except (OSError, ValidationError) as error:
                logger.warning("%s is left out: %s", file, " ".join(str(error).split())[:200])
        return sorted(found, key=lambda record: record.created, reverse=True)

    def find(self, text: str) -> ModelRecord:
        """Return the record of a model, given its content hash, the beginning of that, its name or its file's name.

        Raises
        ------
        InferenceError
            When there is no such model, or several.
        """
        records = self.records()
        found = [r for r in records if text in (r.content_hash, r.stem, r.file)]
        found = found or [r for r in records if r.name == text] or (
            [r for r in records if r.content_hash.startswith(text)] if len(text) >= 4 else []
        )  # fmt: skip
        if len(found) == 1:
            return found[0]
        names = ", ".join(r.stem for r in (found or records)) or "none"
        what = f"{len(found)} models are called" if found else "there is no model"
        raise InferenceError(f"{what} {text!r} in {self.folder}; there are {names}: give the beginning of a hash")

    def waiting(self) -> list[ModelRecord]:
        """Return the models of which the catalogue does not know everything yet, oldest first."""
        return [record for record in reversed(self.records()) if not record.registered]
