"""Model files into the library and out of the catalogue: loaded once by code that runs nothing in them.

Heavy: it loads torch. The library itself is :class:`ptycho_bluesky.catalog.ModelLibrary`.
"""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ptycho_bluesky import catalog
from ptycho_bluesky._who import whoami
from ptycho_bluesky.catalog import GateVerdict, ModelLibrary, ModelRecord, install, probe_hash
from ptycho_bluesky.errors import FormatError, InferenceError
from ptycho_bluesky.experiment import PtychoDataset, Reconstruction
from ptycho_bluesky.inference import DEFAULT_MODEL, ProbeViTModel, PtychoNNModel, Trial, load_model, trial
from ptycho_bluesky.inference._model import SHIPPED

__all__ = ["add_model", "fetch_model", "model_in_service", "model_record", "try_model"]

Probe = npt.NDArray[np.complex64]


def model_record(path: Path, *, name: str | None = None, probe: Probe | None = None, **known: Any) -> ModelRecord:
    """Return the record of a model file; what the file itself tells (training, versions, scores) is taken from it.

    Parameters
    ----------
    path:
        Model file; it is loaded, and refused where that would run code.
    name:
        None for what the file is called.
    probe:
        (modes, H, W) that it was trained for; None for any.
    known:
        Further fields of the record: ``data``, ``raw_uids``, ``job_id``, ``licence``...
    """
    model = load_model(path)
    own = isinstance(model, ProbeViTModel)
    notes = {key: value for key, value in model.notes.items() if key != "curves"}
    scores = notes.get("validation")
    fields: dict[str, Any] = {
        "content_hash": model.content_hash,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "name": name or path.stem,
        "suffix": ".safetensors" if own else ".pth",
        "kind": "probe-vit" if own else "ptychonn",
        "architecture": model.network.sizes.to_json() if isinstance(model, ProbeViTModel) else {},
        "start_from": notes.get("start_from"),
        "probe_hash": None if probe is None else probe_hash(probe),
        "metrics": scores if isinstance(scores, dict) else {},
        "notes": notes,
        "versions": notes.get("versions") or {},
        "created": time.time(),
        "by": whoami(),
    }
    return ModelRecord(**{**fields, **known})


def add_model(path: Path, library: ModelLibrary, *, probe: Probe | None = None, **known: Any) -> ModelRecord:
    """Put a model file into the library and return its record; one that is there already stays as it is.

    Parameters
    ----------
    path:
        Of the model file.
    library:
        To put it into.
    probe:
        (modes, H, W) that it was trained for, where known.
    known:
        Further fields of the record, as for :func:`model_record`.

    Raises
    ------
    FormatError
        When the file is no model, damaged, or holds more than numbers.
    """
    record = model_record(path, probe=probe, **known)
    return library.add(path.read_bytes(), record, probe)


def fetch_model(client: Any, library: ModelLibrary, text: str) -> ModelRecord:
    """Bring a model of the catalogue into the library, where its weights are what its content hash says.

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
        When there is no such model, or its bytes are not those that were registered.
    FormatError
        When its weights are not those of its content hash, or the file holds more than numbers.
    """
    record = catalog.fetch_model(client, library, text)
    try:
        found = load_model(library.path(record)).content_hash
        if found != record.content_hash:
            raise FormatError(
                f"model {record.stem} of the catalogue holds weights of hash {found[:12]}; it is not used. Delete it "
                "there, and register it again from where it was trained"
            )
    except FormatError:
        library.remove(record)
        raise
    return record


def model_in_service(library: ModelLibrary) -> tuple[ProbeViTModel | PtychoNNModel, ModelRecord]:
    """Return the model in service and its record; the first call puts the one of the package there, if none is."""
    record = catalog.in_service(library)
    if record is None:
        own = SHIPPED / f"{DEFAULT_MODEL}.safetensors"
        record = add_model(own, library, data="simulated", licence="BSD-3-Clause")
        install(library, record)
        record = catalog.in_service(library) or record
    return load_model(library.path(record)), record


def try_model(
    library: ModelLibrary,
    record: ModelRecord,
    dataset: PtychoDataset,
    reconstruction: Reconstruction,
    held_out: npt.NDArray[np.intp] | None = None,
) -> GateVerdict:
    """Try a model of the library against the one in service, keep the verdict with it, and return it.

    Parameters
    ----------
    library:
        Which holds both.
    record:
        Of the candidate.
    dataset, reconstruction:
        Far field, and its result.
    held_out:
        (n,) numbers of frames that it was not trained on; None where it has seen none of them.

    Raises
    ------
    InferenceError
        When it is in service itself, or was trained on this run and no frames are held out.
    """
    serving, current = model_in_service(library)
    if current.content_hash == record.content_hash:
        raise InferenceError(f"model {record.stem} is in service itself; a trial needs another one")
    seen = {dataset.name, str(dataset.source.get("raw_uid"))} & set(record.raw_uids)
    if held_out is None and seen:
        raise InferenceError(
            f"model {record.stem} was trained on {seen.pop()}; try it on a scan that it has not seen, or its verdict "
            "says nothing"
        )
    found = trial(load_model(library.path(record)), serving, dataset, reconstruction, held_out=held_out)
    verdict = as_verdict(found)
    library.judge(record.content_hash, verdict)
    return verdict


def as_verdict(found: Trial) -> GateVerdict:
    """Return a trial as it is kept with its model."""
    return GateVerdict.model_validate({name: getattr(found, name) for name in GateVerdict.model_fields})
