"""Runtimes for networks: torch on CPU and CUDA, OpenVINO, ONNX Runtime, behind one protocol; "auto" measures them.

What a runtime computes is compared with torch in single precision when it is opened, and refused when it is another
network's output. Exported and compiled networks are kept below the settings' home.
"""

from ptycho_bluesky.inference.backends._choice import Choice, Measured, choose
from ptycho_bluesky.inference.backends._engines import Engine, Made, PlainEngine, ProbeEngine, WholeEngine
from ptycho_bluesky.inference.backends._export import exported
from ptycho_bluesky.inference.backends._open import open_backend
from ptycho_bluesky.inference.backends._physics import ProbePhysics, can_do, example_frames
from ptycho_bluesky.inference.backends._protocol import Backend, BackendOptions, Deviation
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
    "ProbeEngine",
    "ProbePhysics",
    "WholeEngine",
    "can_do",
    "choose",
    "example_frames",
    "exported",
    "open_backend",
    "plain_engine",
    "probe_engine",
]
