"""JobSpec: all that a reconstruction or a training needs to know, as JSON. Nothing else ever reaches a runner."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, field_validator, model_validator

from ptycho_bluesky.dispatch._registry import RECIPES, is_known
from ptycho_bluesky.dispatch._training_spec import FollowUp, TrainingOrder
from ptycho_bluesky.errors import DispatchError, report

__all__ = ["RECIPES", "FileSource", "JobSpec", "ReconstructionSource", "TiledSource"]

RANK_ENGINES = ("fast", "lsqml")
"""Engines that work on several ranks."""

LIMIT = 64 * 1024
"""Largest spec, bytes of JSON: references travel, arrays do not."""

NAMESPACE = uuid.UUID("6d0c2b0e-5a65-5d3f-9f0c-2f7d7c1f3a52")

SECRET_KEY = re.compile(r"api_?key|token$|secret|passw|credential", re.IGNORECASE)

SECRET_TEXT = re.compile(r"api_?key=|://[^/\s]*:[^/\s]*@", re.IGNORECASE)


def _keys(value: Any) -> Iterator[str]:
    """Yield all keys of a JSON value, at any depth."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield str(key)
            yield from _keys(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _keys(inner)


class TiledSource(BaseModel):
    """A run in the catalogue."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["tiled"] = "tiled"

    uid: str = Field(min_length=1, max_length=200)
    """Of the run, in full."""

    wait_s: float = Field(default=120.0, ge=0, le=86400)
    """Longest time to wait until the whole run has arrived in Tiled, seconds; with `grow`, for the next frame."""

    grow: bool = False
    """Begin with the frames that are there and take in the others as they are measured."""


class FileSource(BaseModel):
    """A measurement in a file that the runner can see."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["file"] = "file"

    path: str = Field(min_length=1)
    """Absolute path."""

    options: dict[str, JsonValue] = Field(default_factory=dict)
    """Keyword arguments of :func:`ptycho_bluesky.formats.load_dataset`."""

    @field_validator("path")
    @classmethod
    def _absolute(cls, value: str) -> str:
        return str(Path(value).expanduser().absolute())


class ReconstructionSource(BaseModel):
    """A finished reconstruction, of this machine's jobs or in the catalogue, with the frames that it was made of."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["reconstruction"] = "reconstruction"

    job_id: str = Field(min_length=1, max_length=200)
    """Of the job that made it, in full."""


class JobSpec(BaseModel):
    """One reconstruction or training to be done. Unknown keys and secrets are refused; at most 64 KB of JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    """Of this layout."""

    recipe: str = "reconstruct"
    """What to do; one of :data:`RECIPES`, or one that an installed package registers."""

    source: Annotated[TiledSource | FileSource | ReconstructionSource, Field(discriminator="kind")]
    """Where the dataset comes from; a reconstruction for the recipe ``"train"``."""

    engine: str = "auto"
    """Name of the engine; ``"auto"`` chooses by the data."""

    options: dict[str, JsonValue] = Field(default_factory=dict)
    """The engine's options; those of a :class:`TrainingOrder` for the recipe ``"train"``."""

    device: str = Field(default="cpu", pattern=r"^(cpu|cuda(:\d{1,3})?)$")
    """``"cpu"``, ``"cuda"`` or ``"cuda:N"``."""

    place: str = Field(default="local", pattern=r"^[\w-]{1,40}$")
    """Where to run: ``"local"``, a resource of the settings, or ``"auto"``, which chooses one by rule when the job is
    entered. No part of the job's identity: the same job elsewhere is the same job."""

    frames: int | None = Field(default=None, ge=1)
    """How many there are, where that is known: the place is chosen by it. No part of the identity either."""

    ranks: int = Field(default=1, ge=1, le=10_000)
    """Processes that share a reconstruction, one for each core or GPU (engines ``"fast"`` and ``"lsqml"``)."""

    raw_uid: str | None = None
    """Run that the result belongs to; taken from a Tiled source by itself."""

    max_seconds: float | None = Field(default=None, gt=0)
    """Time after which the engine stops with the best it has, seconds; None for no limit."""

    limit_s: float | None = Field(default=None, gt=0)
    """Time that the job may run, seconds: then it is asked to end with what it has, and killed by a watchdog where it
    does not, e.g. because it hangs; None for no limit. The time in the queue does not count."""

    priority: int = Field(default=0, ge=-100, le=100)
    """Of the jobs that wait, the highest starts first; among equals, the oldest."""

    then: FollowUp | None = None
    """Training that begins by itself when this reconstruction is done."""

    @field_validator("recipe")
    @classmethod
    def _known(cls, value: str) -> str:
        if not is_known(value):
            raise ValueError(f"no recipe {value!r}; allowed are {', '.join(RECIPES)}")
        return value

    @model_validator(mode="before")
    @classmethod
    def _run_of_source(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("raw_uid") is None:
            source = values.get("source")
            uid = source.get("uid") if isinstance(source, dict) else getattr(source, "uid", None)
            if uid is not None:
                return {**values, "raw_uid": uid}
        return values

    @model_validator(mode="after")
    def _fits_its_recipe(self) -> JobSpec:
        if self.recipe == "train":
            if self.then is not None:
                raise ValueError("then is for reconstructions; leave it out of a training")
            try:
                TrainingOrder.model_validate(self.options)
            except ValidationError as error:
                faults = (f"options.{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
                raise ValueError("; ".join(faults)) from None
        if self.source.kind == "tiled" and self.source.grow and (self.recipe == "train" or self.ranks > 1):
            raise ValueError("only a reconstruction on one rank can grow with its run; leave grow out")
        if self.recipe != "train" and self.source.kind == "reconstruction":
            raise ValueError("a reconstruction is the source of a training; give a run or a file to reconstruct")
        return self

    @model_validator(mode="after")
    def _divisible(self) -> JobSpec:
        if self.ranks > 1 and (
            self.recipe not in ("reconstruct", "check") or self.engine not in ("auto", *RANK_ENGINES)
        ):
            raise ValueError(f"{self.ranks} ranks are for a reconstruction by {' or '.join(RANK_ENGINES)}; give 1 rank")
        if self.ranks > 1 and ":" in self.device:
            raise ValueError(f"ranks take a GPU each; give the device 'cuda', not {self.device!r}")
        return self

    @model_validator(mode="after")
    def _small_and_public(self) -> JobSpec:
        text = self.model_dump_json()
        if len(text.encode()) > LIMIT:
            raise ValueError(f"the spec has {len(text.encode())} bytes; at most {LIMIT}: name files, do not embed data")
        keys = [key for key in _keys(self.model_dump(mode="json")) if SECRET_KEY.search(key)]
        texts = [found.group() for found in SECRET_TEXT.finditer(text)]
        if keys or texts:
            raise ValueError(
                f"the spec contains {(keys + texts)[0]!r}, which looks like a secret; specs are kept in clear. "
                "Give keys by the environment (PTYCHO_BLUESKY_TILED_API_KEY)"
            )
        return self

    @property
    def resource(self) -> str:
        """What a job occupies: ``"cpu"``, or a GPU (``"cuda"`` and ``"cuda:0"`` are one); elsewhere the place."""
        device = "cuda:0" if self.device == "cuda" else self.device
        return device if self.place == "local" else self.place

    @property
    def job_id(self) -> str:
        """Identity: equal specs of one run are one job, however often they are submitted."""
        newer = {"then": None, "limit_s": None, "ranks": 1}  # than layout 1
        unset = {name for name, default in newer.items() if getattr(self, name) == default}
        kept = self.model_dump(mode="json", exclude={*unset, "place", "frames"})
        if not kept["source"].get("grow"):
            kept["source"].pop("grow", None)  # newer, too
        canonical = json.dumps(kept, sort_keys=True)
        return str(uuid.uuid5(NAMESPACE, f"{self.raw_uid or ''}\n{canonical}"))

    @classmethod
    def parse(cls, text: str | bytes, where: str = "job specification") -> JobSpec:
        """Return the spec in a JSON text.

        Raises
        ------
        DispatchError
            When it is none; the text says `where`, and names every key at fault.
        """
        if len(text) > 2 * LIMIT:
            raise DispatchError(f"{where} has {len(text)} bytes; at most {LIMIT}: name files, do not embed data")
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            faults = [f"{'.'.join(map(str, e['loc'])) or 'spec'}: {e['msg']}" for e in error.errors()]
            raise DispatchError(report(where, faults)) from None
