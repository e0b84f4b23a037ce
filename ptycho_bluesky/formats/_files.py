"""Files that are either whole or not there: errors in plain words, and writing that a full disk cannot spoil."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from ptycho_bluesky.errors import FormatError

__all__ = ["check_readable", "replaced_when_whole"]


def check_readable(path: Path, what: str) -> None:
    """Raise FormatError where `path` is not a file with at least one byte that this process may read."""
    try:
        if path.is_dir():
            raise FormatError(f"{path} is a folder; give the path of one file: {what}")
        with path.open("rb") as file:
            if not file.read(1):
                raise FormatError(f"{path} is empty (0 bytes); it was never written, or the copy failed: copy it again")
    except FileNotFoundError:
        hint = _siblings(path)
        raise FormatError(f"{path} does not exist; give the path of {what}{hint}") from None
    except PermissionError:
        raise FormatError(
            f"{path} may not be read by this user (permission denied); ask its owner, or chmod u+r it"
        ) from None
    except OSError as error:
        raise FormatError(f"{path} cannot be read: {error.strerror or error}") from None


def _siblings(path: Path) -> str:
    """Name up to five files of the same folder: most missing files are misspelt ones."""
    if not path.parent.is_dir():
        return f" (the folder {path.parent} does not exist either)"
    try:
        names = sorted(p.name for p in path.parent.iterdir() if p.is_file() and p.suffix == path.suffix)[:5]
    except OSError:
        return ""
    return f" ({path.parent} holds {', '.join(names)})" if names else ""


@contextlib.contextmanager
def replaced_when_whole(path: Path) -> Iterator[Path]:
    """Give a temporary path in the same folder; move it to `path` when the block ends well, else remove it.

    The content is flushed to the disk before the move, and the folder after it, so that a power cut leaves either the
    old file or the new one.

    Raises
    ------
    FormatError
        When the folder does not exist or may not be written, or when the disk is full.
    """
    if path.is_dir():
        raise FormatError(f"{path} is a folder; give the path of the file to write")
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield part
        _flush(part)
        part.replace(path)
        _flush(path.parent)
    except OSError as error:
        raise FormatError(f"{path} was not written: {_reason(error, path)}") from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _reason(error: OSError, path: Path) -> str:
    # HDF5 puts the number of the system's error into its text only.
    text = str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT) or "No space left" in text or "quota" in text.lower():
        return f"the disk of {path.parent} is full or its quota used up; make room or choose another folder"
    if error.errno in (errno.ENOENT, errno.ENOTDIR) and not path.parent.is_dir():
        return f"the folder {path.parent} does not exist; make it first"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"this user may not write in {path.parent}; choose another folder"
    return f"{error.strerror or text}; choose another folder, or check the disk"
