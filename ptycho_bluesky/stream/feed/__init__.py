"""From a detector's stream to a live session: for an edge process that stands beside the detector."""

from ptycho_bluesky.stream.feed._feed import SourceFeed
from ptycho_bluesky.stream.feed._positions import PositionTable

__all__ = ["PositionTable", "SourceFeed"]
