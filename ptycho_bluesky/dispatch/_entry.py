"""A trained model from its job's folder into the library, into service where that was asked, and into Tiled."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from ptycho_bluesky.dispatch._folder import JobFolder
from ptycho_bluesky.dispatch._training_spec import TrainingOrder
from ptycho_bluesky.errors import DispatchError, InferenceError

__all__ = ["PROBE", "RECORD", "enter_model", "register_model_of"]

logger = logging.getLogger(__name__)

RECORD = "record.json"
PROBE = "probe.npy"


def _record(job: JobFolder) -> Any:
    from ptycho_bluesky.catalog import ModelRecord

    try:
        return ModelRecord.model_validate_json((job.path / RECORD).read_bytes())
    except (OSError, ValueError) as error:
        text = " ".join(str(error).split())[:200]
        raise DispatchError(f"{job.path / RECORD} cannot be read ({text}); train the model again") from None


def enter_model(job: JobFolder) -> dict[str, Any]:
    """Put a training's model into the library, and into service where it was asked for and passed the gate.

    Done again it changes nothing. Needs no Tiled.

    Returns
    -------
    dict
        ``model``, ``content_hash``, ``gate`` ("passed", "not passed", "not tried"), ``promoted``: for the job's status.
    """
    from ptycho_bluesky.catalog import ModelLibrary, promote

    made, library = _record(job), ModelLibrary()
    record = library.add(job.result_file.read_bytes(), made, np.load(job.path / PROBE, allow_pickle=False))
    for verdict in made.gate:  # where a training ends at weights that are known already
        record = library.judge(record.content_hash, verdict)
    tried = {True: "passed", False: "not passed", None: "not tried"}
    verdict = made.gate[-1] if made.gate else None
    promoted = False
    if TrainingOrder.model_validate(job.spec().options).promote and verdict is not None and verdict.passed:
        try:
            promote(library, record.content_hash, why=f"job {job.job_id} on {verdict.dataset}: it passed the gate")
            promoted = True
        except InferenceError as error:  # another one went into service meanwhile
            logger.warning("the model is not promoted: %s", error)
    gate = tried[None if verdict is None else verdict.passed]
    return {"model": record.stem, "content_hash": record.content_hash, "gate": gate, "promoted": promoted}


def register_model_of(job: JobFolder, client: Any) -> None:
    """Register the model of a training in Tiled.

    Raises
    ------
    PtychoError
        When its files cannot be read, or Tiled holds another one under its hash.
    httpx.HTTPError
        When Tiled cannot be reached.
    """
    from ptycho_bluesky.catalog import ModelLibrary, register_model

    register_model(client, ModelLibrary(), _record(job).content_hash)
