"""A catalogue that is connected in the background, so that a console is at its prompt before a server has started."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

from ptycho_bluesky.catalog._connect import connect
from ptycho_bluesky.catalog._embedded import START_S
from ptycho_bluesky.errors import CatalogError

__all__ = ["CatalogLater", "connect_later"]

logger = logging.getLogger(__name__)


class CatalogLater:
    """Stands for the client that :func:`connect_later` is making: each use waits for it, and then is the client's.

    Parameters
    ----------
    then:
        Called with the client once it is there, in the background; what they raise is logged.
    timeout_s:
        Longest time to wait for the server, seconds.
    """

    def __init__(self, then: tuple[Callable[[Any], Any], ...], timeout_s: float) -> None:
        self._made: Any = None
        self._problem: Exception | None = None
        self._then, self._timeout_s = then, timeout_s
        self._lock = threading.Lock()
        self._ready = threading.Event()
        self._start()

    def _start(self) -> None:
        self._ready.clear()
        threading.Thread(target=self._connect, name="catalog-connect", daemon=True).start()

    def _connect(self) -> None:
        try:
            self._made, self._problem = connect(self._timeout_s), None
        except CatalogError as error:
            self._problem = error
            logger.warning("the catalogue cannot be reached: %s", error)
            return
        except Exception as error:
            self._problem = error
            logger.exception("the catalogue cannot be reached")
            return
        finally:
            self._ready.set()
        for task in self._then:
            try:
                task(self._made)
            except Exception:
                logger.exception("%s failed; call it again by hand", getattr(task, "__name__", task))

    @property
    def ready(self) -> bool:
        """Whether it is connected, so that no use of it has to wait."""
        return self._made is not None

    def client(self) -> Any:
        """Return the Tiled client, waiting for it; where connecting failed before, it is tried once more.

        Raises
        ------
        CatalogError
            When the server cannot be reached in time.
        """
        with self._lock:
            self._ready.wait()
            if self._made is None:
                self._start()
                self._ready.wait()
        if self._made is None:
            problem = self._problem
            raise problem if isinstance(problem, CatalogError) else CatalogError(str(problem)) from problem
        return self._made

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # IPython and copy ask for many of these; none is worth waiting for a server
            raise AttributeError(name)
        return getattr(self.client(), name)

    def __getitem__(self, key: Any) -> Any:
        return self.client()[key]

    def __contains__(self, key: Any) -> bool:
        return key in self.client()

    def __iter__(self) -> Iterator[str]:
        return iter(self.client())

    def __len__(self) -> int:
        return len(self.client())

    def __repr__(self) -> str:
        if self._made is not None:
            return repr(self._made)
        return f"<catalogue, {'not reachable: ' + str(self._problem) if self._ready.is_set() else 'connecting'}>"


def connect_later(*then: Callable[[Any], Any], timeout: float = START_S) -> CatalogLater:
    """Return at once what will be the client of :func:`~ptycho_bluesky.catalog.connect`, connected in the background.

    For profiles: ``catalog = connect_later(resend_backups, register_pending)``.

    Parameters
    ----------
    then:
        Functions of the client that run in the background once it is there.
    timeout:
        Longest time to wait for the server, seconds.
    """
    return CatalogLater(then, timeout)
