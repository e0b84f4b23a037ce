"""Frames and positions in order: from documents, files and shared memory; and the live view that grows from them."""

from ptycho_bluesky.stream._documents import FileSlice, Frame, FrameRange, RunReader
from ptycho_bluesky.stream._files import SliceReader
from ptycho_bluesky.stream._live import LiveBoard, LiveStatus, LiveView, live_views
from ptycho_bluesky.stream._live_image import LiveChanges, LiveImage, LiveTile
from ptycho_bluesky.stream._ring import FrameRing, Kind, Record
from ptycho_bluesky.stream._segment import Segment, find_segments, sweep
from ptycho_bluesky.stream._session import LiveSession

__all__ = [
    "FileSlice",
    "Frame",
    "FrameRange",
    "FrameRing",
    "Kind",
    "LiveBoard",
    "LiveChanges",
    "LiveImage",
    "LiveSession",
    "LiveStatus",
    "LiveTile",
    "LiveView",
    "Record",
    "RunReader",
    "Segment",
    "SliceReader",
    "find_segments",
    "live_views",
    "sweep",
]
