"""One rank from its first frame to the result: what ``python -m ptycho_bluesky.reconstruction.distributed`` does."""

from __future__ import annotations

import json
import logging
import os
import resource
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import scipy.ndimage
import torch

from ptycho_bluesky.errors import ReconstructionError
from ptycho_bluesky.experiment import PtychoDataset
from ptycho_bluesky.formats import load_dataset, write_reconstruction
from ptycho_bluesky.reconstruction._model import ComplexArray, Model
from ptycho_bluesky.reconstruction._multigrid import finer_probe
from ptycho_bluesky.reconstruction._result import finish, provenance_of
from ptycho_bluesky.reconstruction._start import begun_from, read_start
from ptycho_bluesky.reconstruction.distributed._checkpoint import Checkpoints
from ptycho_bluesky.reconstruction.distributed._communicator import Communicator
from ptycho_bluesky.reconstruction.distributed._field import Field
from ptycho_bluesky.reconstruction.distributed._options import PROGRESS, STOP, RankEngineOptions, RankSpec
from ptycho_bluesky.reconstruction.distributed._partition import Box, Partition
from ptycho_bluesky.reconstruction.distributed._pieces import blend, shape_of
from ptycho_bluesky.reconstruction.distributed._sweep import Meter
from ptycho_bluesky.reconstruction.distributed._tiles import Tile
from ptycho_bluesky.reconstruction.engines import EngineState, FastEngine, FastOptions
from ptycho_bluesky.reconstruction.engines._anneal import SUBPIXEL_OF_CORRECTION

__all__ = ["work"]

logger = logging.getLogger(__name__)

MEASURED_AFTER, WORTH_A_DIVISION = 2, 1.1
"""Epochs after which speeds count, and how much the fastest rank must outdo the mean."""


class _Wishes:
    """Whether this rank was asked to stop: by a signal, a file or the time. Rank 0 looks for the latter two."""

    def __init__(self, spec: RankSpec, rank: int) -> None:
        self._file, self._rank, self._signalled = spec.folder / STOP, rank, False
        self._began, self._most = time.monotonic(), spec.max_seconds
        self._last, self.reason = self._began, ""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self._signalled = True

    def stop_now(self) -> bool:
        """Tell whether to stop at the next segment."""
        return self._signalled or (self._rank == 0 and self._file.exists())

    def no_more_epochs(self) -> bool:
        """Tell whether another epoch would end too late; called once an epoch."""
        now = time.monotonic()
        this, self._last = now - self._last, now
        return self._rank == 0 and self._most is not None and now - self._began + this > self._most


