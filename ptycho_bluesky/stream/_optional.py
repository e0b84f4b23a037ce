"""Modules that not every installation has."""

from __future__ import annotations

import importlib
from typing import Any

from ptycho_bluesky.errors import SourceError

__all__ = ["optional"]


def optional(module: str, extra: str) -> Any:
    """Import a module.

    Raises
    ------
    SourceError
        When it is missing; the text says which extra brings it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise SourceError(f"{error}; install it: pip install 'ptycho-bluesky[{extra}]'") from error
