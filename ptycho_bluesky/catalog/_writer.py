"""From documents to Tiled, such that neither a slow nor a dead server can hold up or fail a scan."""

from __future__ import annotations

import atexit
import contextlib
import logging
import queue
import threading
import time
from pathlib import Path
from typing import Any

from event_model import RunRouter

from ptycho_bluesky._locks import file_lock
from ptycho_bluesky.catalog._connect import RAW, find_run
from ptycho_bluesky.catalog._journal import Journal, read_journal
from ptycho_bluesky.config import settings

__all__ = ["RunWriter", "resend_backups", "tiled_writer"]

logger = logging.getLogger(__name__)

BATCH = 50
"""Events sent to Tiled at once. One HTTP request costs 30 ms, whatever it carries; with 50 a live viewer is at most
50 frames behind."""

APPEND_S = 20.0
"""Longest time to wait while another console appends its rows; then both take their chance."""

STOP_S = 0.3
"""Longest wait at a run's end. A short run is in Tiled by then; whoever needs a long one waits for it himself."""

EXIT_S = 10.0
"""Longest wait when the process ends; what is not in Tiled by then is sent from its journal later."""

QUEUE = 2000
"""Documents that may wait for Tiled in memory; beyond that the run goes to its journal alone."""


def _backups() -> Path:
    return settings().home / "tiled" / "backups"


def _tiled_writer(client: Any, batch_size: int) -> Any:
    from bluesky_tiled_plugins import TiledWriter  # here, for it costs 2 s and numba

    return TiledWriter(client[RAW], batch_size=batch_size)


def _warm_up() -> None:
    with contextlib.suppress(ImportError):  # said in words when the first run comes
        import bluesky_tiled_plugins  # noqa: F401


class _Run:
    """One run on its way: every document to the journal at once, and to Tiled in a thread."""

    def __init__(self, client: Any, folder: Path, batch_size: int, stop_wait_s: float, uid: str) -> None:
        self._uid, self._stop_wait_s = uid, stop_wait_s
        self._journal: Journal | None = Journal(folder / f"{uid}.msgpack")
        self._client, self._batch_size = client, batch_size
        self._queue: queue.Queue[tuple[str, dict[str, Any]]] = queue.Queue(QUEUE)
        self._failed = self._stopped = False
        self._done = threading.Event()
        atexit.register(self._done.wait, EXIT_S)  # a script that ends after its scan has its run in Tiled
        threading.Thread(target=self._send, name=f"tiled-writer-{uid[:8]}", daemon=True).start()

    def __call__(self, name: str, document: dict[str, Any]) -> None:
        if self._journal is not None:
            try:
                self._journal.append(name, document)
            except OSError as error:
                logger.error("run %s goes to Tiled alone, its journal cannot be written: %s", self._uid[:8], error)
                with contextlib.suppress(OSError):  # closing flushes, and the disk is still full
                    self._journal.close()
                self._journal = None
        if not self._failed:
            try:
                self._queue.put_nowait((name, document))
            except queue.Full:
                logger.error("Tiled is too slow for run %s; the run goes to its journal alone", self._uid[:8])
                self._failed = True
        if name == "stop":
            self._stopped = True
            if not self._failed and not self._done.wait(self._stop_wait_s):
                logger.info("run %s is still on its way to Tiled", self._uid[:8])

    def _send(self) -> None:
        sink = None
        while not (self._failed and self._stopped):
            try:
                name, document = self._queue.get(timeout=0.2)
            except queue.Empty:
                continue
            if self._failed:
                continue
            try:
                # Two consoles that append to one table at once make Tiled's SQL storage fail and repeat rows.
                with file_lock(settings().home / "tiled" / "append.lock", timeout_s=APPEND_S):
                    if sink is None:  # asks the server, so not in the RunEngine's thread
                        sink = _tiled_writer(self._client, self._batch_size)
                    sink(name, document)
            except Exception:  # whatever it is, the scan must not know of it
                logger.exception("Tiled refused a document of run %s; the run goes to its journal alone", self._uid[:8])
                self._failed = True
            else:
                if name == "stop":
                    break
        self._end()

    def _end(self) -> None:
        if self._journal is not None:
            if self._failed:
                self._journal.close()
            else:
                self._journal.remove()
            self._journal = None
        self._done.set()
        atexit.unregister(self._done.wait)


