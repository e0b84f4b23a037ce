"""The catalogue: an embedded or configured Tiled server, runs in, datasets out, results registered and found.

``raw`` holds the runs, ``processed/ptychography/<job_id>`` the reconstructions, each with its run's uid, and
``processed/models/<content hash>`` the networks. :class:`ModelLibrary` keeps models in the home folder, also while
Tiled is away, with the one that is in service.
"""

from ptycho_bluesky.catalog._amendments import amend_run, amendments_of
from ptycho_bluesky.catalog._client import PtychoReconstruction
from ptycho_bluesky.catalog._connect import RAW, connect, find_run
from ptycho_bluesky.catalog._continued import continued
from ptycho_bluesky.catalog._dataset import block_of, dataset_from_run, dataset_from_runs, measured
from ptycho_bluesky.catalog._embedded import stop_server
from ptycho_bluesky.catalog._export import export_run
from ptycho_bluesky.catalog._following import RunFollower
from ptycho_bluesky.catalog._frames import TiledFrames, frames
from ptycho_bluesky.catalog._later import CatalogLater, connect_later
from ptycho_bluesky.catalog._library import ModelLibrary, probe_hash
from ptycho_bluesky.catalog._mapping import Lookup, block_from, mapping_from
from ptycho_bluesky.catalog._model_record import GateVerdict, ModelRecord, ServiceEvent
from ptycho_bluesky.catalog._models import (
    PtychoModel,
    fetch_model,
    find_models,
    register_model,
    register_waiting_models,
)
from ptycho_bluesky.catalog._partial import PartialNode, drop_partial, partial_jobs
from ptycho_bluesky.catalog._queries import CampaignRuns, ReconstructionsBy, ReconstructionsOf, ResolvedTo
from ptycho_bluesky.catalog._register import content_hash, find_reconstructions, register_reconstruction
from ptycho_bluesky.catalog._service import in_service, install, promote, rollback, service_history
from ptycho_bluesky.catalog._validate import RunCheck, mapping_template, validate_run
from ptycho_bluesky.catalog._writer import RunWriter, resend_backups, tiled_writer

__all__ = [
    "RAW",
    "CampaignRuns",
    "CatalogLater",
    "GateVerdict",
    "Lookup",
    "ModelLibrary",
    "ModelRecord",
    "PartialNode",
    "PtychoModel",
    "PtychoReconstruction",
    "ReconstructionsBy",
    "ReconstructionsOf",
    "ResolvedTo",
    "RunCheck",
    "RunFollower",
    "RunWriter",
    "ServiceEvent",
    "TiledFrames",
    "amend_run",
    "amendments_of",
    "block_from",
    "block_of",
    "connect",
    "connect_later",
    "content_hash",
    "continued",
    "dataset_from_run",
    "dataset_from_runs",
    "drop_partial",
    "export_run",
    "fetch_model",
    "find_models",
    "find_reconstructions",
    "find_run",
    "frames",
    "in_service",
    "install",
    "mapping_from",
    "mapping_template",
    "measured",
    "partial_jobs",
    "probe_hash",
    "promote",
    "register_model",
    "register_reconstruction",
    "register_waiting_models",
    "resend_backups",
    "rollback",
    "service_history",
    "stop_server",
    "tiled_writer",
    "validate_run",
]
