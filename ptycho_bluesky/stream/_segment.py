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
    """Remove the segments that no living process uses; return their names."""
    removed = []
    for folder in _folders():
        for path in folder.glob(PREFIX + "*"):
            ring = path.with_name(path.name.removesuffix(".bell"))  # a ring's doorbell goes with its ring
            if not ring.exists() if path.is_fifo() else _unused(path):
                with contextlib.suppress(OSError):
                    path.unlink()
                    removed.append(path.name.removeprefix(PREFIX))
    return removed


def _unused(path: Path) -> bool:
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:  # another user's, or gone
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


class Segment:
    """A named piece of shared memory; make one with :meth:`create` or :meth:`attach`.

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
                fcntl.flock(fd, fcntl.LOCK_SH)
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
        try:
            if path is None:
                raise FileNotFoundError(name)
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            raise InferenceError(f"there is no shared segment {name!r}: its owner has ended or never started") from None
        fcntl.flock(fd, fcntl.LOCK_SH)
        return cls(name, path, fd)

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
