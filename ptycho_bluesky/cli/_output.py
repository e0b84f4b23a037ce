"""What a command prints: for people on standard error, one JSON object on standard output."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

__all__ = ["Json", "emit", "given", "progress", "say", "start_logging"]

Json = Annotated[bool, typer.Option("--json", help="Print exactly one JSON object on standard output.")]

_console = Console(stderr=True)


def start_logging(level: int = logging.WARNING) -> None:
    """Send the package's log to standard error; JSON on standard output stays alone."""
    logger = logging.getLogger("ptycho_bluesky")
    logger.setLevel(level)
    if not logger.handlers:
        logger.addHandler(RichHandler(console=_console, show_path=False, log_time_format="%H:%M:%S"))


def say(text: str) -> None:
    """Tell people what is happening: as it is, on one line, so that an address in it can be copied."""
    _console.print(text, highlight=False, markup=False, soft_wrap=True)


def given(**values: Any) -> dict[str, Any]:
    """Return the options that were given: those that are not None."""
    return {key: value for key, value in values.items() if value is not None}


def _plain(value: Any) -> Any:
    """Turn numbers of NumPy, paths and non-finite floats into JSON values."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    return value if value is None or isinstance(value, str | int | bool) else str(value)


def emit(result: dict[str, Any], as_json: bool) -> None:
    """Print a command's result: one JSON object, or a table of its keys."""
    plain = _plain(result)
    if as_json:
        typer.echo(json.dumps(plain, allow_nan=False))
        return
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column()
    table.add_column(overflow="fold")  # an address or a path is told to its end
    for key, value in plain.items():
        text = json.dumps(value) if isinstance(value, dict | list) else str(value)
        table.add_row(Text(key, style="bold"), Text(text))
    Console().print(table)


@contextmanager
def progress(description: str, total: int | None) -> Iterator[Any]:
    """Show a bar on standard error; yields ``update(done, text="")``."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[text]}"))
    with Progress(*columns, TimeElapsedColumn(), console=_console, transient=False) as bar:
        task = bar.add_task(description, total=total, text="")

        def update(done: int, text: str = "", total: int | None = None) -> None:
            bar.update(task, completed=done, text=text, total=total)

        yield update
