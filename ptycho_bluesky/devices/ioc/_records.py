"""Process variables as an IOC knows them, whatever the protocol that serves them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ptycho_bluesky.errors import DeviceError

__all__ = ["Record", "Records"]

Put = Callable[[Any], Awaitable[None]]

ON_OFF = ("Off", "On")


@dataclass
class Record:
    """One process variable: a number, a text, a choice (an index of `choices`), or an image (H, W).

    A put ends when its function does: clients that wait for completion wait for the move, or for the frames.
    """

    name: str
    value: Any
    choices: tuple[str, ...] = ()
    units: str = ""
    precision: int = 4
    limits: tuple[float, float] | None = None
    long: bool = False
    """A text of more than 39 characters, which Channel Access has to send as a waveform of characters."""
    writable: bool = True
    on_put: Put | None = None
    """Called with the new value, which it posts itself; where None a put only posts it."""
    watchers: list[Callable[[Any], None]] = field(default_factory=list, repr=False)

    def post(self, value: Any) -> None:
        """Make `value` what clients read, and tell those who watch."""
        self.value = value
        for watcher in self.watchers:
            watcher(value)

    async def put(self, value: Any) -> None:
        """Do what a client's put asks for; return when that is done.

        Raises
        ------
        DeviceError
            When the variable cannot be written, or not to this value.
        """
        if not self.writable:
            raise DeviceError(f"{self.name} is read-only; it was given {value!r}")
        value = self.convert(value)
        if self.on_put is None:
            self.post(value)
        else:
            await self.on_put(value)

    def convert(self, value: Any) -> Any:
        """Return `value` in this variable's type.

        Raises
        ------
        DeviceError
            When it cannot be one, or is none of the choices.
        """
        if self.choices:
            return self._choice(value)
        try:
            return type(self.value)(value)
        except (TypeError, ValueError):
            raise DeviceError(f"{self.name} was given {value!r}; allowed is a {type(self.value).__name__}") from None

    def _choice(self, value: Any) -> int:
        if isinstance(value, str) and value in self.choices:
            return self.choices.index(value)
        if not isinstance(value, str) and 0 <= int(value) < len(self.choices):
            return int(value)
        raise DeviceError(f"{self.name} was given {value!r}; allowed are {', '.join(self.choices)}")


class Records:
    """All process variables of an IOC, by name; every name begins with `prefix`."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self._records: dict[str, Record] = {}

    def __getitem__(self, name: str) -> Record:
        return self._records[self.prefix + name]

    def __iter__(self) -> Iterator[Record]:
        return iter(self._records.values())

    def __len__(self) -> int:
        return len(self._records)

    def add(self, name: str, value: Any, **options: Any) -> Record:
        """Add a variable with its first `value` (a bool: the choice Off, On); `options` are fields of its Record."""
        if isinstance(value, bool):
            value, options = int(value), {"choices": ON_OFF, **options}
        record = Record(self.prefix + name, value, **options)
        self._records[record.name] = record
        return record

    def read_only(self, name: str, value: Any, **options: Any) -> Record:
        """Add a variable that clients cannot write; parameters as for :meth:`Records.add`."""
        return self.add(name, value, writable=False, **options)

    def pair(self, name: str, value: Any, **options: Any) -> Record:
        """Add a variable and its read-back, ``NAME_RBV``, as areaDetector has them; return the first.

        Parameters as for :meth:`Records.add`; what a put does (``on_put``) is the first one's alone.
        """
        record = self.add(name, value, **options)
        shown = {key: option for key, option in options.items() if key != "on_put"}
        record.watchers.append(self.read_only(name + "_RBV", value, **shown).post)
        return record

    def image(self, name: str, frame: npt.NDArray[Any]) -> Record:
        """Add an image (H, W), served by PV Access as NTNDArray."""
        return self.read_only(name, np.asarray(frame))
