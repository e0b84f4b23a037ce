"""Results into the catalogue, exactly once, and found again."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
from tiled.client.utils import ClientError
from tiled.queries import Key
from tiled.structures.core import Spec

from ptycho_bluesky._locks import file_lock
from ptycho_bluesky.catalog._connect import CONFLICT, DERIVED, find_run
from ptycho_bluesky.catalog._partial import drop_partial
from ptycho_bluesky.config import settings
from ptycho_bluesky.errors import CatalogError
from ptycho_bluesky.experiment import Reconstruction

__all__ = ["content_hash", "find_reconstructions", "register_reconstruction"]

logger = logging.getLogger(__name__)

SPEC = Spec("PtychoReconstruction", version="1.0")

LOCK_S = 120.0
"""Longest time that another process on this machine may take to register the same result."""

Image = npt.NDArray[Any]


@contextmanager
def registering(key: str) -> Iterator[None]:
    """Be the only process on this machine that registers under `key`.

    Raises
    ------
    CatalogError
        When another process does so for too long.
    """
    folder = settings().home / "tiled" / "registering"
    folder.mkdir(parents=True, exist_ok=True)
    with file_lock(folder / hashlib.sha256(key.encode()).hexdigest()[:32], timeout_s=LOCK_S) as ours:
        if not ours:
            raise CatalogError(f"another process has been registering {key} for {LOCK_S:.0f} s; end it, try again")
        yield


def content_hash(reconstruction: Reconstruction) -> str:
    """Return a hash of the arrays, engine and parameters: equal for two copies of one result, and for them alone."""
    digest = hashlib.sha256()
    for name in ("object", "probe", "positions", "coverage", "errors"):
        array = np.ascontiguousarray(getattr(reconstruction, name))
        digest.update(f"{name}{array.dtype.str}{array.shape}".encode())
        digest.update(array.tobytes())
    digest.update(json.dumps([reconstruction.engine, reconstruction.parameters], sort_keys=True).encode())
    return digest.hexdigest()


def _preview(phase: Image) -> npt.NDArray[np.uint8]:
    """Return the phase as grey RGB (Y, X, 3), contrast from its 1st to 99th percentile, dark red where not scanned."""
    inside = np.isfinite(phase)
    low, high = np.percentile(phase[inside], [1, 99]) if inside.any() else (0.0, 1.0)
    scaled = np.clip((np.nan_to_num(phase) - low) / max(high - low, 1e-6), 0, 1)
    picture = np.repeat((scaled * 255).astype(np.uint8)[..., None], 3, axis=2)
    picture[~inside] = (40, 0, 0)
    return picture


def _json(value: Any) -> Any:
    """Return `value` as plain JSON; numbers that JSON lacks (NaN, infinity) become null."""
    if isinstance(value, Mapping):
        return {str(k): _json(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json(v) for v in value]
    if isinstance(value, np.generic):
        return _json(value.item())
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def _metadata(rec: Reconstruction, job_id: str, raw_uid: str | None, start: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "job_id": job_id,
        "raw_uid": raw_uid,
        "scan_id": start.get("scan_id"),
        "campaign": dict(start.get("ptychography", {}).get("campaign", {})),
        "engine": rec.engine,
        "modality": rec.modality,
        "parameters": _json(rec.parameters),
        "r_factor": _json(float(rec.r_factor)),
        "phase_contrast_rad": _json(float(rec.phase_contrast_rad)),
        "pixel_size_m": rec.pixel_size_m,
        "position_unit": "px" if rec.pixel_size_m is None else "m",
        "origin": [float(v) for v in rec.origin],
        "object_shape": list(rec.object.shape),
        "probe_shape": list(rec.probe.shape),
        "frames": len(rec.positions),
        "epochs": len(rec.errors),
        "provenance": _json(rec.provenance),
        "created": time.time(),
        "content_hash": content_hash(rec),
        "complete": False,
    }


def _write(node: Any, rec: Reconstruction, tags: list[str] | None) -> None:
    """Write all arrays and tables; each node needs its access tags anew, else it is its writer's alone."""
    phase = rec.phase
    common: dict[str, Any] = {} if tags is None else {"access_tags": tags}
    node.write_array(phase, key="phase", dims=("y", "x"), metadata={"unit": "rad"}, **common)
    node.write_array(rec.amplitude, key="amplitude", dims=("y", "x"), **common)
    node.write_array(np.asarray(rec.object, np.complex64), key="object", dims=("slice", "y", "x"), **common)
    node.write_array(np.asarray(rec.probe, np.complex64), key="probe", dims=("mode", "y", "x"), **common)
    node.write_array(np.asarray(rec.coverage, np.float32), key="coverage", dims=("y", "x"), **common)
    node.write_array(_preview(phase), key="preview", dims=("y", "x", "rgb"), **common)
    unit = {"unit": "px" if rec.pixel_size_m is None else "m"}
    rows, columns = np.asarray(rec.positions, np.float64).T
    node.write_table({"row": rows.copy(), "column": columns.copy()}, key="positions", metadata=unit, **common)
    if len(rec.errors):
        epochs = np.arange(1, len(rec.errors) + 1)
        node.write_table({"epoch": epochs, "r_factor": np.asarray(rec.errors, np.float64)}, key="errors", **common)
    node.update_metadata({"complete": True}, drop_revision=True)


