"""Named memory that unrelated processes share, and that never outlives all of them.

``multiprocessing.shared_memory`` is not used: before Python 3.13 its resource tracker unlinks a segment when *any* of
its processes ends, which is exactly the moment at which a ring must survive. On Linux a POSIX segment is a file in
``/dev/shm``; this module maps that file itself. Every process that uses a segment holds a shared ``flock`` on it, which
the kernel releases even after ``kill -9``; a segment that can be locked exclusively is therefore left over, and
:func:`sweep` removes it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ptycho_bluesky.errors import InferenceError

__all__ = ["Segment", "find_segments", "segment_path", "sweep"]

PREFIX = "ptycho-bluesky-"
NAME = re.compile(r"[A-Za-z0-9._-]{1,120}")


def _folders() -> list[Path]:
    """Memory first, then the folder of temporary files (slower, but there where /dev/shm is absent or full)."""
    return [folder for folder in (Path("/dev/shm"), Path(tempfile.gettempdir())) if folder.is_dir()]


def segment_path(name: str) -> Path | None:
    """Return the file behind the segment `name`, or None where there is none."""
    if not NAME.fullmatch(name):
        raise InferenceError(f"segment name {name!r}: allowed are 1 to 120 letters, digits, '.', '_' and '-'")
    return next((path for folder in _folders() if (path := folder / (PREFIX + name)).exists()), None)


def find_segments(suffix: str = "") -> Iterator[str]:
    """Yield the names of all segments that end with `suffix`, the newest first."""
    found: list[tuple[float, str]] = []
    for folder in _folders():
        for path in folder.glob(f"{PREFIX}*{suffix}"):
            with contextlib.suppress(OSError):  # gone in the meantime
                found.append((path.stat().st_mtime, path.name.removeprefix(PREFIX)))
    yield from (name for _, name in sorted(found, reverse=True))


def sweep() -> list[str]:
    """Remove the segments of sessions that no living process belongs to; return their names.

    A session's segments stay together while any of them is in use: the canvas of an edge process that has just died is
    nobody's for a moment, and its successor needs it.
    """
    removed = []
    for folder in _folders():
        paths = sorted(folder.glob(PREFIX + "*"))  # a ring comes before its doorbell, <ring>.bell
        used = {_session(path) for path in paths if not path.is_fifo() and not _unused(path)}
        for path in paths:
            if _session(path) in used:
                continue
            if path.is_fifo():
                gone = not path.with_name(path.name.removesuffix(".bell")).exists()
                if gone:
                    path.unlink(missing_ok=True)
            else:
                gone = _unused(path, remove=True)
            if gone:
                removed.append(path.name.removeprefix(PREFIX))
    return removed


def _session(path: Path) -> str:
    """Return what the segments of one session have in common: <session>-live, -ring, -feed, -<run>-image-<n>...."""
    return re.sub(r"(-live|-ring(\.bell)?|-feed|-outputs|-\d+-image-\d+)$", "", path.name)


def _unused(path: Path, remove: bool = False) -> bool:
    """Tell whether nobody uses a segment; with `remove`, take its name away before anybody can begin to."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:  # another user's, or gone
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if remove:
            path.unlink(missing_ok=True)
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


def _locked(fd: int, path: Path) -> bool:
    """Take a share of a segment; False where it was swept away between its opening and this."""
    fcntl.flock(fd, fcntl.LOCK_SH)
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False


class Segment:
    """A named piece of shared memory; make one with :meth:`create` or :meth:`attach`, which open the file (`fd`).

    Attributes
    ----------
    name:
        By which other processes attach.
    path:
        The file behind it.
    buffer:
        Its bytes, writable.
    """

    def __init__(self, name: str, path: Path, fd: int) -> None:
        self.name, self.path, self._fd = name, path, fd
        flags = mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0)  # page faults now, not one frame at a time
        self._map = mmap.mmap(fd, os.fstat(fd).st_size, flags)
        self.buffer = memoryview(self._map)

    @classmethod
    def create(cls, name: str, size: int) -> Segment:
        """Make the segment `name` of `size` zero bytes, with its memory reserved.

        Raises
        ------
        InferenceError
            When the name is taken, or no folder has room.
        """
        if segment_path(name) is not None:
            raise InferenceError(f"a shared segment {name!r} exists already; choose another name, or unlink it first")
        refused = []
        for folder in _folders():
            path = folder / (PREFIX + name)
            try:
                fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            except OSError as error:
                refused.append(f"{folder}: {error.strerror}")
                continue
            try:
                if not _locked(fd, path):  # another console's sweep came between: the name is free again
                    os.close(fd)
                    return cls.create(name, size)
                os.posix_fallocate(fd, 0, size)  # without it a full /dev/shm kills the process by SIGBUS later
                return cls(name, path, fd)
            except OSError as error:
                path.unlink(missing_ok=True)
                os.close(fd)
                if error.errno not in (errno.ENOSPC, errno.EFBIG):
                    raise
                refused.append(f"{folder}: no room")
        raise InferenceError(
            f"shared segment {name!r} of {size / 2**20:.1f} MiB cannot be made ({'; '.join(refused)}); "
            "ask for a smaller one, or enlarge /dev/shm (docker: --shm-size)"
        )

    @classmethod
    def attach(cls, name: str) -> Segment:
        """Open the segment `name`, made by any process.

        Raises
        ------
        InferenceError
            When there is none.
        """
        path = segment_path(name)
        if path is not None:
            with contextlib.suppress(FileNotFoundError):  # gone in the meantime
                fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
                if _locked(fd, path) and os.fstat(fd).st_size:  # without a size it is just being made
                    return cls(name, path, fd)
                os.close(fd)
        raise InferenceError(f"there is no shared segment {name!r}: its owner has ended or never started")

    def close(self) -> None:
        """Let go of the memory; the segment itself stays for others."""
        if self._fd < 0:
            return
        with contextlib.suppress(BufferError):  # arrays over it still live: the mapping goes with the last of them
            self.buffer.release()
            self._map.close()
        os.close(self._fd)
        self._fd = -1

    def unlink(self) -> None:
        """Remove the name; the memory goes when the last process closes it."""
        self.path.unlink(missing_ok=True)
