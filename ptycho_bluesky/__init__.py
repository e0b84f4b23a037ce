"""Ptychography inside Bluesky.

.. code-block:: text

    devices -> plans -> documents and frames -> live inference -> live image
                              |
                              +-> dispatch -> reconstruction -> Tiled, beside the raw run

The folders stand in the order in which data travels: ``experiment``, ``optics``, ``formats``, ``devices``, ``plans``,
``stream``, ``callbacks``, ``inference``, ``reconstruction``, ``dispatch``, ``catalog``, ``cli``.
"""

from importlib.metadata import version

__all__ = ["__version__"]

__version__ = version("ptycho-bluesky")
