"""Runtimes for networks: torch on CPU and CUDA, OpenVINO, ONNX Runtime, behind one protocol; "auto" measures them.

What a runtime computes is compared with torch in single precision when it is opened, and refused when it is another
network's output. Exported and compiled networks are kept below the settings' home.
"""

from ptycho_bluesky.inference.backends._choice import Choice, Measured, choose
from ptycho_bluesky.inference.backends._engines import PlainEngine, WholeEngine
from ptycho_bluesky.inference.backends._export import exported
from ptycho_bluesky.inference.backends._open import open_backend
from ptycho_bluesky.inference.backends._protocol import Backend, BackendOptions, Deviation, Engine, Made
from ptycho_bluesky.inference.backends._ready import plain_engine, probe_engine

__all__ = [
    "Backend",
    "BackendOptions",
    "Choice",
    "Deviation",
    "Engine",
    "Made",
    "Measured",
    "PlainEngine",
    "WholeEngine",
    "choose",
    "exported",
    "open_backend",
    "plain_engine",
    "probe_engine",
]
