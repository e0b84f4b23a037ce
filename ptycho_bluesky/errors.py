"""Every error that ptycho-bluesky raises on purpose.

.. code-block:: text

    PtychoError
    ├── ConfigurationError    a setting, a file of settings or an environment variable
    ├── DatasetError          frames, positions, geometry or metadata that do not fit together
    ├── FormatError           a file that cannot be read or written as what it claims to be
    ├── DeviceError           a device asked for what it cannot do, or stopped on its way
    ├── PlanError             a scan refused before anything moved
    ├── SourceError           a source of frames that cannot be opened, or that broke off
    ├── InferenceError        a network, its weights or the edge process
    ├── ReconstructionError   an engine, its options or its input
    ├── DispatchError         a job, its folder, the ledger or an executor
    │   ├── DispatcherAwayError  the dispatcher service does not answer
    │   └── FacilityError     a step at or on the way to a remote facility; ``kind`` says whose fault it is
    ├── CatalogError          Tiled: not reachable, or not holding what was asked for
    └── SessionError          a plan or a session asked for what its state does not allow

The text of each says what was given, what is allowed and what to do.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = [
    "CatalogError",
    "ConfigurationError",
    "DatasetError",
    "DeviceError",
    "DispatchError",
    "DispatcherAwayError",
    "FacilityError",
    "FormatError",
    "InferenceError",
    "PlanError",
    "PtychoError",
    "ReconstructionError",
    "SessionError",
    "SourceError",
    "report",
]


class PtychoError(Exception):
    """Base of all errors of this package; the command line prints its text in one line and exits with 1."""


class ConfigurationError(PtychoError):
    """A setting, a file of settings or an environment variable is wrong."""


class DatasetError(PtychoError):
    """Frames, positions, geometry or metadata do not fit together."""


class FormatError(PtychoError):
    """A file cannot be read or written as what it claims to be."""


class DeviceError(PtychoError):
    """A device was asked for what it cannot do, or was stopped on its way."""


class PlanError(PtychoError):
    """A scan was refused before anything moved."""


class SourceError(PtychoError):
    """A source of frames cannot be opened, or broke off."""


class InferenceError(PtychoError):
    """A network, its weights or the edge process is at fault."""


class ReconstructionError(PtychoError):
    """An engine, its options or its input is at fault."""


class DispatchError(PtychoError):
    """A job, its folder, the ledger or an executor is at fault."""


class DispatcherAwayError(DispatchError):
    """The dispatcher service does not answer."""


class FacilityError(DispatchError):
    """A step at a remote facility, or on the way there and back, failed.

    Parameters
    ----------
    text:
        What failed in the facility's words, and what to do.
    kind:
        Of the fault, as in a job's status: "machine" (may pass by itself), "user", "memory", "disk", "time"...
    """

    def __init__(self, text: str, kind: str = "machine") -> None:
        super().__init__(text)
        self.kind = kind


class CatalogError(PtychoError):
    """Tiled cannot be reached, or does not hold what was asked for."""


class SessionError(PtychoError):
    """A session, or a plan that runs in it, was asked for what its state does not allow."""


def report(title: str, faults: Sequence[str]) -> str:
    """Join several faults into one text under a `title`, so that all can be mended in one go.

    >>> print(report("scan refused", ["energy is missing", "x leaves its limits"]))
    scan refused (2 faults): energy is missing; x leaves its limits
    """
    count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
    return f"{title} ({count}): " + "; ".join(faults)