def _tags(run: Any) -> list[str] | None:
    """Return the access tags of a run: its results are for the same people. Users' own come by themselves."""
    known = [] if run is None else run.item["attributes"].get("access_tags") or []
    return [str(tag) for tag in known if not str(tag).startswith("user:")] or None


def _link(run: Any, path: str) -> None:
    """Name the result in the raw run's metadata; the run itself must not suffer when that fails."""
    try:
        known = list((run.metadata.get("derived") or {}).get("ptychography", []))
        if path not in known:
            run.update_metadata({"derived": {"ptychography": [*known, path]}}, drop_revision=True)
    except ClientError as error:
        logger.warning("the result could not be named in the metadata of run %s: %s", run.uri, error)


def register_reconstruction(
    client: Any, reconstruction: Reconstruction, *, job_id: str, raw_uid: str | None = None
) -> Any:
    """Put a result into the catalogue as ``processed/ptychography/<job_id>``, exactly once.

    Called again with the same result it changes nothing; what a killed process left half-written is replaced. The
    partial image of the job is taken away. Where the run has access tags, the result has them.

    Parameters
    ----------
    client:
        From :func:`~ptycho_bluesky.catalog.connect`.
    reconstruction:
        The result.
    job_id:
        Key of the result.
    raw_uid:
        Run that was reconstructed; None for a file.

    Returns
    -------
    PtychoReconstruction
        The node in the catalogue.

    Raises
    ------
    CatalogError
        When another result is registered under this key already, or another process is writing it for too long.
    """
    parent = client["/".join(DERIVED)]
    with registering(job_id):
        run = None if raw_uid is None else find_run(client, raw_uid)
        start = {} if run is None else run.metadata["start"]
        metadata, tags = _metadata(reconstruction, job_id, raw_uid, start), _tags(run)
        node = parent.get(job_id)
        if node is not None and not node.metadata.get("complete"):
            node.delete(recursive=True, external_only=False)
            node = None
        if node is None:
            try:
                node = parent.create_container(job_id, metadata=metadata, specs=[SPEC], access_tags=tags)
            except ClientError as error:
                if error.response.status_code != CONFLICT:
                    raise
                raise CatalogError(
                    f"another machine is registering job {job_id} at this moment; try again in a minute"
                ) from error
            _write(node, reconstruction, tags)
            node = parent[job_id]
        elif node.metadata.get("content_hash") != metadata["content_hash"]:
            raise CatalogError(
                f"another result is registered as {'/'.join(DERIVED)}/{job_id} already (hash "
                f"{str(node.metadata.get('content_hash'))[:12]}, given {metadata['content_hash'][:12]}); register this "
                "one under another job_id, or delete the old one"
            )
        if run is not None:
            _link(run, f"{'/'.join(DERIVED)}/{job_id}")
    drop_partial(client, job_id)
    return node


def find_reconstructions(client: Any, raw_uid: str) -> list[Any]:
    """Return the finished reconstructions of a run, oldest first.

    Parameters
    ----------
    client:
        From :func:`~ptycho_bluesky.catalog.connect`.
    raw_uid:
        Of the run, in full.
    """
    found = client["/".join(DERIVED)].search(Key("raw_uid") == raw_uid).search(Key("complete") == True)  # noqa: E712
    return sorted(found.values(), key=lambda node: node.metadata["created"])