@dataclass
class _Run:
    """A reconstruction under way on this rank."""

    spec: RankSpec
    communicator: Communicator
    wishes: _Wishes
    began: float = field(default_factory=time.perf_counter)
    errors: list[float] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)
    stopped: str = ""
    meter: Meter = field(default_factory=Meter)
    """Of this rank's kernels, after the coarse start."""
    divisions: int = 1
    """Times that frames were divided over the ranks."""
    resumed: int | None = None
    """Epoch of the checkpoint that it began at."""
    iterating: float = 0.0
    """Seconds in epochs, before frames were last divided."""
    processor: float = 0.0
    """Seconds of the processor in epochs, what neither waits for other ranks nor other processes add to."""

    @property
    def rank(self) -> int:
        """Number of this rank."""
        return self.communicator.rank

    def dataset(self) -> PtychoDataset:
        """Return the dataset, its frames not yet read, with a probe that rank 0 guesses where there is none."""
        dataset = load_dataset(self.spec.dataset, **self.spec.load)
        dataset = dataset if self.spec.name is None else replace(dataset, name=self.spec.name)
        if dataset.probe is not None or dataset.modality != "far-field":
            return dataset
        probe = np.empty((1, *dataset.frame_shape), np.complex64)
        if self.rank == 0:
            options = self.spec.engine_options(len(dataset))
            common = {name: getattr(options, name) for name in ("seed", "kernels", "modes")}
            guessed = FastEngine().with_probe(dataset, FastOptions(threads=1, **common)).probe
            probe = probe if guessed is None else guessed
        shared = self.communicator.broadcast(torch.from_numpy(np.ascontiguousarray(probe)), "the probe")
        return replace(dataset, probe=shared.numpy())

    def tile(self, whole: Field, model: Model, pieces: Iterator[Any], speeds: list[float] | None = None) -> Tile:
        """Divide frames at the corners of a model of the whole object, and take this rank's part from pieces of it."""
        partition = whole.partition(model.corners, model.probe, speeds)
        obj, _ = blend(pieces, partition.tiles[self.rank], len(model.object))
        return self._tile_of(whole, partition, replace(model, object=obj))

    def _tile_of(self, whole: Field, partition: Partition, start: Model) -> Tile:
        return Tile.of(whole, partition, start, self.wishes.stop_now, self.meter, self.spec.device)

    def fresh(self, whole: Field) -> Tile:
        """Return a tile that begins at a given image, empty, or at what a coarse problem makes of it."""
        empty = np.ones((whole.options.slices, 0, 0), np.complex64)
        tile = self.tile(whole, Model(empty, whole.probe, whole.corners), iter(()))
        if self.spec.start is not None:
            corners = tile.problem.start.corners[tile.partition.frames[self.rank]]
            own = replace(tile.problem, start=replace(tile.problem.start, corners=corners))
            begun = begun_from(own, read_start(self.spec.start)).start
            return self._tile_of(whole, tile.partition, begun)
        coarse = whole.coarser()
        if coarse is None:
            return tile
        soft = self.tile(coarse, Model(empty, coarse.probe, coarse.corners), iter(()))
        try:
            *_, last = soft.states(coarse, False, 0)
        except ReconstructionError as error:  # the fine problem will say what is wrong, if anything is
            logger.info("no coarse start: %s", error)
            return tile
        obj = _finer(last.model.object, soft.box, tile.box)
        probe = finer_probe(last.model.probe, whole.probe)
        self.meter.reset()
        return self._tile_of(whole, tile.partition, replace(tile.problem.start, object=obj, probe=probe))

    def go(self) -> None:
        """Reconstruct; rank 0 writes the result."""
        dataset = self.dataset()
        options = self.spec.engine_options(len(dataset))
        whole = Field(dataset, options, self.spec.ranks, self.communicator)
        fingerprint = {
            "frames": int(whole.used.sum()),
            "object": list(whole.grid.shape),
            "engine": self.spec.engine,
            "options": options.model_dump(mode="json", exclude={"threads", "memory_gb", "kernels", "data_type"}),
        }
        checkpoints = Checkpoints(self.spec.folder, self.communicator, fingerprint, self.spec.ranks.checkpoint_share)
        saved = checkpoints.read()
        if saved is None:
            done, warm, tile = 0, self.spec.start is not None, self.fresh(whole)
        else:
            done, warm, self.errors, self.resumed = saved.epoch, saved.warm, saved.errors, saved.epoch
            tile = self.tile(whole, saved.model, saved.pieces())
        state, before = None, time.process_time()
        while done < (options.epochs or 0) and not self.stopped:
            state, tile = self._until_divided(whole, tile, checkpoints, warm, done)
            done = state.epoch
        self.processor = time.process_time() - before
        if state is None:
            raise ReconstructionError(
                f"the checkpoint in {self.spec.folder} is of the last epoch already; remove it to begin anew"
            )
        self._result(whole, tile, state, checkpoints)

    def _until_divided(
        self, whole: Field, tile: Tile, checkpoints: Checkpoints, warm: bool, done: int
    ) -> tuple[EngineState, Tile]:
        """Go on until the end, or until frames are to be divided anew; return the last state and the tile it fits."""
        state: EngineState | None = None
        for state in tile.states(whole, warm, done):
            self._tell(state)
            speeds = [self.meter.speed if rank == self.rank else 0.0 for rank in range(self.communicator.size)]
            mine = [checkpoints.due(), tile.kernels.stopped or self.wishes.stop_now(), self.wishes.no_more_epochs()]
            due, stop, late, *speeds = self.communicator.sum_of([*map(float, mine), *speeds], "wishes")
            if tile.kernels.stopped or ((stop or late) and state.epoch < state.epochs):
                self.stopped = "asked to stop" if stop else f"limit of {self.spec.max_seconds:g} s"
            fair = self.spec.ranks.balance == "given" or max(speeds) * len(speeds) < WORTH_A_DIVISION * sum(speeds)
            uneven = state.epoch == MEASURED_AFTER and not fair
            if uneven or tile.outgrown(state.model):
                model = replace(state.model, corners=tile.corners(state.model))
                tile = self.tile(whole, model, tile.pieces(state.model), speeds if uneven else None)
                self.divisions += 1
                self.iterating += state.seconds
                return _on(tile, state, whole.options), tile
            if self.stopped:
                break
            if due > 0 and state.epoch < state.epochs:
                model = replace(state.model, corners=tile.corners(state.model))
                checkpoints.write(tile.piece(state.model), model, state.epoch, self.errors, warm)
        if state is None:
            raise ReconstructionError("the engine ended without a single epoch")
        return state, tile

    def _tell(self, state: EngineState) -> None:
        self.errors.append(state.r_factor)
        self.messages += [state.message] if state.message else []
        if self.rank == 0:
            seconds = self.iterating + state.seconds
            line = {"epoch": state.epoch, "epochs": state.epochs, "r_factor": state.r_factor, "seconds": seconds}
            with (self.spec.folder / PROGRESS).open("a") as file:
                file.write(json.dumps(line) + "\n")

    def _result(self, whole: Field, tile: Tile, state: EngineState, checkpoints: Checkpoints) -> None:
        r_factor = state.current_r_factor()
        everything: Box = slice(0, whole.grid.shape[0]), slice(0, whole.grid.shape[1])
        pieces = tile.pieces(state.model)
        if self.rank == 0:
            obj, _ = blend(pieces, everything, len(state.object))
        for _ in pieces:  # all ranks go through all pieces; only rank 0 keeps them
            continue
        mine = {
            "frames": len(tile.partition.frames[self.rank]),
            "amplitude_bytes": whole.bytes_held,
            "object_bytes": state.object.nbytes,
            "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "computing_s": round(self.meter.seconds, 4),
            "processor_s": round(self.processor, 4),
            "traffic": self.communicator.traffic,
        }
        everyone = self.communicator.gather_objects(mine, "reports", root=0)
        if self.rank != 0:
            return
        model = replace(state.model, object=obj, corners=tile.corners(state.model))
        state = replace(state, model=model, problem=whole.problem(tile.problem.amplitudes, whole.grid, model))
        seconds = time.perf_counter() - self.began
        provenance = provenance_of(whole.dataset, state, self.spec.device, seconds, self.stopped, self.messages)
        iterating = self.iterating + state.seconds
        provenance |= {
            "ranks": self.communicator.size,
            "seconds_iterating": round(iterating, 4),
            "seconds_per_epoch": round(iterating / max(1, state.epoch - (self.resumed or 0)), 5),
        }
        provenance["distributed"] = {
            "options": self.spec.ranks.model_dump(mode="json"),
            "nodes": [list(node) for node in self.communicator.topology.nodes],
            "partition": tile.partition.report(),
            "divisions": self.divisions,
            "resumed_at_epoch": self.resumed,
            "checkpoints_s": round(checkpoints.seconds, 4),
            "of_rank": everyone,
        }
        parameters = whole.options.model_dump(mode="json")
        result = finish(whole.dataset, state, r_factor, self.errors, self.spec.engine, parameters, provenance)
        write_reconstruction(self.spec.output, result)
        if self.spec.picture is not None:
            tile.partition.picture(self.spec.picture)


