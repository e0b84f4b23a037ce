"""Bluesky callbacks."""

if __name__ == "callbacks":
    raise ImportError("import 'ptycho_bluesky.callbacks', not 'callbacks'")

from ptycho_bluesky.callbacks._dispatch_on_stop import DispatchOnStop
from ptycho_bluesky.callbacks._live_inference import LiveInference

__all__ = ["DispatchOnStop", "LiveInference"]
