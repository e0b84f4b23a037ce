"""From a URI to an output."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ptycho_bluesky.errors import SourceError, report
from ptycho_bluesky.stream._live_image import LiveChanges
from ptycho_bluesky.stream.outputs._pva import PvaOutput
from ptycho_bluesky.stream.outputs._tiled import TiledOutput

__all__ = ["OUTPUTS", "Output", "check_outputs", "open_output"]

OUTPUTS = {
    "pva": "pva://PREFIX",
    "tiled+http": "tiled+http://HOST:PORT/api/v1",
    "tiled+https": "tiled+https://HOST/api/v1",
}
"""How the URI of each kind of output looks."""


class Output(Protocol):
    """Shows the live image somewhere."""

    interval_s: float
    """Least time between two images."""

    def show(self, changes: LiveChanges) -> None:
        """Bring what is shown up to date; may take its time, and may raise where it cannot."""
        ...

    def close(self) -> None:
        """Let go."""
        ...


def check_outputs(uris: Sequence[str]) -> None:
    """Refuse URIs that are no output.

    Raises
    ------
    SourceError
        With all faults, and how outputs are written.
    """
    faults = [f"{uri!r}" for uri in uris if uri.partition("://")[0] not in OUTPUTS or not uri.partition("://")[2]]
    if faults:
        raise SourceError(report("outputs", faults) + f"; give {', '.join(OUTPUTS.values())}")


def open_output(uri: str, session: str) -> Output:
    """Return the output of a URI for the live view of a session.

    Parameters
    ----------
    uri:
        ``pva://PREFIX`` serves NTNDArray records ``PREFIX:Phase``, ``PREFIX:Amplitude`` and ``PREFIX:Confidence``.
        ``tiled+http://HOST:PORT/api/v1`` writes arrays ``live/SESSION/phase``, ``amplitude`` and ``confidence``, with
        the key in ``PTYCHO_BLUESKY_TILED_API_KEY``.
    session:
        Name of the session.

    Raises
    ------
    SourceError
        When it is none of these, or a package is missing.
    """
    check_outputs([uri])
    kind, _, where = uri.partition("://")
    if kind == "pva":
        return PvaOutput(where)
    return TiledOutput(f"{kind.removeprefix('tiled+')}://{where}", session)
