"""What computes a network's layers: real numbers in, real numbers out, whatever the runtime."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

__all__ = ["Backend", "BackendOptions", "Deviation", "Engine", "Images", "Made", "Precision"]

Images = npt.NDArray[np.float32]

Precision = Literal["f32", "bf16", "f16", "int8"]


class BackendOptions(BaseModel):
    """Which runtime computes a network, and how exactly."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Literal["auto", "torch", "openvino", "onnxruntime"] = "auto"
    """The runtime, alone or with the precision ("openvino:bf16"); "auto" measures those that are installed, once for
    each network, machine and number of threads."""

    precision: Literal["auto", "f32", "bf16", "f16", "int8"] = "auto"
    """Numbers that layers compute with; "auto": the fastest within `allowed` if the runtime is "auto" too, else the
    fastest that the runtime has without calibration."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where; "auto" takes a CUDA device where the runtime finds one."""

    threads: int = Field(default=1, ge=1, le=256)
    """Parts of a batch that are computed at the same time, each by one CPU thread."""

    compile: bool = False
    """Let torch compile the network (inductor): faster by a quarter, half a minute for the first frame."""

    allowed: float = Field(default=0.02, gt=0, le=1)
    """Rms difference to torch in single precision that "auto" accepts, as a share of the output's deviation."""

    @model_validator(mode="before")
    @classmethod
    def _short(cls, given: Any) -> Any:
        """Take a name with its precision, "openvino:bf16"."""
        name = given.get("name") if isinstance(given, dict) else None
        if isinstance(name, str) and ":" in name and "precision" not in given:
            name, _, precision = name.partition(":")
            return {**given, "name": name, "precision": precision}
        return given


@dataclass(frozen=True)
class Deviation:
    """How far a backend's output is from torch's in single precision, on one batch."""

    max: float
    """Largest difference, in the output's own unit."""

    rms: float
    """Root of the mean squared difference."""

    spread: float
    """Standard deviation of torch's output."""

    @property
    def share(self) -> float:
        """The rms difference as a share of the output's standard deviation."""
        return self.rms / self.spread if self.spread > 0 else float(self.rms > 0)

    @classmethod
    def between(cls, found: tuple[Images, ...], wanted: tuple[Images, ...]) -> Deviation:
        """Return the deviation of that output, arrays (B, ...), which is `found` furthest from what is `wanted`."""
        every = []
        for one, other in zip(found, wanted, strict=True):
            gap = np.abs(one.astype(np.float64) - other)
            every.append(cls(float(gap.max()), float(np.sqrt((gap**2).mean())), float(other.std(dtype=np.float64))))
        return max(every, key=lambda deviation: deviation.share)

    def __str__(self) -> str:
        return f"at most {self.max:.2g}, rms {self.rms:.2g} ({self.share:.2%} of the output's deviation)"


class Backend(Protocol):
    """A network in a runtime; may be called by several threads at once."""

    name: str
    """The runtime and the device, such as "openvino-cpu"."""

    precision: Precision
    """Numbers that the layers compute with."""

    deviation: Deviation
    """From torch in single precision, measured when the backend was opened."""

    def __call__(self, batch: Images, /) -> tuple[Images, ...]:
        """Return the outputs, each (B, ...) float32, of `batch` (B, ...) float32."""
        ...


class Made(NamedTuple):
    """What an engine makes of a batch."""

    phase: Images
    """(B, N, N) radians; ProbeViT's are turned so that a patch's mean in the beam has phase 0."""
    amplitude: Images | None
    """(B, N, N), None from a network that gives phase alone."""
    misfit: Images | None
    """(B,) relative misfit of each patch, None where the probe is not known."""


class Engine(Protocol):
    """A network ready for one probe, in one runtime."""

    name: str
    """The runtime and the device."""

    precision: Precision
    """Numbers that the layers compute with."""

    def __call__(self, frames: Images, /) -> Made:
        """Return what the network makes of `frames` (B, N, N)."""
        ...
