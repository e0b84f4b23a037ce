"""Models in the catalogue, under ``processed/models/<content hash>``: registered once, found, and fetched back."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError
from tiled.client.container import Container
from tiled.client.utils import ClientError
from tiled.queries import Contains, Key
from tiled.structures.core import Spec

from ptycho_bluesky.catalog._connect import CONFLICT, child
from ptycho_bluesky.catalog._library import ModelLibrary, probe_hash, write_whole
from ptycho_bluesky.catalog._model_record import ModelRecord
from ptycho_bluesky.catalog._register import registering
from ptycho_bluesky.catalog._service import service_history
from ptycho_bluesky.errors import CatalogError

__all__ = ["MODELS", "PtychoModel", "fetch_model", "find_models", "register_model", "register_waiting_models"]

logger = logging.getLogger(__name__)

MODELS = ("processed", "models")
"""Keys of the container that holds the models."""

SPEC = Spec("PtychoModel", version="1.0")

OF_THE_CATALOGUE = ("complete", "service", "passed")
"""Keys of a node's metadata that are no part of a record."""


class PtychoModel(Container):  # type: ignore[misc]
    """A model in the catalogue; Tiled makes it for every node of this spec.

    Children: ``weights`` (bytes,) uint8, the whole model file; ``probe`` (modes, H, W) complex64 where it was trained
    for one. Metadata: the keys of :class:`~ptycho_bluesky.catalog.ModelRecord`, ``service`` (when it was put into
    service, and where), ``passed`` (whether its last trial was passed), ``complete`` (false while it is being written).
    """

    @property
    def record(self) -> ModelRecord:
        """What is known of it.

        Raises
        ------
        CatalogError
            When the metadata are not those of a model.
        """
        known = {k: v for k, v in self.metadata_copy()[0].items() if k not in OF_THE_CATALOGUE}
        try:
            return ModelRecord.model_validate(known)
        except ValidationError as error:
            text = " ".join(str(error).split())[:300]
            raise CatalogError(f"the metadata of model {self.item['id']} are not those of a model: {text}") from None

    @property
    def probe(self) -> npt.NDArray[np.complex64] | None:
        """(modes, H, W) for which it was trained; None for any."""
        return np.asarray(self["probe"].read(), np.complex64) if "probe" in self else None

    def data(self) -> bytes:
        """Return the whole model file.

        Raises
        ------
        CatalogError
            When the bytes are not those that were registered, or its registration was cut short.
        """
        record = self.record
        if not self.metadata.get("complete") or "weights" not in self:
            raise CatalogError(f"model {record.stem} is not all in the catalogue; register it again from where it is")
        data = np.asarray(self["weights"].read(), np.uint8).tobytes()
        if (found := hashlib.sha256(data).hexdigest()) != record.sha256:
            raise CatalogError(
                f"the file of model {record.stem} in the catalogue was altered or damaged: its SHA-256 is "
                f"{found[:12]}, registered was {record.sha256[:12]}; delete the node and register the model again"
            )
        return data

    def download(self, folder: str | Path = ".") -> Path:
        """Write the model file into a folder and return its path; ``load_model(path)`` loads it.

        Raises
        ------
        CatalogError
            When the bytes are not those that were registered.
        """
        path = Path(folder).expanduser() / self.record.file
        write_whole(path, self.data())
        return path


def _merged(there: list[Any], ours: list[Any]) -> list[Any]:
    """Both lists of dated entries, each entry once: another machine may have added its own."""
    return sorted([*there, *(entry for entry in ours if entry not in there)], key=lambda entry: entry["when"])


def register_model(client: Any, library: ModelLibrary, content_hash: str) -> Any:
    """Put a model of the library into the catalogue, exactly once; trials and service are brought up to date.

    Called again it changes nothing; what a killed process left half-written is replaced.

    Parameters
    ----------
    client:
        From :func:`~ptycho_bluesky.catalog.connect`.
    library:
        Which holds the model.
    content_hash:
        Of the model.

    Returns
    -------
    PtychoModel
        The node in the catalogue.

    Raises
    ------
    CatalogError
        When other weights lie under this key already, or another process is writing them for too long.
    """
    record, probe = library.find(content_hash), None
    key, path = record.content_hash, "/".join(MODELS)
    with registering(f"{path}/{key}"):
        parent = client
        for name in MODELS:
            parent = child(parent, name)
        service = [e.model_dump(mode="json") for e in service_history(library) if e.content_hash == key]
        node = parent.get(key)
        if node is not None and not node.metadata.get("complete"):
            node.delete(recursive=True, external_only=False)
            node = None
        if node is None:
            data, probe = library.path(record).read_bytes(), library.probe(record)
            if hashlib.sha256(data).hexdigest() != record.sha256:
                raise CatalogError(
                    f"the file {library.path(record)} is not the one that was added; copy the model anew and add it"
                )
            passed = record.passed_against(None)
            metadata = {**record.described(), "service": service, "passed": passed, "complete": False}
            try:
                node = parent.create_container(key, metadata=metadata, specs=[SPEC])
            except ClientError as error:
                if error.response.status_code != CONFLICT:
                    raise
                raise CatalogError(f"another machine is registering model {record.stem} now; try again") from error
            node.write_array(np.frombuffer(data, np.uint8), key="weights")
            if probe is not None:
                node.write_array(probe, key="probe", dims=("mode", "y", "x"))
            node.update_metadata({"complete": True}, drop_revision=True)
            node = parent[key]
        else:
            _bring_up_to_date(node, record, service)
        library.update(key, lambda r: r.model_copy(update={"registered": r == record or r.registered}))
    return node


