"""The dispatcher service: what keeps jobs going while nobody looks, and takes them from other machines.

Light to import: the service itself is loaded by ``ptycho-bluesky dispatcher`` alone.
"""

from ptycho_bluesky.dispatch.service._client import DispatcherClient, dispatcher

__all__ = ["DispatcherClient", "dispatcher"]
