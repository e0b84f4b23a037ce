"""The dashboard: the live image, the scan and its jobs in a notebook, with buttons that work while the scan runs.

``Dashboard`` needs the extra ``notebook``; everything else serves pages without Jupyter, too.
"""

from typing import Any

from ptycho_bluesky.errors import ConfigurationError
from ptycho_bluesky.jupyter._assets import page, script, style
from ptycho_bluesky.jupyter._encode import pack
from ptycho_bluesky.jupyter._feed import Feed
from ptycho_bluesky.jupyter._simulated import SimulatedSource
from ptycho_bluesky.jupyter._source import ACTIONS, Action, DashboardSource, FrameNews, JobNews, Picture, Snapshot

__all__ = [
    "ACTIONS",
    "Action",
    "Dashboard",
    "DashboardSource",
    "Feed",
    "FrameNews",
    "JobNews",
    "Picture",
    "SimulatedSource",
    "Snapshot",
    "pack",
    "page",
    "script",
    "style",
]


def __getattr__(name: str) -> Any:
    if name != "Dashboard":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from ptycho_bluesky.jupyter._widget import Dashboard
    except ImportError as error:
        raise ConfigurationError(f"{error}; install it: pip install 'ptycho-bluesky[notebook]'") from error
    return Dashboard