def _bring_up_to_date(node: Any, record: ModelRecord, service: list[Any]) -> None:
    """Compare what may not differ, and add what is new."""
    there = node.metadata_copy()[0]
    if there.get("content_hash") != record.content_hash or there.get("architecture") != dict(record.architecture):
        raise CatalogError(
            f"another model lies under {'/'.join(MODELS)}/{record.content_hash} (hash "
            f"{str(there.get('content_hash'))[:12]}, architecture {there.get('architecture')}); delete that node, and "
            "register this one again"
        )
    gate = _merged(there["gate"], record.described()["gate"])
    fresh = {"gate": gate, "service": _merged(there["service"], service), "passed": bool(gate) and gate[-1]["passed"]}
    if any(there[key] != value for key, value in fresh.items()):
        node.update_metadata(fresh, drop_revision=True)


def register_waiting_models(client: Any, library: ModelLibrary | None = None) -> list[str]:
    """Register the models that had to wait for Tiled, each once, and return their content hashes.

    What fails is reported in the log, and waits on. `client` is that of Tiled; `library` None: the one of this machine.
    """
    library = library or ModelLibrary()
    done = []
    for record in library.waiting():
        try:
            register_model(client, library, record.content_hash)
        except (CatalogError, ClientError, OSError) as error:
            logger.error("model %s is still not in Tiled: %s", record.stem, error)
        else:
            done.append(record.content_hash)
    return done


def find_models(
    client: Any, *, raw_uid: str | None = None, kind: str | None = None, passed: bool | None = None
) -> list[Any]:
    """Return the finished models of the catalogue, oldest first.

    Parameters
    ----------
    client:
        From :func:`~ptycho_bluesky.catalog.connect`.
    raw_uid:
        Run that they were trained on, in full; None for all.
    kind:
        ``"probe-vit"``, ``"ptychonn"``; None for all.
    passed:
        Whether their last trial was passed; None for all.
    """
    parent: Any = client
    for name in MODELS:
        if name not in parent:
            return []
        parent = parent[name]
    found = parent.search(Key("complete") == True)  # noqa: E712
    if raw_uid is not None:
        found = found.search(Contains("raw_uids", raw_uid))
    if kind is not None:
        found = found.search(Key("kind") == kind)
    if passed is not None:
        found = found.search(Key("passed") == passed)
    return sorted(found.values(), key=lambda node: node.metadata["created"])


def fetch_model(client: Any, library: ModelLibrary, text: str) -> ModelRecord:
    """Bring a model of the catalogue into the library, with its trials, and return its record.

    Whoever loads it must compare the content hash: see :func:`ptycho_bluesky.inference.load_model`.

    Parameters
    ----------
    client:
        From :func:`~ptycho_bluesky.catalog.connect`.
    library:
        To put it into.
    text:
        Content hash, the beginning of it, or name.

    Raises
    ------
    CatalogError
        When there is no such model or several, or the bytes are not those that were registered.
    """
    nodes = find_models(client)
    found = [n for n in nodes if n.item["id"] == text or n.metadata["name"] == text]
    found = found or [n for n in nodes if len(text) >= 4 and n.item["id"].startswith(text)]
    if len(found) != 1:
        names = ", ".join(n.record.stem for n in (found or nodes)) or "none"
        what = f"{len(found)} models are called" if found else "there is no model"
        raise CatalogError(f"{what} {text!r} in {'/'.join(MODELS)}; there are {names}: give the beginning of a hash")
    node = found[0]
    record, probe = node.record.model_copy(update={"registered": True}), node.probe
    if record.content_hash != node.item["id"]:
        raise CatalogError(f"node {node.item['id']} says that it is model {record.content_hash}; delete that node")
    if probe is not None and probe_hash(probe) != record.probe_hash:
        raise CatalogError(f"the probe of model {record.stem} in the catalogue was altered; register the model again")
    return library.add(node.data(), record, probe)
