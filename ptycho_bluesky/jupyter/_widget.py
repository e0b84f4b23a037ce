"""The dashboard as a Jupyter widget: one anywidget, its thread, and what a saved notebook keeps of it."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence
from typing import Any

import anywidget
import traitlets
from IPython.display import display, update_display

from ptycho_bluesky.jupyter._assets import script, style
from ptycho_bluesky.jupyter._feed import Feed
from ptycho_bluesky.jupyter._kernel import KernelEar
from ptycho_bluesky.jupyter._source import DashboardSource
from ptycho_bluesky.jupyter._still import bundle

__all__ = ["Dashboard"]

IDLE_S = 0.25
WIDGET = "application/vnd.jupyter.widget-view+json"


class Dashboard(anywidget.AnyWidget):  # type: ignore[misc]
    """Shows a source in JupyterLab, Notebook, VS Code or Voila: ``Dashboard(source)`` as a cell's last line.

    A thread of its own looks at the source and sends what is new; in the kernel's main thread nothing is done. Buttons
    and acknowledgements arrive while a cell runs, too: see :class:`ptycho_bluesky.jupyter._kernel.KernelEar`.

    Parameters
    ----------
    source:
        What is shown, and what the buttons do.
    rate_hz:
        Highest rate of images, 1 to 60.

    Notes
    -----
    One dashboard may be looked at in several places; all of them see one stream, and the slowest sets its pace. A
    notebook keeps the picture as it was when the scan last paused or ended.
    """

    _esm = traitlets.Unicode().tag(sync=True)
    _css = traitlets.Unicode().tag(sync=True)
    kernel_id = traitlets.Unicode().tag(sync=True)
    """Where the browser sends an interrupt when the kernel does not hear it otherwise."""

    def __init__(self, source: DashboardSource, rate_hz: float = 30.0) -> None:
        self._ear = KernelEar()
        super().__init__(_esm=script(), _css=style(), kernel_id=self._ear.kernel_id)
        self._ear.listen(self.comm)
        self.source = source
        self.feed = Feed(source, self._send_plain, hearing=self._ear.hears)
        self.on_msg(_hear)
        self._tick_s = min(max(1 / 60, 1 / rate_hz), 1.0)
        self._shown_as = f"ptycho-{self.model_id}"
        self._kept: tuple[str, str] = ("", "")
        self._ended = threading.Event()
        self._thread = threading.Thread(
            target=_pump, args=(weakref.ref(self), self._ended), name="ptycho-dashboard", daemon=True
        )
        self._thread.start()

    def _send_plain(self, header: dict[str, Any], buffers: Sequence[Any]) -> None:
        self.send(header, list(buffers))

    def _turn(self) -> float:
        """Do one turn of the thread; returns how long to wait for the next, seconds."""
        if not self.feed.viewers:
            return IDLE_S
        self.feed.tick()
        news = self.feed.news
        if news is not None and (news.run_uid, news.engine) != self._kept:
            before, self._kept = self._kept, (news.run_uid, news.engine)
            if before[1] == "running" and news.inferred:
                self._keep()
        return self._tick_s

    def close(self) -> None:
        """End the thread and the views; the notebook keeps the last picture."""
        if self._ended.is_set():
            return
        self._ended.set()
        if threading.current_thread() is not self._thread:
            self._thread.join(2.0)
        super().close()
        self._keep()

    # what a notebook keeps --------------------------------------------------------------------------------------------

    def _bundle(self) -> dict[str, Any]:
        """Return a picture and words, and the widget while it lives, by MIME type."""
        found = bundle(self.source.snapshot(), self.source.image(0))
        if not self._ended.is_set():
            found[WIDGET] = {"version_major": 2, "version_minor": 0, "model_id": self.model_id}
        return found

    def _ipython_display_(self) -> None:
        """Show it, under a name by which the picture beside it can be changed later."""
        self.feed.expect_viewer()
        display(self._bundle(), raw=True, display_id=self._shown_as)  # type: ignore[no-untyped-call]

    def _keep(self) -> None:
        """Bring what notebooks keep up to date."""
        update_display(self._bundle(), raw=True, display_id=self._shown_as)  # type: ignore[no-untyped-call]


def _hear(widget: Dashboard, message: Any, _buffers: Any) -> None:
    if isinstance(message, dict):
        widget.feed.hear(message)


def _pump(reference: weakref.ref[Dashboard], ended: threading.Event) -> None:
    """Serve a dashboard until it is closed or forgotten."""
    wait = 0.0
    while not ended.wait(wait):
        widget = reference()
        if widget is None:
            return
        wait = widget._turn()
        del widget