def _on(tile: Tile, state: EngineState, options: RankEngineOptions) -> EngineState:
    """Return a state as one of a new tile, which begins where the state is."""
    start, divisions = tile.problem.start, options.subpixel
    if options.position_correction:
        divisions = max(divisions, SUBPIXEL_OF_CORRECTION)
    groups = tile.problem.groups(start, divisions)
    return replace(state, model=start, problem=tile.problem, kernels=tile.kernels, groups=groups, seconds=0.0)


def _finer(obj: ComplexArray, coarse: Box, fine: Box) -> ComplexArray:
    """Return the object of a tile (1, Y, X) from that of a tile with pixels twice as large."""
    offset = [f.start / 2 - c.start for f, c in zip(fine, coarse, strict=True)]
    parts = [
        scipy.ndimage.affine_transform(
            part, np.full(2, 0.5), offset, output_shape=shape_of(fine), order=1, mode="nearest", output=np.float32
        )
        for part in (obj[0].real, obj[0].imag)
    ]
    return np.asarray(parts[0] + 1j * parts[1], np.complex64)[None]


def work(path: str | Path) -> None:
    """Do the work of one rank; torchrun's environment says which.

    Parameters
    ----------
    path:
        JSON file with a :class:`RankSpec`.

    Raises
    ------
    PtychoError
        When file, dataset or options are wrong, the reconstruction diverges, or another rank is lost.
    """
    spec = RankSpec.read(path)
    torch.set_num_threads(1)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    communicator = Communicator(spec.ranks.timeout_s, spec.ranks.wire, spec.ranks.nodes)
    try:
        _Run(spec, communicator, _Wishes(spec, communicator.rank)).go()
    finally:
        communicator.close()
