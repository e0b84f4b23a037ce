"""Notebooks run in a kernel of their own, with small sizes, and are asked for their variables at the end."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import psutil
import pytest
from nbclient import NotebookClient

from ptycho_bluesky.config import settings
from ptycho_bluesky.errors import CatalogError

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
CELL_S = 300
"""Longest time of a cell, seconds: the machine may be busy."""


GONE_S = 20
"""Longest time for what was told to end, seconds."""


@dataclass(frozen=True)
class Ran:
    """A notebook that was run to its end."""

    facts: dict[str, Any]
    """What it was asked for."""
    pictures: int
    """PNGs among its outputs."""
    text: str
    """All that it printed and returned."""


def processes_of(folder: Path) -> list[psutil.Process]:
    """Return the processes that name `folder`."""
    found = psutil.process_iter(["cmdline", "status"])
    return [p for p in found if str(folder) in " ".join(p.info["cmdline"] or []) and p.info["status"] != "zombie"]


def catalog_there() -> Any:
    """Start the catalogue and return its client; on a busy machine its server is longer on its way than usual."""
    from ptycho_bluesky.catalog import connect

    deadline = time.monotonic() + CELL_S
    while True:
        try:
            return connect()
        except CatalogError:
            if time.monotonic() > deadline:
                raise


@pytest.fixture(scope="module")
def notebook_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home for all notebooks, as a user has one: the catalogue's server is started once."""
    from ptycho_bluesky.catalog import stop_server

    home = tmp_path_factory.mktemp("notebook-home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PTYCHO_BLUESKY_HOME", str(home))
        patch.delenv("PTYCHO_BLUESKY_TILED_URI", raising=False)
        settings.cache_clear()
        catalog_there().context.close()
        yield home
        stop_server()
    settings.cache_clear()
    _, left = psutil.wait_procs(processes_of(home), timeout=GONE_S)
    for process in left:
        process.kill()
    assert left == []


@pytest.fixture
def run_notebook(notebook_home: Path) -> Callable[..., Ran]:
    """Return a function that runs a notebook with other parameters and returns what it found.

    The values replace those of the cell that is tagged ``parameters``; `asked` are expressions, by name.
    """

    def run(name: str, values: dict[str, Any], asked: dict[str, str]) -> Ran:
        os.environ["PTYCHO_BLUESKY_HOME"] = str(notebook_home)
        notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
        (parameters,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
        parameters.source = "\n".join(f"{key} = {value!r}" for key, value in values.items())
        wanted = ", ".join(f"{key!r}: {text}" for key, text in asked.items())
        notebook.cells.append(nbformat.v4.new_code_cell(f"import json\nprint(json.dumps({{{wanted}}}, default=float))"))
        folder = {"metadata": {"path": str(NOTEBOOKS)}}
        NotebookClient(notebook, timeout=CELL_S, kernel_name="python3", resources=folder).execute()
        outputs = [out for cell in notebook.cells if cell.cell_type == "code" for out in cell.outputs]
        texts = [out.get("text") or out.get("data", {}).get("text/plain", "") for out in outputs]
        warned = [text for out, text in zip(outputs, texts, strict=True) if out.get("name") == "stderr"]
        assert not [text for text in warned if "Warning" in text], warned
        pictures = sum("image/png" in out.get("data", {}) for out in outputs)
        told = "".join(out.text for out in notebook.cells[-1].outputs if out.get("name") == "stdout")
        return Ran(json.loads(told), pictures, "\n".join(texts))

    return run
