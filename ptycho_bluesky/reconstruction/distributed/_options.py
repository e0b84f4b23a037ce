"""What ranks are told: options of the work together, and the file that brings all of it to each of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ptycho_bluesky.errors import ReconstructionError, report
from ptycho_bluesky.reconstruction.engines import FastEngine, FastOptions, LsqmlEngine, LsqmlOptions
from ptycho_bluesky.reconstruction.engines._anneal import fast_epochs
from ptycho_bluesky.reconstruction.engines._lsqml import LSQML_EPOCHS
from ptycho_bluesky.reconstruction.engines._options import refuse_unsupported

__all__ = ["PROGRESS", "STOP", "RankEngineOptions", "RankOptions", "RankSpec", "spec_of"]

RankEngineOptions = FastOptions | LsqmlOptions

PROGRESS, STOP = "progress.jsonl", "stop"
"""Files in the ranks' folder: a line for each epoch, and the one whose presence asks all ranks to stop."""


class RankOptions(BaseModel):
    """How ranks work together."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    exchanges: int = Field(default=4, ge=1, le=100)
    """Times an epoch that ranks agree on shared pixels and on the probe. More bring the result closer to that of one
    rank, above all its low frequencies; each costs the time of a few messages. Engine ``lsqml`` needs one alone."""

    wire: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision of object and probe between ranks; what is kept is float32. Engine ``lsqml`` takes ``float32`` alone:
    it sends sums, whose rounding no later message would mend."""

    nodes: list[int] | None = None
    """Node of each rank, any numbers; None groups ranks by host name."""

    weights: list[float] | None = None
    """Speed of each rank in any unit: a rank of twice the weight has twice the frames. None for equal shares. Left out
    of account where the number of ranks is another one, as after a lost node."""

    balance: Literal["given", "measured"] = "given"
    """``measured`` divides frames anew after the second epoch, by the speeds that were seen; the result then depends on
    the machine's timing."""

    timeout_s: float = Field(default=120.0, gt=0, le=86_400)
    """Longest wait for other ranks, seconds; longer than one of them needs for a part of an epoch."""

    checkpoint_share: float = Field(default=0.02, ge=0, le=1)
    """Most of the time that checkpoints may take; 0 for none."""


class RankSpec(BaseModel):
    """All that a rank needs to know, as a JSON file that every rank can read."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    dataset: Path
    """File that every rank can read; from an HDF5 file each reads its own frames alone."""

    load: dict[str, Any] = Field(default_factory=dict)
    """Options of ``load_dataset``."""

    name: str | None = None
    """Of the dataset, where the file's own is not the one to go by."""

    engine: Literal["fast", "lsqml"] = "fast"
    """Engines that work on tiles."""

    options: dict[str, Any] = Field(default_factory=dict)
    """Of the engine."""

    start: Path | None = None
    """Result or mosaic to begin at, as for ``read_start``; None for an empty object."""

    ranks: RankOptions = Field(default_factory=RankOptions)
    """How ranks work together."""

    device: str = Field(default="cpu", pattern="^(cpu|cuda)$")
    """``cpu``, or ``cuda`` for the GPU with the rank's number on its node."""

    folder: Path
    """For checkpoints, progress and messages; every rank can write there."""

    output: Path
    """HDF5 file for the result."""

    picture: Path | None = None
    """PNG of who has which frames, beside stripes and random shares."""

    max_seconds: float | None = Field(default=None, gt=0)
    """No epoch begins after so long; None for no limit."""

    @classmethod
    def read(cls, path: str | Path) -> RankSpec:
        """Return what a JSON file says.

        Raises
        ------
        ReconstructionError
            When the file cannot be read, or says what is not allowed.
        """
        try:
            return cls.model_validate_json(Path(path).read_bytes())
        except OSError as error:
            raise ReconstructionError(f"the ranks' file {path} cannot be read: {error}") from None
        except ValidationError as error:
            raise ReconstructionError(report(f"the ranks' file {path}", _faults(error))) from None

    def engine_options(self, frames: int) -> RankEngineOptions:
        """Return the engine's options for a number of frames.

        Raises
        ------
        ReconstructionError
            When they are not known, the engine does not have what they ask for, or it cannot have it on ranks.
        """
        engine = FastEngine if self.engine == "fast" else LsqmlEngine
        try:
            options = engine.options_type.model_validate(self.options)
        except ValidationError as error:
            raise ReconstructionError(report(f"options of engine {self.engine!r}", _faults(error))) from None
        refuse_unsupported(self.engine, options, engine.supports)
        if isinstance(options, LsqmlOptions) and (options.batches != "compact" or self.ranks.wire != "float32"):
            raise ReconstructionError(
                f"engine 'lsqml' works on several ranks with batches 'compact' and wire 'float32' (given "
                f"{options.batches!r} and {self.ranks.wire!r}); leave these out, or take one process or engine 'fast'"
            )
        usual = fast_epochs(frames) if self.engine == "fast" else LSQML_EPOCHS
        chosen: RankEngineOptions = options.model_copy(update={"epochs": options.epochs or usual})
        return chosen


def spec_of(**values: Any) -> RankSpec:
    """Return the specification with these values; raise ReconstructionError where they are not allowed."""
    try:
        return RankSpec(**values)
    except ValidationError as error:
        raise ReconstructionError(report("options of the ranks", _faults(error))) from None


def _faults(error: ValidationError) -> list[str]:
    return [f"{'.'.join(map(str, e['loc']))}: {e['msg']} (given {e['input']!r})" for e in error.errors()]
