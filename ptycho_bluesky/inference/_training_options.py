"""How a network is trained, and where a training stands."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["TrainingOptions", "TrainingState"]


class TrainingOptions(BaseModel):
    """How a network is trained. The same options give the same weights, bit for bit, on the same kind of machine."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = Field(default=4000, ge=1, le=10_000_000)
    """Optimiser steps."""

    batch: int = Field(default=32, ge=1, le=4096)
    """Frames a step, of all processes together."""

    learning_rate: float = Field(default=2e-3, gt=0, le=1)
    """Highest learning rate: reached after 3 % of the steps, then falling to 1 % along a cosine."""

    weight_decay: float = Field(default=1e-3, ge=0, le=1)
    """Of AdamW."""

    seed: int = Field(default=0, ge=0)
    """Of the weights' start and of all frames."""

    shard: int = Field(default=1024, ge=16, le=2**20, multiple_of=16)
    """Frames simulated at a time."""

    repeats: int = Field(default=3, ge=1, le=1000)
    """How often each simulated frame is used, turned and mirrored anew each time."""

    simulated_share: float = Field(default=0.5, ge=0, le=1)
    """Share of the batches that are simulated where measured pairs are given; without pairs all are."""

    physics: float = Field(default=0.0, ge=0, le=100)
    """Weight of the misfit of amplitudes behind the probe, which needs no known object, beside the error of the object.
    Where the object is not known it is all there is, and 0 counts as 1."""

    held_out: float = Field(default=0.1, gt=0, lt=1)
    """Share of the measured pairs, the last of them, that are never trained on."""

    bfloat16: bool = False
    """Mixed precision, bfloat16: twice as fast where the processor has it, much slower where it has not."""

    device: Literal["auto", "cpu", "cuda"] = "cpu"
    """Where to train; auto: on the GPU where there is one."""

    threads: int = Field(default=1, ge=1, le=1024)
    """CPU threads of the optimiser; the frames are simulated in a thread beside it."""

    validate_every: int = Field(default=250, ge=1)
    """Steps between two looks at the held-out frames."""

    validation_frames: int = Field(default=256, ge=16, le=2**16, multiple_of=16)
    """Held-out frames."""


@dataclass
class TrainingState:
    """Where a training stands; handed to ``on_state`` at every validation."""

    step: int = 0
    """Steps done."""

    steps: int = 0
    """Steps in all."""

    seconds: float = 0.0
    """Time spent so far, without that of earlier, interrupted runs."""

    curves: dict[str, list[float]] = field(
        default_factory=lambda: {"step": [], "loss": [], "validation_loss": [], "validation_correlation": []}
    )
    """One value a validation."""
