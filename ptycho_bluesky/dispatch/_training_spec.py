"""What a training needs to know, and when one begins by itself."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

__all__ = ["FollowUp", "TrainingOrder"]


class TrainingOrder(BaseModel):
    """Options of the recipe ``"train"``: the model is tried against the one in service, and registered."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(default="trained", min_length=1, max_length=60, pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]*$")
    """Of the model; its content hash tells it from others of this name."""

    data: Literal["simulated", "reconstructions", "both"] = "simulated"
    """``"simulated"``: frames of the reconstructed probe, no measured pair (cold start); ``"reconstructions"``:
    measured frames with their reconstruction; ``"both"``."""

    start_from: str | None = "default"
    """Model whose weights to begin with: ``"default"`` (the package's), ``"in-service"``, a name, a hash or a file;
    None to begin anew."""

    size: Literal["edge", "jetson", "gpu"] | None = None
    """Of the network; None for that of `start_from`, or the smallest."""

    seconds: float = Field(default=540.0, gt=0, le=1e6)
    """Time to train, seconds: steps are chosen for it by a short measurement, where `start_from` is given and
    `training` gives no steps."""

    training: dict[str, JsonValue] = Field(default_factory=dict)
    """Fields of :class:`ptycho_bluesky.inference.TrainingOptions`."""

    reconstruction: str | None = None
    """Result file of the dataset, where the source is a file of frames."""

    held_out: float = Field(default=0.2, gt=0, lt=1)
    """Share of the measured frames, one end of the field, that only the trial sees."""

    promote: bool = False
    """Put the model into service when it passes the gate."""

    licence: str = Field(default="", max_length=200)
    """Of the model; empty where it is not stated."""


class FollowUp(BaseModel):
    """Training that begins by itself when a reconstruction is done."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cold_start: bool = False
    """Train on simulated frames of the reconstructed probe, where no model was trained for such a probe yet."""

    fine_tune: bool = False
    """Else train the model in service further, on this reconstruction and on simulated frames."""

    promote: bool = False
    """Put the new model into service when it passes the gate."""

    seconds: float = Field(default=540.0, gt=0, le=1e6)
    """Time to train, seconds, where `training` gives no steps."""

    training: dict[str, JsonValue] = Field(default_factory=dict)
    """Fields of :class:`ptycho_bluesky.inference.TrainingOptions`."""

    def order(self, *, known: bool) -> dict[str, Any] | None:
        """Return the options of the training to be done, or None; `known`: a model was trained for this probe."""
        common: dict[str, Any] = {"promote": self.promote, "seconds": self.seconds, "training": self.training}
        if self.cold_start and not known:
            return {**common, "name": "cold-start", "data": "simulated"}
        if self.fine_tune:
            return {**common, "name": "fine-tuned", "data": "both", "start_from": "in-service"}
        return None
