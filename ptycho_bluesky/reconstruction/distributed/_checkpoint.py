"""Checkpoints that any number of ranks can go on from: each rank writes its piece, and the file that names all is last.

``checkpoint.json`` names an epoch; only when all pieces of it are on the disk it is replaced, in one step. What a crash
leaves is either the checkpoint before or the one after.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ptycho_bluesky.errors import ReconstructionError
from ptycho_bluesky.reconstruction._model import Model, Variation
from ptycho_bluesky.reconstruction.distributed._communicator import Communicator
from ptycho_bluesky.reconstruction.distributed._pieces import Piece

__all__ = ["Checkpoints", "Saved"]

logger = logging.getLogger(__name__)

MANIFEST = "checkpoint.json"

FIRST_S = 0.1
"""What the first checkpoint is taken to cost; then the dearest one so far tells what the next will."""


@dataclass(frozen=True)
class Saved:
    """What a checkpoint holds."""

    epoch: int
    errors: list[float]
    """R-factor of each epoch."""

    warm: bool
    """Whether the reconstruction began at a sharp object."""

    model: Model
    """All but the object, which is (slices, 0, 0); corners in pixels of the whole object."""

    files: list[Path]
    """One piece of the object each."""

    def pieces(self) -> Iterator[Piece]:
        """Yield the pieces of the object."""
        for file in self.files:
            with np.load(file, allow_pickle=False) as found:
                top, bottom, left, right = found["box"].tolist()
                yield Piece((slice(top, bottom), slice(left, right)), found["object"], found["weight"])


class Checkpoints:
    """Writes and reads the checkpoints of one reconstruction.

    Parameters
    ----------
    folder:
        That all ranks can write to.
    communicator:
        To the other ranks.
    fingerprint:
        What must agree for a checkpoint to be gone on from: frames, engine, options.
    share:
        Most of the time that they may take; 0 for none.
    """

    def __init__(self, folder: Path, communicator: Communicator, fingerprint: dict[str, Any], share: float) -> None:
        self._folder, self._communicator, self._fingerprint, self._share = folder, communicator, fingerprint, share
        self.seconds = 0.0
        """Spent on checkpoints so far."""
        self._began, self._dearest = time.monotonic(), FIRST_S

    def read(self) -> Saved | None:
        """Return the last checkpoint, or None where there is none.

        Raises
        ------
        ReconstructionError
            When it is one of another reconstruction, or damaged.
        """
        path = self._folder / MANIFEST
        try:
            found = json.loads(path.read_bytes())
            if found["fingerprint"] != self._fingerprint:
                raise ReconstructionError(
                    f"{path} is of another reconstruction ({found['fingerprint']}; this one is {self._fingerprint}); "
                    "give another folder, or remove it"
                )
            with np.load(self._folder / found["common"], allow_pickle=False) as common:
                empty = np.ones((found["slices"], 0, 0), np.complex64)
                model = Model(empty, common["probe"], common["corners"], common.get("background"))
                if "modes" in common:
                    model = replace(model, variation=Variation(common["modes"], common["weights"]))
            files = [self._folder / name for name in found["pieces"]]
            return Saved(found["epoch"], found["errors"], found["warm"], model, files)
        except FileNotFoundError:
            return None
        except (OSError, KeyError, ValueError) as error:
            raise ReconstructionError(f"{path} is damaged ({error}); remove it to begin anew") from None

    def due(self) -> float:
        """Return a number whose sum over ranks is positive when a checkpoint is due: the time so far pays for it."""
        if not self._share:
            return -1.0
        return self._share * (time.monotonic() - self._began) - self.seconds - self._dearest

    def write(self, piece: Piece, model: Model, epoch: int, errors: list[float], warm: bool) -> None:
        """Write a checkpoint, with all ranks; what fails is logged, and the work goes on.

        Of the model all but the object is written; its corners are in pixels of the whole object.
        """
        began, rank, size = time.monotonic(), self._communicator.rank, self._communicator.size
        names = [f"epoch-{epoch}-piece-{number}-of-{size}.npz" for number in range(size)]
        common = f"epoch-{epoch}-common-of-{size}.npz"
        box = [piece.box[0].start, piece.box[0].stop, piece.box[1].start, piece.box[1].stop]
        failure = ""
        try:
            _save(self._folder / names[rank], box=np.array(box), object=piece.object, weight=piece.weight)
            if rank == 0:
                _save(self._folder / common, **_arrays_of(model))
        except OSError as error:
            failure = f"rank {rank}: {error}"
        failures = [text for text in self._communicator.gather_objects(failure, "checkpoints") if text]
        if rank == 0 and not failures:
            manifest = {
                "epoch": epoch,
                "errors": errors,
                "warm": warm,
                "slices": len(model.object),
                "fingerprint": self._fingerprint,
                "common": common,
                "pieces": names,
            }
            try:
                _replace(self._folder / MANIFEST, json.dumps(manifest).encode())
                self._forget_all_but({common, *names})
            except OSError as error:
                failures = [str(error)]
        if rank == 0 and failures:
            logger.warning("no checkpoint after epoch %d, going on without: %s", epoch, "; ".join(failures))
        cost = time.monotonic() - began
        self._dearest = max(cost, self._dearest if self.seconds else 0.0)
        self.seconds += cost

    def _forget_all_but(self, kept: set[str]) -> None:
        for file in self._folder.glob("epoch-*-of-*.npz"):
            if file.name not in kept:
                file.unlink(missing_ok=True)


def _arrays_of(model: Model) -> dict[str, npt.NDArray[Any]]:
    arrays: dict[str, npt.NDArray[Any]] = {"corners": model.corners, "probe": model.probe}
    if model.background is not None:
        arrays["background"] = model.background
    if model.variation is not None:
        arrays |= {"modes": model.variation.modes, "weights": model.variation.weights}
    return arrays


def _save(path: Path, **arrays: npt.NDArray[Any]) -> None:
    """Write an NPZ file whole or not at all."""
    part = path.with_suffix(".part")
    try:
        with part.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise


def _replace(path: Path, content: bytes) -> None:
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
