"""How a job fits a cluster: nodes, cores and GPUs, time, and what its files are called there."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from ptycho_bluesky._resources import ClusterResource, Resource
from ptycho_bluesky.config import settings
from ptycho_bluesky.dispatch._folder import JobFolder, atomic_write
from ptycho_bluesky.errors import DispatchError, FacilityError

__all__ = ["Shape", "cluster", "limit_s", "python_there", "runner_command", "there", "write_script"]

MARGIN_S = 60.0
"""Before the end of its time a job is asked to end with what it has: it has so long to register that."""


@dataclass(frozen=True)
class Shape:
    """What one job takes."""

    nodes: int
    ranks_per_node: int
    cpus_per_node: int
    gpus_per_node: int

    @classmethod
    def of(cls, job: JobFolder, place: str, resource: ClusterResource) -> Shape:
        """Return what the job's ranks take.

        Raises
        ------
        FacilityError
            When the cluster has less than that, or its nodes would have unequal numbers of ranks.
        """
        spec = job.spec()
        nodes = -(-spec.ranks // resource.ranks_per_node)
        most = resource.nodes * resource.ranks_per_node
        if spec.ranks > most:
            raise FacilityError(
                f"{spec.ranks} ranks at {place!r}, which has {resource.nodes} nodes of {resource.ranks_per_node} ranks "
                f"for a job; give at most {most}",
                kind="user",
            )
        if spec.ranks % nodes:
            raise FacilityError(
                f"{spec.ranks} ranks on {nodes} nodes; give a multiple of the nodes, e.g. "
                f"{spec.ranks // nodes * nodes}",
                kind="user",
            )
        ranks = spec.ranks // nodes
        gpus = ranks * resource.gpus_per_rank if spec.device.startswith("cuda") else 0
        return cls(nodes, ranks, ranks * resource.cpus_per_rank, gpus)


def cluster(place: str, resource: Resource | None) -> ClusterResource:
    """Return the resource of a place, which must be a cluster."""
    if not isinstance(resource, ClusterResource):
        raise DispatchError(f"{place!r} is no cluster; describe it as [resources.{place}] with kind 'slurm' or 'pbs'")
    return resource


def there(path: Path, resource: ClusterResource) -> Path:
    """Return what a path in ``home`` is called on the cluster."""
    return path if resource.home is None else resource.home / path.relative_to(settings().home)


def python_there(resource: ClusterResource) -> str:
    """Return the Python of the cluster's nodes."""
    return str(resource.python or sys.executable)


def limit_s(resource: ClusterResource) -> float:
    """Return the time after which a job is asked to end, seconds."""
    return max(resource.walltime_s - MARGIN_S, resource.walltime_s / 2)


def runner_command(job: JobFolder, resource: ClusterResource) -> list[str]:
    """Return the command that runs a job on the cluster, where the scheduler gives turns."""
    folder = str(there(job.path, resource))
    return [python_there(resource), "-m", "ptycho_bluesky.dispatch.runner", folder, "0", f"{limit_s(resource):g}"]


def write_script(job: JobFolder, shape: Shape, resource: ClusterResource) -> Path:
    """Write the script of a scheduler's job, with nothing of the user's in it, and return where it is."""
    home, log = there(settings().home, resource), there(job.log_file, resource)
    lines = [
        "#!/bin/sh",
        f"export PTYCHO_BLUESKY_HOME={shlex.quote(str(home))}",
        f"export PTYCHO_BLUESKY_THREADS={shape.cpus_per_node}",
        f"exec {shlex.join(runner_command(job, resource))} >>{shlex.quote(str(log))} 2>&1",
    ]
    script = job.path / "job.sh"
    atomic_write(script, "\n".join(lines) + "\n", sync=False)
    return script
