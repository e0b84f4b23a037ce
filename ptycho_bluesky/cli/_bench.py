"""``ptycho-bluesky bench``: the measurements beside peers, from a checkout."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from ptycho_bluesky.errors import PtychoError

__all__ = ["bench"]


def _folder() -> Path:
    """Return where the benchmarks are in a checkout; they are no part of the installed package."""
    return Path(__file__).parents[2] / "benchmarks"


def bench(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Or the beginning of a name; what follows goes to the benchmark.")],
) -> None:
    """Measure this package beside its peers: bench reconstruction --picture bench.png --json.

    bench NAME --help lists the options of a benchmark.
    """
    known = {script.stem: script for script in sorted(_folder().glob("*.py"))}
    if not known:
        raise PtychoError(
            "the benchmarks are not installed with the package; get the repository and run "
            f"'pip install --editable .' and 'ptycho-bluesky bench {name}' there"
        )
    meant = [name] if name in known else [one for one in known if one.startswith(name)]
    if len(meant) != 1:
        raise PtychoError(f"there is no benchmark {name!r}; there are {', '.join(known)}")
    raise typer.Exit(subprocess.run([sys.executable, str(known[meant[0]]), *context.args], check=False).returncode)
