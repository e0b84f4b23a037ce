"""Resources: the places where jobs can run, as ``[resources.NAME]`` in settings.toml describes them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

__all__ = ["ClusterResource", "LocalResource", "Resource"]


class _Resource(BaseModel):
    """What all places have in common."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    device: str = Field(default="cpu", pattern=r"^(cpu|cuda(:\d{1,3})?)$")
    """What is there: a place with ``"cpu"`` gets no jobs for ``"cuda"`` where the place is chosen by rule."""

    min_frames: int = Field(default=0, ge=0)
    """Smaller jobs are not sent there by rule."""

    max_frames: int | None = Field(default=None, ge=1)
    """Larger jobs are not sent there by rule; None for no limit."""

    paths: tuple[Path, ...] = ()
    """Folders whose files may be named by jobs there; empty for all folders."""

    @field_validator("paths")
    @classmethod
    def _absolute(cls, value: tuple[Path, ...]) -> tuple[Path, ...]:
        folders = tuple(path.expanduser() for path in value)
        if relative := [str(path) for path in folders if not path.is_absolute()]:
            raise ValueError(f"{', '.join(relative)}: not absolute; give whole paths")
        return folders


class LocalResource(_Resource):
    """The machine itself; its name is ``local``."""

    kind: Literal["local"]

    max_jobs: int = Field(default=1, ge=1, le=1000)
    """Jobs that run at once on the CPU, and on each GPU."""

    @property
    def launcher(self) -> str:
        """Kind of launcher."""
        return self.kind


class ClusterResource(_Resource):
    """A cluster that has a file system in common with this machine, under Slurm or PBS (OpenPBS, PBS Pro)."""

    kind: Literal["slurm", "pbs"]

    through: Literal["sbatch", "parsl"] = "sbatch"
    """``"sbatch"``: each job is one of the scheduler's (of qsub under PBS). ``"parsl"``: pilots, owned by the
    dispatcher service, wait for jobs, which then start without the scheduler's queue."""

    max_jobs: int | None = Field(default=None, ge=1, le=10_000)
    """Jobs that run there at once, pilots with ``"parsl"`` (None: 1); None leaves it to the scheduler."""

    partition: str | None = Field(default=None, pattern=r"^[\w.,@-]+$")
    """Partition (Slurm) or queue (PBS); None for the default one."""

    account: str | None = Field(default=None, pattern=r"^[\w.@-]+$")
    """Whom the time is charged to; None for the default."""

    walltime_s: int = Field(default=3600, ge=60, le=30 * 86400)
    """Longest time of a job, or of a pilot, seconds. The job is asked to end with what it has a minute before."""

    nodes: int = Field(default=1, ge=1, le=10_000)
    """Most nodes of one job."""

    ranks_per_node: int = Field(default=1, ge=1, le=1024)
    """Ranks of a job on one node, one for each GPU, or for some cores."""

    cpus_per_rank: int = Field(default=1, ge=1, le=1024)

    gpus_per_rank: int = Field(default=0, ge=0, le=64)
    """GPUs that jobs for ``"cuda"`` get, a rank."""

    python: Path | None = None
    """Python there that has this package, of the same version; None for the path of this one."""

    home: Path | None = None
    """This machine's ``home`` as it is called there; None where it has the same name."""

    address: str | None = Field(default=None, pattern=r"^[\w.:-]+$")
    """With ``"parsl"``: this machine's address as seen from the nodes; None for its host name."""

    @property
    def launcher(self) -> str:
        """Kind of launcher."""
        return "parsl" if self.through == "parsl" else self.kind


Resource = Annotated[LocalResource | ClusterResource, Field(discriminator="kind")]
"""Of any kind, told by its ``kind``."""
