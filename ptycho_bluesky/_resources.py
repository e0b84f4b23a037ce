"""Resources: the places where jobs can run, as ``[resources.NAME]`` in settings.toml describes them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator, model_validator

__all__ = ["ClusterResource", "GlobusResource", "LocalResource", "Resource"]


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

    warm_pilots: int = Field(default=0, ge=0, le=1000)
    """With ``"parsl"``: pilots that are kept even while there is no job; others end when idle."""

    address: str | None = Field(default=None, pattern=r"^[\w.:-]+$")
    """With ``"parsl"``: this machine's address as seen from the nodes; None for its host name."""

    @model_validator(mode="after")
    def _nodes_of_slurm(self) -> ClusterResource:
        if self.kind == "pbs" and self.nodes > 1:
            raise ValueError("ranks on several nodes are started by Slurm's srun; give nodes = 1 under PBS")
        return self

    @property
    def launcher(self) -> str:
        """Kind of launcher."""
        return "parsl" if self.through == "parsl" else self.kind


class GlobusResource(_Resource):
    """A facility that is reached through Globus: Compute for the work, Transfer for data that it cannot see."""

    kind: Literal["globus"]

    max_jobs: int = Field(default=1, ge=1, le=1000)
    """Jobs that run there at once; the others wait here."""

    endpoint: UUID
    """Globus Compute endpoint whose workers do the work."""

    control_endpoint: UUID | None = None
    """Endpoint for looks and cancellations, which sees the same file system and has a free worker while a job is at
    work; None for `endpoint`, which then needs two workers."""

    endpoint_config: dict[str, JsonValue] = Field(default_factory=dict)
    """What a multi-user endpoint is started with: account, queue, walltime, nodes, as its administrator allows."""

    function: UUID | None = None
    """UUID of this package's function on the endpoint's allow-list; None registers it at the first use."""

    collection: UUID | None = None
    """Globus collection that shows the workers' ``home``; None where nothing needs to be transferred."""

    collection_path: str | None = Field(default=None, pattern=r"^/")
    """The workers' ``home`` as that collection shows it; None where it has the same name."""

    here_collection: UUID | None = None
    """Globus collection that shows this machine's ``home``."""

    here_path: str | None = Field(default=None, pattern=r"^/")
    """This machine's ``home`` as that collection shows it; None where it has the same name."""

    data_access: bool = False
    """Whether the collections ask for a consent of their own: mapped ones that are not of high assurance do."""

    flow: UUID | None = None
    """Deployed flow (``ptycho-bluesky globus flow deploy``) by which the Globus cloud moves the steps on; None for
    this package's own flow."""

    poll_s: float = Field(default=10.0, ge=0.1, le=600)
    """Pause between two looks at a running job, seconds."""

    answer_s: float = Field(default=120.0, ge=1, le=3600)
    """Longest time that small requests may take, a node's start included, seconds."""

    transfer_s: float = Field(default=7200.0, ge=10, le=7 * 86400)
    """Longest time of one transfer, seconds."""

    @model_validator(mode="after")
    def _both_ends(self) -> GlobusResource:
        if (self.collection is None) != (self.here_collection is None):
            raise ValueError("a transfer has two ends: give both collection and here_collection, or neither")
        if self.flow is not None and self.collection is None:
            raise ValueError("a flow transfers data: give collection and here_collection, or no flow")
        return self

    @property
    def watching(self) -> UUID:
        """Endpoint for looks and cancellations."""
        return self.control_endpoint or self.endpoint

    @property
    def launcher(self) -> str:
        """Kind of launcher."""
        return self.kind


Resource = Annotated[LocalResource | ClusterResource | GlobusResource, Field(discriminator="kind")]
"""Of any kind, told by its ``kind``."""
