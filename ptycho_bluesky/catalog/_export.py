"""A run and its reconstruction out of the catalogue, into one file that other programs open."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ptycho_bluesky.catalog._connect import find_run
from ptycho_bluesky.catalog._dataset import dataset_from_run
from ptycho_bluesky.catalog._register import find_reconstructions
from ptycho_bluesky.errors import CatalogError
from ptycho_bluesky.formats import save_dataset, save_together

__all__ = ["export_run"]


def export_run(client: Any, raw_uid: str, path: str | Path, *, job_id: str | None = None, result: bool = True) -> Any:
    """Write a run, with its reconstruction where there is one, to one NXcxi_ptycho file.

    The measurement stands as every reader of CXI expects it (``entry_1/data_1/data`` and ``translation``), the probe
    as ``entry_1/image_1`` and the object as ``entry_1/image_2``; ``load_dataset`` gives the one back and
    ``read_reconstruction`` the other.

    Parameters
    ----------
    client:
        From :func:`~ptycho_bluesky.catalog.connect`.
    raw_uid:
        Of the run, in full.
    path:
        File to write; replaced where it exists.
    job_id:
        Which of the run's reconstructions; None for the latest.
    result:
        False leaves the reconstruction out.

    Returns
    -------
    PtychoReconstruction or None
        The reconstruction that was written, None where there was none to write.

    Raises
    ------
    CatalogError
        When there is no such run, or no such reconstruction of it.
    DatasetError
        When the run lacks what a dataset needs.
    FormatError
        When positions are in pixels, or the file cannot be written.
    """
    if (run := find_run(client, raw_uid)) is None:
        raise CatalogError(f"run {raw_uid} is not in this catalogue; give the uid of one that is, in full")
    dataset = dataset_from_run(run)
    known = {node.metadata["job_id"]: node for node in find_reconstructions(client, raw_uid)} if result else {}
    if job_id is not None and job_id not in known:
        raise CatalogError(
            f"run {raw_uid[:8]} has no finished reconstruction {job_id}; there are {', '.join(known) or 'none'}"
        )
    chosen = known[job_id] if job_id is not None else (list(known.values()) or [None])[-1]
    if chosen is None:
        save_dataset(path, dataset, "nxcxi")
    else:
        save_together(path, dataset, chosen.to_reconstruction())
    return chosen
