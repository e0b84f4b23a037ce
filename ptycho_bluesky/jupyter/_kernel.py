"""How a widget hears its browsers while the kernel's main thread runs a cell."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from typing import Any

__all__ = ["KernelEar"]

LATE_S = 0.3


class KernelEar:
    """Lets messages of one comm through to a thread of their own, and tells whether that works.

    JupyterLab sends widgets' messages to a *subshell*, a thread of the kernel that is free while a cell runs. From
    ipykernel 7.4 on, the kernel sends them back to whichever shell displayed the widget: the busy main one. A widget
    whose handlers are safe in any thread has no need of that, so it is switched off for this comm; where a front end
    has no subshells, :meth:`hears` says so, and buttons go by an interrupt.
    """

    def __init__(self) -> None:
        self.kernel_id = ""
        """As the Jupyter server calls the kernel; empty outside of one."""
        self._loop: Any = None
        self._asked = self._answered = 0.0
        with contextlib.suppress(ImportError, RuntimeError):
            from ipykernel import get_connection_file
            from ipykernel.kernelbase import Kernel

            if Kernel.initialized():
                self._loop = Kernel.instance().io_loop
                found = re.search(r"kernel-([0-9a-f-]+)\.json$", get_connection_file())
                self.kernel_id = found.group(1) if found else ""

    @staticmethod
    def listen(comm: Any) -> None:
        """Leave it to the browser in which thread a message of this comm arrives."""
        if hasattr(comm, "_reply_subshell_for"):
            comm._reply_subshell_for = None

    def hears(self) -> bool:
        """Tell whether the kernel's main thread is free to take messages, as seen within the last 0.3 s.

        Cheap; the answer comes from a question put to the main thread's loop, so that the first call is always True.
        """
        if self._loop is None or threading.current_thread() is threading.main_thread():
            return True
        now = time.monotonic()
        if self._answered >= self._asked:
            self._asked = now
            self._loop.add_callback(self._answer)
            return True
        return now - self._asked < LATE_S

    def _answer(self) -> None:
        self._answered = time.monotonic()
