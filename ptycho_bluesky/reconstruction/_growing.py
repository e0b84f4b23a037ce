"""A measurement that still grows while it is reconstructed: a scan in progress."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ptycho_bluesky.errors import DatasetError, ReconstructionError
from ptycho_bluesky.experiment import PtychoDataset
from ptycho_bluesky.reconstruction._problem import Problem
from ptycho_bluesky.reconstruction._start import Start, begun_from
from ptycho_bluesky.reconstruction.engines import BaseEngine, EngineOptions, EngineState

__all__ = ["ChainedFrames", "GrowingDataset", "follow"]

ENDLESS = 100_000
"""Epochs of the iteration while frames arrive: its step hardly falls before the scan is over."""

OFTEN = 20
"""Epochs over half of the frames or more after which the image of them is nearly right."""

GROWTH = 1.1
"""The problem is set up anew when there are that many times more frames: the sum of all set-ups stays small."""


class ChainedFrames:
    """Frames of several sources one after the other, read where they lie.

    Parameters
    ----------
    parts:
        Sources of frames (N, H, W), of one frame shape.
    """

    def __init__(self, parts: list[Any]) -> None:
        shapes = {tuple(part.shape[1:]) for part in parts}
        if len(shapes) != 1:
            raise DatasetError(f"frames of shapes {sorted(shapes)} cannot be put together; crop them to one shape")
        self._parts = parts
        self._starts = np.cumsum([0, *(int(part.shape[0]) for part in parts)])
        self.shape: tuple[int, ...] = (int(self._starts[-1]), *shapes.pop())
        self.dtype = np.result_type(*(part.dtype for part in parts))

    def __getitem__(self, index: slice, /) -> npt.NDArray[Any]:
        """Return the frames of a slice, a copy where it crosses a border."""
        start, stop, step = index.indices(self.shape[0])
        found = []
        for part, first, last in zip(self._parts, self._starts[:-1], self._starts[1:], strict=True):
            low, high = max(start, int(first)), min(stop, int(last))
            if low < high:
                found.append(np.asarray(part[low - int(first) : high - int(first)]))
        whole = np.concatenate(found) if found else np.empty((0, *self.shape[1:]), self.dtype)
        return whole[::step]


class GrowingDataset:
    """Frames and positions that arrive while an engine works on those that are there. Safe to fill from any thread.

    Parameters
    ----------
    like:
        A dataset that has everything but the frames to come: geometry, mask, probe, pixel size. Frames that it has are
        the first ones.
    patience_s:
        Seconds without a new frame after which the scan counts as over, so that a lost source holds up nothing.
    """

    def __init__(self, like: PtychoDataset, patience_s: float = 300.0) -> None:
        self._like, self._patience_s = replace(like, timestamps=None), patience_s
        self._frames: list[Any] = [like.frames] if len(like) else []
        self._positions = [np.asarray(like.positions, np.float64).reshape(-1, 2)]
        self._count, self._finished, self._last = len(like), False, time.monotonic()
        self._news = threading.Condition()

    def __len__(self) -> int:
        with self._news:
            return self._count

    def append(
        self, frames: npt.ArrayLike, positions: npt.ArrayLike, mask: npt.NDArray[np.bool_] | None = None
    ) -> None:
        """Add frames (n, H, W) and their positions (n, 2); neither may be written to afterwards.

        `mask` (H, W), True = bad, takes the place of the one so far: a pixel may saturate late in a scan.

        Raises
        ------
        DatasetError
            When shapes do not fit, positions are not finite, or the scan is over.
        """
        images, places = np.asarray(frames), np.asarray(positions, np.float64)
        wanted = tuple(self._like.frames.shape[1:])
        if images.ndim != 3 or images.shape[1:] != wanted:
            raise DatasetError(f"frames have shape {images.shape}; allowed is (n, {wanted[0]}, {wanted[1]})")
        if places.shape != (len(images), 2) or not np.isfinite(places).all():
            raise DatasetError(f"positions have shape {places.shape}; allowed is ({len(images)}, 2), all finite")
        with self._news:
            if self._finished:
                raise DatasetError("the scan is over; no frame may be added after finish()")
            if mask is not None:
                self._like = replace(self._like, mask=mask)
            if len(images):
                self._frames.append(images)
                self._positions.append(places)
                self._count, self._last = self._count + len(images), time.monotonic()
            self._news.notify_all()

    def finish(self) -> None:
        """Say that no more frames come."""
        with self._news:
            self._finished = True
            self._news.notify_all()

    @property
    def finished(self) -> bool:
        """Whether no more frames come, or none has come for too long."""
        with self._news:
            return self._finished or time.monotonic() - self._last > self._patience_s

    def wait_for(self, count: int) -> None:
        """Wait until there are `count` frames, or no more come."""
        with self._news:
            while self._count < count and not self.finished:
                self._news.wait(0.2)

    def snapshot(self) -> PtychoDataset:
        """Return the dataset of all frames that have arrived; nothing is copied.

        Raises
        ------
        ReconstructionError
            When none has arrived.
        """
        with self._news:
            if not self._frames:
                raise ReconstructionError("no frame has arrived; check that the source of frames is running")
            frames, positions = ChainedFrames(list(self._frames)), np.concatenate(self._positions)
        return replace(self._like, frames=frames, positions=positions)


def follow(
    engine: BaseEngine[Any],
    growing: GrowingDataset,
    options: EngineOptions,
    start: Start | None = None,
    least: int = 32,
) -> Iterator[EngineState]:
    """Yield states while frames arrive, then those of a pass over all of them that begins at what was reached.

    How long the iteration goes on is not known before the scan is over: until then ``epochs`` of a state is 0. The
    last pass has fewer epochs where the engine chooses their number and most frames have been seen often.

    Parameters
    ----------
    engine, options:
        As for a dataset that is complete.
    growing:
        Filled by another thread.
    start:
        Where to begin, e.g. the live image; None for an empty object.
    least:
        Frames to wait for before the first epoch.
    """
    endless = options.model_copy(update={"epochs": ENDLESS})
    growing.wait_for(least)
    epoch, seconds, seen = 0, 0.0, np.zeros(0, np.int64)
    while True:
        finished, dataset = growing.finished, growing.snapshot()
        problem: Problem = engine.prepare(dataset, options)
        problem = problem if start is None else begun_from(problem, start)
        if not finished:
            chosen = endless
        else:
            near = int((2 * seen >= len(dataset)).sum()) >= OFTEN
            chosen = engine.from_near(options, len(dataset)) if near else options
        for state in engine.iterate(problem, chosen):
            last = state
            of = epoch + state.epochs if finished else 0
            yield replace(state, epoch=epoch + state.epoch, epochs=of, seconds=seconds + state.seconds)
            if not finished and (growing.finished or len(growing) >= GROWTH * len(dataset)):
                break
        epoch, seconds = epoch + last.epoch, seconds + last.seconds
        if finished:
            return
        seen = np.append(seen, np.full(last.epoch, len(dataset)))
        known = np.ones(problem.grid.shape, bool)
        start = Start(last.object, problem.grid.origin, problem.grid.pixel_size, known, last.probe)
