"""The one function that this package registers with Globus Compute: its text is all the code that ever travels."""

from __future__ import annotations

from typing import Any

__all__ = ["ptycho_bluesky_facility"]


def ptycho_bluesky_facility(request: "dict[str, Any]") -> "dict[str, Any]":  # noqa: UP037
    """Answer a request of another ptycho-bluesky: JSON in, JSON out. Its UUID can be on an allow-list."""
    from ptycho_bluesky.dispatch.globus.facility import answer

    return answer(request)
