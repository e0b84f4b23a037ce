"""Each output in a thread of its own: one that hangs delays no other."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Sequence

from ptycho_bluesky.errors import InferenceError
from ptycho_bluesky.stream._live import LiveView
from ptycho_bluesky.stream._side_notes import SideNotes
from ptycho_bluesky.stream.outputs._open import Output, open_output

__all__ = ["serve"]

logger = logging.getLogger(__name__)

AGAIN_S = 2.0
"""Wait after a failure."""
LAST_S = 2.0
"""Time for the last image once the session ends."""


class _Worker:
    """Shows a session's image in one output, again and again."""

    def __init__(self, session: str, uri: str, closing: threading.Event, say: Callable[[str, str], None]) -> None:
        self._session, self._uri, self._closing, self._say = session, uri, closing, say
        self._number = 0
        self._output: Output | None = None

    def run(self) -> None:
        """Work until the session ends, and then once more."""
        with contextlib.suppress(InferenceError), LiveView(self._session) as view:
            while not self._closing.is_set():
                pause = self._once(view)
                self._closing.wait(pause)
            self._once(view)
        if self._output is not None:
            self._output.close()

    def _once(self, view: LiveView) -> float:
        """Show what is new; return the seconds to wait."""
        begun = time.monotonic()
        try:
            if self._output is None:
                self._output = open_output(self._uri, self._session)
            changes = view.changes(self._number)
            if changes is not None and changes.number > self._number:
                self._output.show(changes)
                self._number = changes.number
            self._say(self._uri, "ok")
        except Exception as error:  # whatever a server or a network does, the next image is tried again
            text = f"{type(error).__name__}: {error}".splitlines()[0][:300]
            logger.exception("%s fails; it is tried again", self._uri)
            self._say(self._uri, text)
            self._output, self._number = None, 0
            return AGAIN_S
        took = time.monotonic() - begun
        return max(self._output.interval_s, 2 * took)


def serve(session: str, uris: Sequence[str], wait: Callable[[], object]) -> None:
    """Show a session's live image in the outputs `uris` until `wait` returns; then the last image once more."""
    notes, states = SideNotes(session, "outputs"), dict.fromkeys(uris, "starting")
    lock, closing = threading.Lock(), threading.Event()

    def say(uri: str, text: str) -> None:
        with lock:
            if states[uri] != text:
                states[uri] = text
                notes.write(outputs=states)

    notes.write(outputs=states)
    workers = [_Worker(session, uri, closing, say) for uri in uris]
    threads = [threading.Thread(target=worker.run, daemon=True) for worker in workers]
    for thread in threads:
        thread.start()
    wait()
    closing.set()
    end = time.monotonic() + LAST_S
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    with lock:
        notes.close()
