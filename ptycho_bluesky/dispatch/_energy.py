"""Energy that this machine's NVIDIA GPUs took, where their driver tells."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from types import ModuleType
from typing import Any

__all__ = ["EnergyMeter", "metered"]


def _visible(count: int) -> list[int]:
    """Return the numbers of the GPUs that this process may use; all where their names are no numbers."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    numbers = [int(part) for part in given.split(",") if part.strip().isdigit()]
    return [number for number in numbers if number < count] or list(range(count))


class EnergyMeter:
    """Counts from when it is made; without a GPU, its driver or ``nvidia-ml-py`` it counts nothing."""

    def __init__(self) -> None:
        self._nvml: ModuleType | None = None
        self._handles: list[Any] = []
        self._read: int | None = None
        with contextlib.suppress(ImportError):
            import pynvml

            with contextlib.suppress(pynvml.NVMLError):
                pynvml.nvmlInit()
                numbers = _visible(pynvml.nvmlDeviceGetCount())
                self._nvml, self._handles = pynvml, [pynvml.nvmlDeviceGetHandleByIndex(i) for i in numbers]
        self._began = self._counters()

    def _counters(self) -> int | None:
        """Return the sum of the GPUs' counters, mJ since their driver was loaded; None where there is none."""
        if self._nvml is None or not self._handles:
            return None
        with contextlib.suppress(self._nvml.NVMLError):  # cards before Volta
            return sum(int(self._nvml.nvmlDeviceGetTotalEnergyConsumption(handle)) for handle in self._handles)
        return None

    def stop(self) -> None:
        """End the count."""
        self._read = self._counters()
        if self._nvml is not None:
            with contextlib.suppress(self._nvml.NVMLError):
                self._nvml.nvmlShutdown()

    def joules(self) -> float | None:
        """Return the energy of all visible GPUs of this node between begin and end, J; other jobs' share included."""
        return None if self._began is None or self._read is None else (self._read - self._began) / 1e3


@contextlib.contextmanager
def metered() -> Iterator[EnergyMeter]:
    """Count for the length of a block."""
    meter = EnergyMeter()
    try:
        yield meter
    finally:
        meter.stop()
