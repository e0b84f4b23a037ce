"""A run that is still being measured, read from Tiled as its frames arrive."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ptycho_bluesky.catalog._connect import find_run
from ptycho_bluesky.catalog._dataset import Piece, block_of, joined, piece_of, pieces_with
from ptycho_bluesky.errors import CatalogError
from ptycho_bluesky.experiment import PtychoDataset, PtychographyMetadata

__all__ = ["RunFollower"]


class RunFollower:
    """Gives the frames of a run in their order, each once, while the scan goes on and after it.

    Frames of runs that this one continues come first. The run may vanish for a while and come back, as it does when
    its journal is sent again.

    Parameters
    ----------
    client:
        From :func:`~ptycho_bluesky.catalog.connect`.
    uid:
        Of the run, in full.
    """

    def __init__(self, client: Any, uid: str) -> None:
        self._client, self._uid = client, uid
        self._block: PtychographyMetadata | None = None
        self._earlier: list[Piece] = []
        self._there: PtychoDataset | None = None
        self._saturated: npt.NDArray[np.bool_] | None = None
        self.taken = 0
        """Frames that were given so far."""

        self.ended = False
        """Whether the run had stopped when it was last looked at: what there was then is all."""

    @property
    def left(self) -> int:
        """Frames that have arrived and were not taken yet."""
        return 0 if self._there is None else max(0, len(self._there) - self.taken)

    def look(self) -> int:
        """Ask Tiled what there is now, and return :attr:`left`.

        Raises
        ------
        CatalogError
            When the run, its stream or its data keys are not there (yet).
        DatasetError
            When its metadata do not fit the data.
        """
        run = find_run(self._client, self._uid)
        if run is None:
            raise CatalogError(f"run {self._uid} is not in Tiled; check that the RunEngine has tiled_writer(client)")
        self.ended = bool(run.metadata.get("stop"))  # asked before the frames: what it tells of is there then
        if self._block is None:
            block = block_of(run)
            self._earlier = pieces_with(run, block, alone=False)[:-1]
            self._block = block
        pieces = [*self._earlier, piece_of(run, self._block)]
        unjudged = self._block.model_copy(update={"saturation": None})  # not all frames anew at each look
        self._there = joined(run, unjudged, [piece for piece in pieces if piece.count] or pieces[-1:])
        return self.left

    def take(self, most: int) -> PtychoDataset:
        """Return the next frames, `most` at the most, read now; the mask is what is known with them.

        Raises
        ------
        CatalogError
            When :meth:`look` was not called before.
        """
        if self._there is None or self._block is None:
            raise CatalogError(f"run {self._uid} was not looked at yet; call look() first")
        chosen = slice(self.taken, min(self.taken + most, len(self._there)))
        frames = np.asarray(self._there.frames[chosen])
        mask, level = self._there.mask, self._block.saturation
        if level is not None:
            saturated = np.asarray((frames >= level).any(axis=0))
            if self._saturated is not None:
                saturated |= self._saturated
            self._saturated = saturated
            if saturated.any():
                mask = saturated if mask is None else mask | saturated
        self.taken += len(frames)
        return replace(self._there, frames=frames, positions=self._there.positions[chosen], mask=mask, timestamps=None)
