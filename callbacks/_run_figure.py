"""Best-effort plots of a ptychography run: the path, the coverage, the live phase."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ptycho_bluesky.callbacks._run_news import RunNews

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ptycho_bluesky.stream import LiveImage

__all__ = ["RunFigure"]

logger = logging.getLogger(__name__)

REDRAW_MS = 500
ORANGE = "#d1741d"
SIDE = 128
"""Pixels of a frame; the field of a far-field frame does not depend on it."""


class RunFigure:
    """Draws a run: planned path and measured points, how often each place was lit, the phase of the live image.

    Under a matplotlib window (Qt, Tk...) it redraws itself by a timer of the window's own loop, so that the RunEngine
    never waits for it. Without one it is drawn when it is asked for: ``figure.draw()`` returns it, and a notebook shows
    it.

    Parameters
    ----------
    news:
        Of the run.
    view:
        A :class:`~ptycho_bluesky.stream.LiveView`; None where there is no live image.
    """

    def __init__(self, news: RunNews, view: Any = None) -> None:
        self._news, self._view = news, view
        self._shown: tuple[str, int, int] = ("", 0, 0)
        self._figure: Any = None
        self._timer: Any = None

    def open_window(self) -> bool:
        """Open a window that follows the run; False where matplotlib shows none. Call it in the main thread."""
        import matplotlib  # half a second, and needed by those alone who look
        from matplotlib import pyplot

        if matplotlib.get_backend().lower() in ("agg", "pdf", "ps", "svg", "template") or "inline" in _backend():
            return False
        if not matplotlib.is_interactive():
            return False
        self._figure = pyplot.figure(num="ptychography", figsize=(11, 3.8), layout="constrained")
        self._timer = self._figure.canvas.new_timer(interval=REDRAW_MS)
        self._timer.add_callback(self.refresh)
        self._timer.start()
        return True

    def refresh(self) -> None:
        """Draw anew where there is something new; never raises."""
        try:
            image = self._image()
            now = (self._news.uid, self._news.frames, 0 if image is None else image.number)
            if self._news.uid and now != self._shown:
                self._shown = now
                self._draw_into(self._figure, image)
                self._figure.canvas.draw_idle()
        except Exception:
            logger.exception("the run could not be drawn")

    def draw(self) -> Figure:
        """Return the run as it is now: a matplotlib figure of three panels."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(11, 3.8), layout="constrained")
        self._draw_into(figure, self._image())
        return figure

    def close(self) -> None:
        """Let the window rest; it stays open."""
        if self._timer is not None:
            self._timer.stop()

    def _image(self) -> LiveImage | None:
        image: LiveImage | None = None if self._view is None else self._view.image()
        return image if image is not None and image.run_uid == self._news.uid else None

    def _draw_into(self, figure: Any, image: LiveImage | None) -> None:
        figure.clear()
        path, coverage, phase = figure.subplots(1, 3)
        self._path(path)
        if image is None:
            for axis in (coverage, phase):
                axis.set(xticks=[], yticks=[])
                axis.text(0.5, 0.5, "no live image yet", ha="center", va="center", transform=axis.transAxes)
        else:
            _map(coverage, image, image.coverage, self._half_field(), "Blues", "Coverage")
            _map(phase, image, image.phase, self._half_field(), "gray", "Live phase (rad)")
        doc = self._news.start_document
        state = self._news.exit_status or "running"
        figure.suptitle(f"Scan {doc.get('scan_id', '')}  {self._news.uid[:8]}  {state}", fontsize=10, x=0.01, ha="left")

    def _half_field(self) -> float:
        """Return from a position to where its frame's patch begins, metres; of pixels it is not known here."""
        geometry = self._news.metadata.geometry if self._news.metadata is not None else None
        return 0.0 if geometry is None else geometry.pixel_size_m(SIDE) * SIDE / 2

    def _path(self, axis: Any) -> None:
        news = self._news
        pixels = news.metadata is None or news.metadata.position_unit == "px"
        scale, unit = (1.0, "px") if pixels else (1e6, "um")
        if news.path is not None:
            axis.plot(*(news.path[:, ::-1] * scale).T, "-", color="0.8", linewidth=0.4, alpha=0.7, zorder=1)
        done = news.measured * scale
        axis.plot(done[:, 1], done[:, 0], ".", color="#1f5a99", markersize=3, zorder=2)
        if len(done) and news.running:
            axis.plot(done[-1, 1], done[-1, 0], "o", color=ORANGE, markersize=7, zorder=3)
        axis.set(aspect="equal", xlabel=f"x ({unit})", ylabel=f"y ({unit})")
        axis.set_title(f"Path: {news.frames} of {news.planned or '?'} frames", fontsize=10, loc="left")
        axis.invert_yaxis()


def _backend() -> str:
    import matplotlib

    return str(matplotlib.get_backend()).lower()


def _map(
    axis: Any, image: LiveImage, values: npt.NDArray[np.float32], half_field: float, colours: str, title: str
) -> None:
    known = values[np.isfinite(values)]
    low, high = np.percentile(known, [1, 99]) if known.size else (0.0, 1.0)
    height, width = values.shape
    scale = 1e6 if image.pixel_size < 1e-3 else 1.0
    top, left = ((v - half_field) * scale for v in image.origin)
    side = image.pixel_size * scale
    extent = (left, left + width * side, top + height * side, top)
    axis.set_facecolor("0.92")
    shown = axis.imshow(
        values, cmap=colours, vmin=low, vmax=max(high, low + 1e-9), extent=extent, interpolation="nearest"
    )
    axis.figure.colorbar(shown, ax=axis, shrink=0.8)
    axis.set_title(title, fontsize=10, loc="left")
    axis.set_xlabel("x (um)" if scale > 1 else "x (px)")
