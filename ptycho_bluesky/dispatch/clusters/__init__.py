"""Runners on a cluster: as jobs of Slurm or PBS, or in pilots of Parsl that are such jobs."""

from ptycho_bluesky.dispatch.clusters._parsl import ParslPilots
from ptycho_bluesky.dispatch.clusters._pbs import PbsLauncher
from ptycho_bluesky.dispatch.clusters._scheduler import SchedulerLauncher, Seen
from ptycho_bluesky.dispatch.clusters._slurm import SlurmLauncher

__all__ = ["ParslPilots", "PbsLauncher", "SchedulerLauncher", "Seen", "SlurmLauncher"]
