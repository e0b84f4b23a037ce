"""Which EPICS client ophyd takes, decided before ophyd is imported for the first time.

``import ophyd`` picks pyepics, else caproto, else none; caproto starts several threads and searches the network at
once. Simulated and replayed devices need no EPICS: where nobody has chosen, and pyepics is not there to be picked,
ophyd is imported with its ``dummy`` layer. A console with caproto devices says so, before or after:
``OPHYD_CONTROL_LAYER=caproto`` in the environment, or ``ophyd.set_cl("caproto")``.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys

__all__ = ["import_quietly"]

VARIABLE = "OPHYD_CONTROL_LAYER"


def import_quietly() -> None:
    """Import ophyd without starting threads that nobody asked for; do nothing where the choice has been made."""
    if "ophyd" in sys.modules or VARIABLE in os.environ or importlib.util.find_spec("epics") is not None:
        return
    os.environ[VARIABLE] = "dummy"
    try:
        importlib.import_module("ophyd")
    finally:
        del os.environ[VARIABLE]


import_quietly()
