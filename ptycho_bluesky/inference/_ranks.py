"""The processes of one training, as torchrun started them; without torchrun a single one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import cast

import torch
import torch.distributed as dist
from torch import nn

from ptycho_bluesky.errors import InferenceError

__all__ = ["Ranks"]

PATIENCE = timedelta(minutes=10)


@dataclass(frozen=True)
class Ranks:
    """Which of how many processes this is."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the one that writes."""
        return self.rank == 0

    @classmethod
    @contextmanager
    def joined(cls, device: torch.device) -> Iterator[Ranks]:
        """Meet the other processes for the time of a training: Gloo on CPUs, NCCL on GPUs.

        Raises
        ------
        InferenceError
            When torchrun's environment is not whole.
        """
        size = int(os.environ.get("WORLD_SIZE", 1))
        if size == 1:
            yield cls()
            return
        missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
        if missing:
            raise InferenceError(
                f"WORLD_SIZE is {size}, but {', '.join(missing)} is not set; start the training with torchrun"
            )
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
        try:
            yield cls(dist.get_rank(), dist.get_world_size())
        finally:
            dist.destroy_process_group()

    def parallel(self, network: nn.Module) -> nn.Module:
        """Return the network as all processes train it: gradients are averaged, weights begin as the first one's."""
        if self.size == 1:
            return network
        return cast(nn.Module, nn.parallel.DistributedDataParallel(network))

    def any(self, said: bool, device: torch.device) -> bool:
        """Return whether any process said so."""
        if self.size == 1:
            return said
        votes = torch.tensor([float(said)], device=device)
        dist.all_reduce(votes, dist.ReduceOp.MAX)
        return bool(votes.item() > 0)
