"""What is known of a model: where it comes from and how good it is."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

__all__ = ["GateVerdict", "ModelRecord", "ServiceEvent"]

Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

SUFFIXES = (".safetensors", ".pth", ".pt")
"""Of files that can be read without running anything in them."""


class GateVerdict(BaseModel):
    """A candidate's trial against the model in service, on frames that it has not seen."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    passed: bool

    against: Hash
    """Content hash of the model that was in service."""

    against_name: str = ""

    reasons: tuple[str, ...]
    """In plain words, one for each thing that was looked at."""

    candidate: dict[str, float | None]
    """``phase_correlation``, ``ssim``, ``misfit``, ``frames_per_second``."""

    in_service: dict[str, float | None]
    """The same figures of the model in service."""

    frames: int = Field(ge=0)
    """Held-out frames."""

    dataset: str = ""
    when: float
    """Seconds since 1970."""


class ServiceEvent(BaseModel):
    """A change of the model in service."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    event: Literal["installed", "promoted", "rolled-back"]
    content_hash: Hash
    name: str
    previous: Hash | None = None
    """Content hash of the model that served before."""

    who: str
    why: str
    forced: bool = False
    """True where it had not passed the gate, and was promoted all the same."""

    host: str = ""
    when: float
    """Seconds since 1970."""


class ModelRecord(BaseModel):
    """One model. Its identity is the content hash of architecture and weights."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    """Of this layout."""

    content_hash: Hash

    sha256: Hash
    """Of the file, byte by byte."""

    name: str = Field(min_length=1, max_length=100)

    suffix: Literal[".safetensors", ".pth", ".pt"]
    """Of the file."""

    kind: str
    """Of the network: ``"probe-vit"``, ``"ptychonn"``."""

    architecture: dict[str, JsonValue] = Field(default_factory=dict)

    data: Literal["simulated", "reconstructions", "both", "unknown"] = "unknown"
    """What it was trained on."""

    raw_uids: tuple[str, ...] = ()
    """Runs whose frames it has seen in training."""

    job_id: str | None = None
    """Job that trained it."""

    start_from: Hash | None = None
    """Content hash of the model that its training began at."""

    probe_from: str = ""
    """Reconstruction or file whose probe it was trained for; empty for any probe."""

    probe_hash: Hash | None = None
    """Of the probe that is kept beside it; None where it was trained for any probe."""

    metrics: dict[str, float | None] = Field(default_factory=dict)
    """Of its training, on held-out simulated frames or pairs."""

    notes: dict[str, JsonValue] = Field(default_factory=dict)
    """What its file says of its training, without the curves."""

    licence: str = ""
    """Empty where it is not stated."""

    versions: dict[str, str] = Field(default_factory=dict)
    """Of the software that trained it."""

    created: float
    """Seconds since 1970."""

    by: str = ""
    """Who trained or added it, as ``user@host``."""

    gate: tuple[GateVerdict, ...] = ()
    """Its trials, oldest first."""

    registered: bool = False
    """Whether the catalogue has all of this."""

    @property
    def stem(self) -> str:
        """Its file's name without the suffix: safe on any file system, whatever the name of the model."""
        return f"{re.sub(r'[^A-Za-z0-9_-]+', '-', self.name).strip('-') or 'model'}-{self.content_hash[:8]}"

    @property
    def file(self) -> str:
        """Its file's name."""
        return self.stem + self.suffix

    def passed_against(self, content_hash: str | None) -> bool:
        """Whether its last trial against this model was passed; against any model where None is given."""
        trials = [g for g in self.gate if content_hash in (None, g.against)]
        return bool(trials) and trials[-1].passed

    def described(self) -> dict[str, Any]:
        """Return the record as JSON values, for the catalogue: without what is true on this machine only."""
        return self.model_dump(mode="json", exclude={"registered"})
