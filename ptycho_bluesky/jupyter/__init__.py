"""The dashboard: the live image, the scan and its jobs in a notebook, with buttons that work while the scan runs."""

from ptycho_bluesky.jupyter._simulated import SimulatedSource
from ptycho_bluesky.jupyter._source import ACTIONS, Action, DashboardSource, FrameNews, JobNews, Picture, Snapshot

__all__ = [
    "ACTIONS",
    "Action",
    "DashboardSource",
    "FrameNews",
    "JobNews",
    "Picture",
    "SimulatedSource",
    "Snapshot",
]
