"""Who does something, for histories."""

from __future__ import annotations

import getpass
import os
import socket

__all__ = ["whoami"]


def whoami() -> str:
    """Return ``user@host``."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a container whose user has no name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"
