"""Which files a job may name: the folders that the resource of its place allows."""

from __future__ import annotations

from pathlib import Path

from ptycho_bluesky.config import settings
from ptycho_bluesky.dispatch._spec import FileSource, JobSpec
from ptycho_bluesky.errors import DispatchError

__all__ = ["check_paths", "files_of"]


def files_of(spec: JobSpec) -> list[str]:
    """Return the files that a specification names: its source, and what a training begins with."""
    named = [spec.source.path] if isinstance(spec.source, FileSource) else []
    if spec.recipe == "train":
        result, model = spec.options.get("reconstruction"), spec.options.get("start_from")
        named += [result] if isinstance(result, str) else []
        # Models are also named by names and hashes, which have no separators.
        named += [model] if isinstance(model, str) and "/" in model else []
    return named


def check_paths(spec: JobSpec) -> None:
    """Refuse files outside ``home`` and the folders of ``[resources.PLACE] paths``, links followed; empty allows all.

    Raises
    ------
    DispatchError
        When the specification names such a file.
    """
    resource = settings().resources.get(spec.place)
    if resource is None or not resource.paths:
        return
    folders = (*resource.paths, settings().home)
    for text in files_of(spec):
        path = Path(text).expanduser()
        if not any(path.resolve().is_relative_to(folder.resolve()) for folder in folders):
            raise DispatchError(
                f"{text} is in none of the folders that jobs at {spec.place!r} may read: "
                f"{', '.join(map(str, folders))}; move the file there, or add its folder to [resources.{spec.place}] "
                "paths in settings.toml"
            )
