"""Ptychography inside Bluesky.

.. code-block:: text

    devices -> plans -> documents and frames -> live inference -> live image
                              |
                              +-> dispatch -> reconstruction -> Tiled, beside the raw run

The folders stand in the order in which data travels: ``experiment``, ``optics``, ``formats``, ``devices``, ``plans``,
``stream``, ``callbacks``, ``inference``, ``reconstruction``, ``dispatch``, ``catalog``, ``cli``.

``from ptycho_bluesky import session; s = session()`` is a beamline at work, simulated unless told otherwise.
"""

from importlib import import_module
from importlib.metadata import version
from typing import Any

__all__ = ["__version__", "session"]

__version__ = version("ptycho-bluesky")


def __getattr__(name: str) -> Any:
    if name == "session":  # when it is asked for, since it brings along Bluesky and the devices
        return import_module("ptycho_bluesky._session").session
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
