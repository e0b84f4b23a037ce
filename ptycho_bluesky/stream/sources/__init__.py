"""Frames from detectors: by shared memory, HDF5, pvAccess and ZMQ; checked, counted, and joined with positions."""

from ptycho_bluesky.stream.sources._centre import find_centre
from ptycho_bluesky.stream.sources._clock import ClockOffset
from ptycho_bluesky.stream.sources._codec import CODECS, decompress
from ptycho_bluesky.stream.sources._eiger_source import EigerSource
from ptycho_bluesky.stream.sources._frame import DamagedFrame, Source, SourceEnded, SourceFrame
from ptycho_bluesky.stream.sources._hdf5_source import Hdf5Source
from ptycho_bluesky.stream.sources._index_check import IndexCheck, SourceCounts
from ptycho_bluesky.stream.sources._open import SOURCES, open_source
from ptycho_bluesky.stream.sources._pipeline import DetectorOptions, DetectorPipeline
from ptycho_bluesky.stream.sources._position_join import PositionJoin
from ptycho_bluesky.stream.sources._pva_source import PvaSource
from ptycho_bluesky.stream.sources._queue import BackPressure
from ptycho_bluesky.stream.sources._ring_source import RingSource

__all__ = [
    "CODECS",
    "SOURCES",
    "BackPressure",
    "ClockOffset",
    "DamagedFrame",
    "DetectorOptions",
    "DetectorPipeline",
    "EigerSource",
    "Hdf5Source",
    "IndexCheck",
    "PositionJoin",
    "PvaSource",
    "RingSource",
    "Source",
    "SourceCounts",
    "SourceEnded",
    "SourceFrame",
    "decompress",
    "find_centre",
    "open_source",
]
