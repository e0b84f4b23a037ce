"""Another network in the middle of things: loaded beside the one that runs, which serves until the other is ready."""

from __future__ import annotations

import importlib
import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from ptycho_bluesky.config import settings
from ptycho_bluesky.errors import InferenceError
from ptycho_bluesky.inference._model import ProbeViTModel, PtychoNNModel, load_model
from ptycho_bluesky.inference._protocol import Model
from ptycho_bluesky.inference._ready import Network, ReadyNetwork
from ptycho_bluesky.inference.backends import BackendOptions

__all__ = ["ModelSwap", "PointerWatch", "Swapped", "find_model", "load_network"]

logger = logging.getLogger(__name__)

IN_SERVICE = "in-service"
LOOK_S = 1.0


def find_model(name: str) -> Model:
    """Return the model of a name or path; ``package.module:factory`` calls the factory.

    Raises
    ------
    InferenceError
        When there is none, or it cannot be loaded.
    """
    module, _, factory = name.partition(":")
    if factory.isidentifier() and not Path(name).exists():
        try:
            made = getattr(importlib.import_module(module), factory)()
        except (ImportError, AttributeError) as error:
            raise InferenceError(f"model {name!r}: {error}; give module:factory that can be imported") from error
        if not isinstance(made, Model):
            raise InferenceError(f"model {name!r} is a {type(made).__name__}, which has no for_probe(...)")
        return made
    model: Model = load_model(name)
    return model


def load_network(name: str, backend: str = "auto") -> Network:
    """Return the network of a name or path, computed by `backend` where this package loads it itself.

    `backend` is a runtime or "auto", and may name a precision: ``openvino:int8``.

    Raises
    ------
    InferenceError
        When there is no such network, it cannot be loaded, or there is no such backend.
    """
    model = find_model(name)
    if not isinstance(model, ProbeViTModel | PtychoNNModel):
        return Network(name, model)
    threads = int(os.environ.get("OMP_NUM_THREADS", "1"))
    try:
        runtime, _, precision = backend.partition(":")
        given = {"name": runtime, "precision": precision or "auto", "threads": threads}
        options = BackendOptions.model_validate(given)
    except ValidationError as error:
        raise InferenceError(f"backend {backend!r}: {error.errors()[0]['msg']}") from error
    return Network(name, model, backend=options)


@dataclass(frozen=True)
class Swapped:
    """What became of a wish for another network."""

    name: str
    network: Network | None = None
    ready: ReadyNetwork | None = None
    """Made ready for the run that was open when it was asked for; None where none was."""
    run_uid: str = ""
    fault: str = ""
    """Why there is no network."""


Prepare = Callable[[Network], ReadyNetwork | None]


class ModelSwap:
    """Loads networks in a thread, one at a time; of several wishes the last one counts.

    Parameters
    ----------
    load:
        From a name to a network; what it raises becomes the fault.
    """

    def __init__(self, load: Callable[[str], Network]) -> None:
        self._load = load
        self._wish: tuple[str, Prepare | None, str] | None = None
        self._done: Swapped | None = None
        self._lock, self._busy = threading.Lock(), False

    def ask(self, name: str, prepare: Prepare | None = None, run_uid: str = "") -> None:
        """Ask for a network, made ready by `prepare` for the run `run_uid`; :meth:`take` gives it."""
        with self._lock:
            self._wish = name, prepare, run_uid
            if not self._busy:
                self._busy = True
                threading.Thread(target=self._work, name=f"load {name}", daemon=True).start()

    def _work(self) -> None:
        while True:
            with self._lock:
                wish, self._wish = self._wish, None
                if wish is None:
                    self._busy = False
                    return
            name, prepare, run_uid = wish
            try:
                network = self._load(name)
                done = Swapped(name, network, None if prepare is None else prepare(network), run_uid)
            except Exception as error:
                logger.exception("model %s cannot be taken", name)
                done = Swapped(name, fault=f"{error}" or type(error).__name__)
            with self._lock:
                if self._wish is None:
                    self._done = done

    def take(self) -> Swapped | None:
        """Return what has been loaded, once; None where nothing has."""
        if self._done is None:
            return None
        with self._lock:
            done, self._done = self._done, None
            return done


class PointerWatch:
    """Watches which model is in service, for an edge process that was started with ``in-service``."""

    def __init__(self) -> None:
        self._path = settings().home / "models" / "in-service.json"
        self._seen, self._next = self._state(), 0.0

    def _state(self) -> tuple[int, int] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ino

    def changed(self) -> bool:
        """Tell whether another model has been put into service since the last call; looks once a second."""
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + LOOK_S
        before, self._seen = self._seen, self._state()
        return self._seen != before and self._seen is not None
