"""Which frames a training step sees: simulated, measured, or now these and now those; the step alone decides.

As nothing but options, step and rank counts, a training that was interrupted goes on as if it had not been.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ptycho_bluesky.inference._conditions import Conditions
from ptycho_bluesky.inference._pairs import TrainingPairs
from ptycho_bluesky.inference._simulation import simulate_shard
from ptycho_bluesky.inference._training_options import TrainingOptions

__all__ = ["Batch", "Batches", "batch_of"]


@dataclass(frozen=True)
class Batch:
    """Frames of one step, as tensors; see :class:`TrainingPairs`."""

    frames: Tensor
    probes: Tensor
    good: Tensor
    objects: Tensor | None

    def to(self, device: torch.device) -> Batch:
        """Return the same on a device."""
        known = None if self.objects is None else self.objects.to(device)
        return Batch(self.frames.to(device), self.probes.to(device), self.good.to(device), known)


def batch_of(pairs: TrainingPairs, index: npt.NDArray[np.integer[Any]], turn: Any = None) -> Batch:
    """Return some pairs as tensors, turned and mirrored."""
    a, b, c, d = (None if part is None else torch.from_numpy(part) for part in pairs.take(index, turn))
    return Batch(a, b, c, d)  # type: ignore[arg-type]


class _Shards:
    """Simulated frames; the next shard is made in a thread while this one is in use."""

    def __init__(self, options: TrainingOptions, size: int, conditions: Conditions | None, seed: tuple[int, ...]):
        self._options, self._size, self._conditions, self._seed = options, size, conditions, seed
        self._pool = ThreadPoolExecutor(1, "simulation")
        self._number = -1
        self._shard: TrainingPairs | None = None
        self._next: Future[TrainingPairs] | None = None

    def get(self, number: int) -> TrainingPairs:
        if self._number != number or self._shard is None:
            if self._number + 1 != number or self._next is None:  # a resumed training begins in the middle
                self._next = self._ask(number)
            self._number, self._shard = number, self._next.result()
            self._next = self._ask(number + 1)
        return self._shard

    def _ask(self, number: int) -> Future[TrainingPairs]:
        seed = (self._options.seed, number, *self._seed)
        return self._pool.submit(simulate_shard, seed, self._options.shard, self._size, self._conditions)

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)


class Batches:
    """The batches of one rank.

    Parameters
    ----------
    options:
        Of the training.
    size:
        Side of the network's frames.
    conditions:
        For the simulated ones.
    pairs:
        Measured ones; None: simulated alone.
    rank, ranks:
        Which of how many processes this is; each sees other frames.
    """

    def __init__(
        self,
        options: TrainingOptions,
        size: int,
        conditions: Conditions | None,
        pairs: TrainingPairs | None = None,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        self._options, self._pairs, self._rank, self._ranks = options, pairs, rank, ranks
        self._share = 1.0 if pairs is None else options.simulated_share
        self._batch = options.batch // ranks
        self._shards = _Shards(options, size, conditions, (rank,) if ranks > 1 else ())

    def __call__(self, step: int) -> Batch:
        """Return the batch of a step."""
        simulated = int(step * self._share)  # how many simulated batches came before
        if self._pairs is not None and int((step + 1) * self._share) == simulated:
            return self._measured(step - simulated)
        options = self._options
        per_pass = max(1, options.shard // self._batch)
        number, within = divmod(simulated, per_pass * options.repeats)
        turn, place = divmod(within, per_pass)
        rng = np.random.default_rng((options.seed, number, turn))
        order, turns = rng.permutation(options.shard), rng.random((per_pass, 3)) < 0.5
        return batch_of(self._shards.get(number), order[place * self._batch : (place + 1) * self._batch], turns[place])

    def _measured(self, step: int) -> Batch:
        pairs = self._pairs
        if pairs is None:
            raise ValueError("there are no measured pairs")
        wanted = min(self._options.batch, len(pairs))
        per_pass = max(1, len(pairs) // wanted)
        turn, place = divmod(step, per_pass)
        rng = np.random.default_rng((self._options.seed, 2**20, turn))
        order, turns = rng.permutation(len(pairs)), rng.random((per_pass, 3)) < 0.5
        return batch_of(pairs, order[place * wanted : (place + 1) * wanted][self._rank :: self._ranks], turns[place])

    def close(self) -> None:
        """Let go of the thread that simulates."""
        self._shards.close()