class RunWriter:
    """Bluesky callback that writes runs into Tiled without ever failing or delaying the scan.

    Each document goes to a journal on disk at once and to Tiled in a thread of its own; the journal is deleted when
    Tiled has the whole run. When Tiled fails, the scan goes on, and :func:`resend_backups` sends the run later.

    Parameters
    ----------
    client:
        From :func:`~ptycho_bluesky.catalog.connect` or :func:`~ptycho_bluesky.catalog.connect_later`.
    batch_size:
        Events that are sent at once.
    stop_wait_s:
        Longest time to wait, at a run's end, for Tiled to have all of it, seconds.
    folder:
        Where the journals are kept.
    """

    def __init__(self, client: Any, *, batch_size: int, stop_wait_s: float, folder: Path) -> None:
        def factory(name: str, document: dict[str, Any]) -> tuple[list[Any], list[Any]]:
            return [_Run(client, folder, batch_size, stop_wait_s, document["uid"])], []

        # The writer's imports cost 2 s: now, beside what the console does, and not when the first run starts.
        threading.Thread(target=_warm_up, name="tiled-writer-imports", daemon=True).start()
        self._router = RunRouter([factory])
        self._said = False

    def __call__(self, name: str, document: dict[str, Any]) -> None:
        try:
            self._router(name, document)
        except Exception:  # an exception here would abort the scan
            if not self._said:  # once: every event of the run would say it again
                logger.exception("a document (%s) could not be handed to Tiled, nor will those after it", name)
            self._said = True


def tiled_writer(client: Any, *, batch_size: int = BATCH, stop_wait_s: float = STOP_S) -> RunWriter:
    """Return a callback for the RunEngine that writes runs into ``raw``: ``RE.subscribe(tiled_writer(client))``.

    Costs the RunEngine's thread a fraction of a millisecond an event. A dead or slow server never fails the scan:
    the run's documents stay in ``home/tiled/backups`` until :func:`resend_backups`.

    Parameters
    ----------
    client:
        From :func:`~ptycho_bluesky.catalog.connect`, or :func:`~ptycho_bluesky.catalog.connect_later` where the first
        scan may begin before the server is there.
    batch_size:
        Events that are sent at once; 1 for the fastest view, 30 ms of the server's time each.
    stop_wait_s:
        Longest time to wait, at a run's end, for Tiled to have all of it, seconds.
    """
    return RunWriter(client, batch_size=batch_size, stop_wait_s=stop_wait_s, folder=_backups())


def _resend(client: Any, path: Path, uid: str) -> bool:
    """Send one journal; False where it holds no run at all."""
    documents = list(read_journal(path))
    if not documents or documents[0][0] != "start":
        return False
    if (run := find_run(client, uid)) is not None:
        if run.metadata.get("stop"):
            return True
        run.delete(recursive=True, external_only=False)  # a beginning, cut off when Tiled died
    if documents[-1][0] != "stop":
        counts: dict[str, int] = {}
        streams = {d["uid"]: d["name"] for n, d in documents if n == "descriptor"}
        for name, document in documents:
            if name == "event":
                stream = streams[document["descriptor"]]
                counts[stream] = counts.get(stream, 0) + 1
        stop = {"uid": f"{uid[:-1]}{'0' if uid[-1] != '0' else '1'}", "run_start": uid, "time": time.time()}
        reason = "the process that measured it ended in the middle of the run"
        documents.append(("stop", {**stop, "exit_status": "abort", "reason": reason, "num_events": counts}))
    sink = _tiled_writer(client, BATCH)
    for name, document in documents:
        sink(name, document)
    return True


def resend_backups(client: Any, uid: str | None = None) -> list[str]:
    """Send the runs that Tiled has missed, and forget their journals; runs still going on are left alone.

    Runs without an end, because their console died, get a stop document with exit status ``"abort"``.

    Parameters
    ----------
    client:
        From :func:`~ptycho_bluesky.catalog.connect`.
    uid:
        Of one run; None for all.

    Returns
    -------
    list of str
        The uids that were sent. A run that fails again stays, and is reported in the log.
    """
    sent = []
    for path in sorted(_backups().glob("*.msgpack" if uid is None else f"{uid}.msgpack")):
        with file_lock(path) as ours:
            if not ours or not path.exists():
                continue
            try:
                if _resend(client, path, path.stem):
                    sent.append(path.stem)
            except Exception:  # one bad journal must not keep the others from being sent
                logger.exception("run %s could not be sent again; its documents stay in %s", path.stem[:8], path)
            else:
                path.unlink()
    return sent
