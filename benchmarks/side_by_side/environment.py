"""The peers' own environment, made by the benchmark: a virtual environment below the user's cache folder, reused.

The package index and the kind of torch (CPU or CUDA) are those of the user's pip; torch has the version of ours.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

PEERS = ("ptychi==2.2.0", "cdtools-py==0.3.2")
NEEDED = (
    "h5py", "matplotlib", "numpy", "pandas", "pydantic", "python-dateutil",
    "scikit-image", "scikit-learn", "scipy", "tqdm",
)  # fmt: skip
"""What the peers import. pty-chi also asks for mypy, pytest, ruff and torchvision, and runs without them."""

FFTW = "pyfftw==0.15.1"
"""For the floor; its licence is the GPL, so it stays in this environment."""


class NoPeersError(Exception):
    """The environment could not be made; the text says why."""


def environment() -> Path:
    """Return the environment's interpreter; make it if it is not there.

    Raises
    ------
    NoPeersError
        When it cannot be made.
    """
    torch = f"torch=={version('torch').split('+')[0]}"
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    name = "-".join(["peers", f"py{sys.version_info[0]}{sys.version_info[1]}", torch.replace("==", "")])
    folder = caches / "ptycho-bluesky" / name
    python, stamp = folder / "bin" / "python", folder / "installed.txt"
    wanted = "\n".join([torch, *PEERS, *NEEDED, FFTW])
    if python.exists() and stamp.exists() and stamp.read_text() == wanted:
        return python
    steps = [
        [sys.executable, "-m", "venv", "--clear", str(folder)],
        *([str(python), "-m", "pip", "install", "--quiet", *what] for what in ([torch], [*NEEDED, FFTW])),
        [str(python), "-m", "pip", "install", "--quiet", "--no-deps", *PEERS],
    ]
    for step in steps:
        try:
            done = subprocess.run(step, capture_output=True, text=True, timeout=1800, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise NoPeersError(f"{' '.join(step[1:])}: {type(error).__name__}: {error}") from error
        if done.returncode:
            reason = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["no reason given"]
            raise NoPeersError(f"{' '.join(step[1:])}: {reason[-1]}")
    stamp.write_text(wanted)
    return python
