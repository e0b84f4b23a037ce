"""Starts the edge process, and the next one at once when it dies: what takes seconds to import is imported already.

The nursery imports the libraries and compiles the kernels, runs nothing in them (so that it has one thread, and a fork
of it is sound), and forks an edge process for each line ``go RESTARTS`` on its standard input. It answers on its
standard output: ``pid PID`` when one begins, ``end STATUS`` when one has ended, negative for a signal. When its input
ends, so does it; the edge process sees that its parent is gone.
"""

from __future__ import annotations

import argparse
import logging
import os
import select
import signal
import sys
from pathlib import Path

import numpy as np

from ptycho_bluesky.experiment import PtychographyMetadata
from ptycho_bluesky.inference import _mosaic
from ptycho_bluesky.inference._edge import EdgeProcess
from ptycho_bluesky.inference._gate import FrameGate

__all__ = ["main"]

NICE = 5  # on a shared machine the scan goes first


def _arguments(given: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m ptycho_bluesky.inference", description=__doc__)
    parser.add_argument("--session", required=True, help="name of the session, whose ring and board exist")
    parser.add_argument("--model", required=True, help="name, path or module:factory of the network")
    parser.add_argument("--folder", required=True, type=Path, help="where final mosaics go")
    parser.add_argument("--batch", type=int, default=8, help="frames for one call of the network, at most")
    parser.add_argument("--parent", type=int, required=True, help="process whose end is the session's end")
    parser.add_argument("--backend", default="auto", help="what computes the network")
    return parser.parse_args(given)


def _warm_up() -> None:
    """Load what every edge process will need: compiled kernels of the gate, the mosaic and the physics."""
    import ptycho_bluesky.inference.backends._physics  # noqa: F401 (seconds, where runtimes are used)

    metadata = PtychographyMetadata(frames_key="frames", position_keys=("y", "x"), position_unit="px")
    FrameGate(metadata, (8, 8)).prepare(np.ones((8, 8), np.uint16))
    _mosaic.warm_up()


def _serve(given: argparse.Namespace, nursery: int, restarts: int) -> int:
    """Be the edge process; return its exit status."""
    edge = EdgeProcess(
        given.session, given.model, given.folder, given.batch, (nursery, given.parent), restarts, given.backend
    )
    signal.signal(signal.SIGTERM, edge.stop)
    return edge.run()


def _fork(given: argparse.Namespace, restarts: int) -> int:
    """Begin an edge process; return its pid."""
    nursery = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        with Path(os.devnull).open("rb") as nothing:
            os.dup2(nothing.fileno(), 0)
        os.dup2(2, 1)  # the nursery's answers are its own
        status = _serve(given, nursery, restarts)
    except Exception:
        logging.getLogger(__name__).exception("the edge process broke off")
    finally:
        logging.shutdown()
        os._exit(status)  # what the nursery registered for its exit is not ours to do


def _say(text: str) -> bool:
    """Answer; False where nobody listens any more."""
    try:
        os.write(1, f"{text}\n".encode())
    except OSError:
        return False
    return True


def main(arguments: list[str] | None = None) -> int:
    """Serve a session that a console has made; return the exit status."""
    given = _arguments(arguments)
    os.nice(NICE)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    _warm_up()
    child = watched = -1
    while True:
        ready = select.select([0] if watched < 0 else [0, watched], [], [])[0]
        if watched in ready:
            _, status = os.waitpid(child, 0)
            os.close(watched)
            watched = -1
            if not _say(f"end {os.waitstatus_to_exitcode(status)}"):
                return 0
        if 0 in ready:
            line = os.read(0, 4096)
            if not line:
                return 0
            if watched < 0:
                child = _fork(given, int(line.split()[-1]))
                watched = os.pidfd_open(child)
                _say(f"pid {child}")
