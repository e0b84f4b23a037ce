"""From a URI to a source."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from ptycho_bluesky.errors import SourceError, report
from ptycho_bluesky.stream.sources._eiger_source import EigerSource
from ptycho_bluesky.stream.sources._hdf5_source import Hdf5Source
from ptycho_bluesky.stream.sources._pva_source import PvaSource
from ptycho_bluesky.stream.sources._queue import BackPressure
from ptycho_bluesky.stream.sources._receiver import ReceivingSource
from ptycho_bluesky.stream.sources._ring_source import RingSource

__all__ = ["SOURCES", "open_source"]

Given = dict[str, str]


def _one_of(name: str, given: Given, *allowed: str) -> str:
    value = given.get(name, allowed[0])
    if value not in allowed:
        raise SourceError(f"{name}={value!r}; give one of {', '.join(allowed)}")
    return value


def _ring(where: SplitResult, given: Given, back_pressure: BackPressure) -> ReceivingSource:
    return RingSource(where.netloc, back_pressure)


def _hdf5(where: SplitResult, given: Given, back_pressure: BackPressure) -> ReceivingSource:
    frames = given.get("frames")
    if frames is not None and not frames.isdecimal():
        raise SourceError(f"frames={frames!r}; give how many frames the file will hold")
    return Hdf5Source(
        Path(unquote(where.path)),
        where.fragment,
        index=given.get("index"),
        times=given.get("times"),
        epoch=_one_of("epoch", given, "1970", "1990"),
        frames=None if frames is None else int(frames),
        back_pressure=back_pressure,
    )


def _pva(where: SplitResult, given: Given, back_pressure: BackPressure) -> ReceivingSource:
    return PvaSource(unquote(where.netloc + where.path), back_pressure)


def _eiger(where: SplitResult, given: Given, back_pressure: BackPressure) -> ReceivingSource:
    return EigerSource(
        where.hostname or "",
        where.port or 0,
        channel=given.get("channel"),
        subscribe=_one_of("socket", given, "pull", "sub") == "sub",
        back_pressure=back_pressure,
    )


Maker = Callable[[SplitResult, Given, BackPressure], ReceivingSource]

SOURCES: dict[str, tuple[Maker, str, tuple[str, ...]]] = {
    "ring": (_ring, "ring://NAME", ()),
    "hdf5": (
        _hdf5,
        "hdf5:///FOLDER/FILE.h5?index=/DATASET&times=/DATASET&epoch=1990&frames=COUNT#/DATASET",
        ("index", "times", "epoch", "frames"),
    ),
    "pva": (_pva, "pva://RECORD", ()),
    "eiger": (_eiger, "eiger://HOST:PORT?channel=NAME&socket=sub", ("channel", "socket")),
}
"""For each scheme: what makes the source, how its URI looks, and its options (all may be left out)."""


def open_source(uri: str, policy: BackPressure | None = None) -> ReceivingSource:
    """Open a source of frames and begin to receive.

    What the URI names need not be there yet: the source waits for it, and says so in ``connected`` and ``fault``.

    Parameters
    ----------
    uri:
        ``ring://NAME``, ``hdf5:///FOLDER/FILE.h5#/DATASET``, ``pva://RECORD`` or ``eiger://HOST:PORT``; the options of
        ``SOURCES`` go between ``?`` and ``#``.
    policy:
        What happens to frames that are not read in time; None for ``BackPressure()``.

    Raises
    ------
    SourceError
        When the URI is none of these, or a package is missing.
    InferenceError
        When the name of a ring is none.
    """
    try:
        where = urlsplit(uri)
        port = where.port if where.scheme == "eiger" else None
    except ValueError as error:
        raise SourceError(f"source {uri!r}: {error}; give {SOURCES['eiger'][1]}") from error
    if where.scheme not in SOURCES:
        known = ", ".join(form for _, form, _ in SOURCES.values())
        raise SourceError(f"source {uri!r} has scheme {where.scheme!r}; give one of: {known}")
    make, form, options = SOURCES[where.scheme]
    given = dict(parse_qsl(where.query))
    faults = [f"{name!r} is no option" for name in given if name not in options]
    if where.scheme in ("ring", "pva") and not where.netloc:
        faults.append("no name")
    if where.scheme == "hdf5":
        faults += ["no file"] * (len(where.path) < 2) + ["no dataset after '#'"] * (not where.fragment)
        faults += [f"{where.netloc!r} stands where nothing may (three slashes, then the path)"] * bool(where.netloc)
    if where.scheme == "eiger" and not (where.hostname and port):
        faults.append("no host or no port")
    if faults:
        raise SourceError(report(f"source {uri!r}", faults) + f"; give {form}")
    return make(where, given, policy or BackPressure()).start()
