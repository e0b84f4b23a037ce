"""What the shell offers at TAB: ids of jobs, names of models and of live sessions. It must be quick, and never fail."""

from __future__ import annotations

import json

from ptycho_bluesky.config import settings
from ptycho_bluesky.errors import PtychoError

__all__ = ["complete_job", "complete_model", "complete_session"]

MOST = 30


def complete_job(incomplete: str) -> list[tuple[str, str]]:
    """Return (id, state) of the latest jobs whose id begins so; from the folders, without looking after the jobs."""
    try:
        files = list((settings().home / "jobs").glob("*/status.jsonl"))
    except (OSError, PtychoError):
        return []
    files = [path for path in files if path.parent.name.startswith(incomplete)]
    latest = sorted(files, key=lambda path: path.stat().st_mtime, reverse=True)[:MOST]
    return [(path.parent.name, _state(path.read_text(errors="replace"))) for path in latest]


def _state(text: str) -> str:
    for line in reversed(text.splitlines()):
        try:
            return str(json.loads(line)["state"])
        except (ValueError, KeyError, TypeError):
            continue  # torn by a crash
    return ""


def complete_model(incomplete: str) -> list[str]:
    """Return the names of models on this machine that begin so."""
    from ptycho_bluesky.catalog import ModelLibrary

    try:
        names = {record.name for record in ModelLibrary().records()} | {"default"}
    except (OSError, PtychoError):
        return []
    return sorted(name for name in names if name.startswith(incomplete))


def complete_session(incomplete: str) -> list[str]:
    """Return the names of live sessions on this machine that begin so."""
    from ptycho_bluesky.stream import live_views

    return [name for name in live_views() if name.startswith(incomplete)]
