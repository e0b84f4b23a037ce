"""The catalogue: an embedded or configured Tiled server, runs in, datasets out, results registered and found.

``raw`` holds the runs, ``processed/ptychography/<job_id>`` the reconstructions, each with its run's uid.
"""

from ptycho_bluesky.catalog._client import PtychoReconstruction
from ptycho_bluesky.catalog._connect import connect, find_run
from ptycho_bluesky.catalog._dataset import dataset_from_run
from ptycho_bluesky.catalog._embedded import stop_server
from ptycho_bluesky.catalog._frames import TiledFrames, frames
from ptycho_bluesky.catalog._register import content_hash, find_reconstructions, register_reconstruction
from ptycho_bluesky.catalog._writer import RunWriter, resend_backups, tiled_writer

__all__ = [
    "PtychoReconstruction",
    "RunWriter",
    "TiledFrames",
    "connect",
    "content_hash",
    "dataset_from_run",
    "find_reconstructions",
    "find_run",
    "frames",
    "register_reconstruction",
    "resend_backups",
    "stop_server",
    "tiled_writer",
]
