"""The image of a reconstruction that is still going on: ``processed/ptychography-partial/<job_id>``."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt

from ptycho_bluesky.catalog._connect import DERIVED, child
from ptycho_bluesky.stream.outputs import ChangingImages

__all__ = ["PARTIAL", "PartialNode", "drop_partial", "partial_jobs"]

logger = logging.getLogger(__name__)

PARTIAL = (DERIVED[0], "ptychography-partial")
"""Keys of the container that holds the images of running jobs."""

Image = npt.NDArray[np.float32]


class PartialNode:
    """One job's image in Tiled: ``phase`` and ``amplitude``, (Y, X) float32, NaN where not scanned, updated in place.

    Subscribers to the container hear of new metadata, those to an array of each piece that is written.

    Parameters
    ----------
    client:
        From :func:`~ptycho_bluesky.catalog.connect`.
    job_id:
        Key of the node.
    """

    def __init__(self, client: Any, job_id: str) -> None:
        self._client, self.job_id = client, job_id
        self._home: Any = None
        self._images: ChangingImages | None = None

    def show(self, phase: Image, amplitude: Image, metadata: Mapping[str, Any]) -> None:
        """Put a phase and an amplitude (Y, X) there, with metadata (JSON values) and the time of writing, ``updated``.

        Raises
        ------
        httpx.HTTPError
            When Tiled cannot be reached, or refuses; the next image is then written as a whole.
        """
        said = {"job_id": self.job_id, **metadata, "updated": time.time()}
        images, self._images = self._images, None
        if images is None or images.shape != phase.shape:
            parent = child(child(self._client, PARTIAL[0]), PARTIAL[1])
            self._home = child(parent, self.job_id)
            images = ChangingImages(self._home, ("phase", "amplitude"), (phase.shape[0], phase.shape[1]))
        images.changed(slice(0, phase.shape[0]), slice(0, phase.shape[1]))
        images.write({"phase": phase, "amplitude": amplitude})
        self._home.update_metadata(said, drop_revision=True)
        self._images = images


def drop_partial(client: Any, job_id: str) -> None:
    """Take a job's partial image away through `client`, if there is one; what Tiled says against it is only logged."""
    try:
        client["/".join((*PARTIAL, job_id))].delete(recursive=True, external_only=False)
    except KeyError:
        return
    except httpx.HTTPError as error:
        logger.warning("the partial image of job %s is left in Tiled: %s", job_id[:8], error)


def partial_jobs(client: Any) -> list[str]:
    """Return the ids of the jobs of which there are partial images."""
    try:
        return list(client["/".join(PARTIAL)])
    except KeyError:
        return []
