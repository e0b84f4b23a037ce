"""Bluesky callbacks."""

if __name__ == "callbacks":
    raise ImportError("import 'ptycho_bluesky.callbacks', not 'callbacks'")

from ptycho_bluesky.callbacks._console import Console, web_address
from ptycho_bluesky.callbacks._dispatch_on_stop import DispatchOnStop
from ptycho_bluesky.callbacks._live_inference import LiveInference
from ptycho_bluesky.callbacks._run_figure import RunFigure
from ptycho_bluesky.callbacks._run_news import RunNews

__all__ = ["Console", "DispatchOnStop", "LiveInference", "RunFigure", "RunNews", "web_address"]
