"""What kind of fault ended a job."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

from ptycho_bluesky.errors import CatalogError, FacilityError, FormatError, PtychoError

__all__ = ["fault_kind", "out_of_memory"]

FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _behind(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and those behind it."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def out_of_memory(error: BaseException) -> bool:
    """Whether this error, or one behind it, says that memory was lacking, the host's or a GPU's."""
    return any(isinstance(e, MemoryError) or type(e).__name__ == "OutOfMemoryError" for e in _behind(error))


def fault_kind(error: BaseException) -> str:
    """Return "disk", "memory", "catalog", "user" (specification or data), "internal", or what a facility says it is."""
    if isinstance(error, FacilityError):
        return error.kind
    for cause in _behind(error):
        if isinstance(cause, OSError) and cause.errno in FULL_DISK:
            return "disk"
        if out_of_memory(cause):
            return "memory"
    if isinstance(error, FormatError) and any(os.strerror(number) in str(error) for number in FULL_DISK):
        return "disk"
    if isinstance(error, CatalogError):
        return "catalog"
    return "user" if isinstance(error, PtychoError) else "internal"
