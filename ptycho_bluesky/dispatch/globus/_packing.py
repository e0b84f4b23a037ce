"""What a job needs at a facility, by the cheapest reference that reaches: same path, same Tiled, or files."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptycho_bluesky.dispatch._allowed import files_of
from ptycho_bluesky.dispatch._folder import JobFolder
from ptycho_bluesky.dispatch._spec import FileSource, JobSpec, ReconstructionSource, TiledSource
from ptycho_bluesky.dispatch._training_spec import TrainingOrder
from ptycho_bluesky.dispatch.globus.facility import fingerprint
from ptycho_bluesky.errors import FacilityError

__all__ = ["AWAY", "OUT", "Pack", "pack", "questions"]

logger = logging.getLogger(__name__)

OUT = "out"
"""Folder of a job with the files that travel to the facility."""

AWAY = "facility"
"""Place of a job in the eyes of the facility: a queue of its own there, which nobody else tends."""


@dataclass(frozen=True)
class Pack:
    """A job, ready to go."""

    spec: dict[str, Any]
    """JSON of the :class:`JobSpec` for the facility."""

    files: tuple[str, ...]
    """Names in ``out`` that must travel."""

    source: dict[str, Any]
    """Where the dataset comes from, for the provenance of the result; empty where the facility reads it itself."""

    said: str
    """For the job's history."""


def questions(job: JobFolder, spec: JobSpec) -> dict[str, Any]:
    """Return what to ask the facility: which files it sees (the job's own first), and whether the run in Tiled."""
    paths = [str(job.spec_file), *files_of(spec)]
    try:
        files = {path: fingerprint(Path(path)) for path in paths}
    except OSError as error:
        raise FacilityError(
            f"{error.filename} cannot be read: {error.strerror}; correct the job's source", "user"
        ) from None
    return {"files": files, "run": spec.source.uid if isinstance(spec.source, TiledSource) else None}


def pack(
    job: JobFolder, spec: JobSpec, seen: dict[str, Any], transfers: bool, should_stop: Callable[[], bool]
) -> Pack | None:
    """Return what to send; None where it was told to stop before a run had arrived.

    Parameters
    ----------
    job, spec:
        Here.
    seen:
        The facility's answer to the :func:`questions`.
    transfers:
        Whether files can travel.
    should_stop:
        Asked while waiting for a run.

    Raises
    ------
    FacilityError
        When the facility sees neither file nor run, and nothing can travel.
    """
    order = TrainingOrder.model_validate(spec.options) if spec.recipe == "train" else None
    known = order is None or order.start_from in (None, "default")
    if known and seen["run"]:
        return Pack(_for_there(spec, spec.source), (), {}, "the facility reads the run from Tiled")
    if known and len(seen["files"]) > 1 and all(seen["files"][1:]):
        return Pack(_for_there(spec, spec.source), (), {}, "the facility sees the files under the same paths")
    if not transfers:
        why = f" ({seen['why_not']})" if seen.get("why_not") else ""
        raise FacilityError(
            f"the facility does not see what the job needs{why}: give the resource collection and here_collection, "
            "set tiled_uri there and here, or put the files where both see them",
            "user",
        )
    folder, there = job.path / OUT, f"{seen['home']}/jobs/{job.job_id}"
    folder.mkdir(exist_ok=True)
    if order is None:
        return _frames(spec, folder, there, should_stop)
    return _lesson(spec, order, folder, there, should_stop)


def _for_there(spec: JobSpec, source: Any, options: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the spec as the facility gets it: what follows, and whose turn it is, are matters of this side."""
    changes = {"source": source, "place": AWAY, "then": None, "priority": 0, "options": options or spec.options}
    return JobSpec.model_validate({**spec.model_dump(), **changes}).model_dump(mode="json")


def _save(dataset: Any, folder: Path) -> str:
    from ptycho_bluesky.formats import save_dataset

    name = "data.npz" if dataset.pixel_size_m is None else "data.nxs"
    if not (folder / name).exists():
        part = folder / f"part-{name}"
        save_dataset(part, dataset)
        part.replace(folder / name)
    return name


def _told(source: Any) -> dict[str, Any]:
    return {str(key): value for key, value in dict(source).items() if isinstance(value, str | int | float | bool)}


def _frames(spec: JobSpec, folder: Path, there: str, should_stop: Callable[[], bool]) -> Pack | None:
    from ptycho_bluesky.dispatch._sources import dataset_of

    if isinstance(spec.source, ReconstructionSource):
        raise FacilityError("a reconstruction cannot be reconstructed; give a run or a file", "user")
    dataset = dataset_of(spec.source, should_stop)
    if dataset is None:
        return None
    name = _save(dataset, folder)
    size = (folder / name).stat().st_size
    said = f"{len(dataset)} frames in one file of {size / 1e6:.1f} MB travel"
    return Pack(_for_there(spec, FileSource(path=f"{there}/{name}")), (name,), _told(dataset.source), said)


def _lesson(
    spec: JobSpec, order: TrainingOrder, folder: Path, there: str, should_stop: Callable[[], bool]
) -> Pack | None:
    from ptycho_bluesky.dispatch._sources import lesson_of
    from ptycho_bluesky.dispatch._train_recipe import _begin_with
    from ptycho_bluesky.formats import write_reconstruction

    lesson = lesson_of(spec, order.reconstruction, should_stop)
    if lesson is None:
        return None
    names, options = [], dict(spec.options)
    if lesson.reconstruction is not None:
        write_reconstruction(folder / "reconstruction.h5", lesson.reconstruction)
        names.append("reconstruction.h5")
    if lesson.dataset is not None:
        names.insert(0, _save(lesson.dataset, folder))
        options["reconstruction"] = f"{there}/reconstruction.h5" if lesson.reconstruction is not None else None
    else:
        options["reconstruction"] = None
    if order.start_from not in (None, "default") and _begin_with(order, folder) is not None:
        names.append("start.safetensors")  # where the facility's training looks for it first
    size = sum((folder / name).stat().st_size for name in names)
    said = f"{', '.join(names)} ({size / 1e6:.1f} MB) travel"
    source = FileSource(path=f"{there}/{names[0]}")
    return Pack(_for_there(spec, source, options), tuple(names), {"where": lesson.where}, said)
