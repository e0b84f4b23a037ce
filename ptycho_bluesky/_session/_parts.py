"""The parts of a session: put together here, or by the startup files of a beamline's profile."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bluesky import RunEngine
from bluesky.utils import DefaultDuringTask, RequestAbort, RequestStop, SigintHandler

from ptycho_bluesky._session._beamline import Devices, beamline_from
from ptycho_bluesky.callbacks import Console, DispatchOnStop, LiveInference, RunNews
from ptycho_bluesky.catalog import CatalogLater, connect_later, resend_backups, tiled_writer
from ptycho_bluesky.errors import ConfigurationError

if TYPE_CHECKING:
    from ptycho_bluesky._session._session import Session

__all__ = ["Parts", "own_parts", "profile_parts"]

STARTUP = Path("profile_ptycho") / "startup"


@dataclass
class Parts:
    """What a session holds together."""

    name: str
    RE: Any
    catalog: Any
    beamline: Any
    live: LiveInference | None
    dispatch: DispatchOnStop | None


class WaitHere(DefaultDuringTask):  # type: ignore[misc]
    """While a plan runs the windows of the main thread are served by the main thread alone."""

    def block(self, blocking_event: Any) -> None:
        """Wait for the plan."""
        if threading.current_thread() is threading.main_thread():
            super().block(blocking_event)
        else:
            blocking_event.wait()


def interruptible(RE: Any) -> Any:
    """Let Ctrl-C pause a plan that runs in the main thread; elsewhere Python takes no signals."""
    return SigintHandler(RE) if threading.current_thread() is threading.main_thread() else contextlib.nullcontext()


def not_asked_for(record: logging.LogRecord) -> bool:
    """Pass over the traceback with which the RunEngine answers whoever has just asked it to abort."""
    return not (record.exc_info and record.exc_info[0] in (RequestAbort, RequestStop))


def in_any_thread(RE: Any) -> None:
    """Let `RE` be called from a thread of its own as well as from the prompt."""
    RE.context_managers = [interruptible]
    RE.log.logger.addFilter(not_asked_for)
    RE._during_task = WaitHere()


def own_parts(
    beamline: Any,
    live: bool | Mapping[str, Any],
    dispatch: bool | Mapping[str, Any],
    *,
    tiled: bool,
    md: Mapping[str, Any],
    simulation: Mapping[str, Any],
) -> Parts:
    """Return a RunEngine with everything subscribed."""
    from ptycho_bluesky.dispatch import register_pending

    if dispatch and not tiled:
        raise ConfigurationError("a reconstruction reads the run from Tiled; with tiled=False give dispatch=False too")
    RE = RunEngine({"user": os.environ.get("USER", ""), **md})  # before the devices: asynchronous ones live in its loop
    in_any_thread(RE)
    devices, name = beamline_from(beamline, simulation)
    catalog: CatalogLater | None = None
    if tiled:
        catalog = connect_later(resend_backups, register_pending)
        RE.subscribe(tiled_writer(catalog))
    inference = LiveInference(**_options(live)) if live else None
    if inference is not None:
        RE.subscribe(inference)
    on_stop = DispatchOnStop(**_options(dispatch)) if dispatch else None
    if on_stop is not None:
        RE.subscribe(on_stop)
    return Parts(name, RE, catalog, devices, inference, on_stop)


def _options(given: bool | Mapping[str, Any]) -> dict[str, Any]:
    return dict(given) if isinstance(given, Mapping) else {}


def profile_parts(folder: Path, space: dict[str, Any]) -> Parts:
    """Run the startup files of a profile, in order and in the namespace `space`, and return what they made.

    Raises
    ------
    ConfigurationError
        When there are none, or they leave something undefined.
    """
    startup = next((f for f in (folder / STARTUP, folder / "startup", folder) if list(f.glob("*.py"))), None)
    if startup is None:
        raise ConfigurationError(f"{folder} has no {STARTUP}; make a profile by `ptycho-bluesky profile new NAME`")
    for file in sorted(startup.glob("*.py")):
        exec(compile(file.read_text(), str(file), "exec"), space)
    if missing := [name for name in ("RE", "stage", "detector", "metadata") if name not in space]:
        raise ConfigurationError(f"the startup files in {startup} leave {', '.join(missing)} undefined")
    in_any_thread(space["RE"])
    fallback = space.get("beamline")
    devices = Devices(
        space["stage"],
        space["detector"],
        space["metadata"],
        space.get("pattern", getattr(fallback, "pattern", None)),
        space.get("flyer", getattr(fallback, "flyer", None)),
    )
    return Parts(folder.name, space["RE"], space.get("catalog"), devices, space.get("live"), space.get("dispatch"))


def console_of(session: Session, quiet: bool) -> tuple[RunNews, Console | None]:
    """Subscribe the console, or, where it is to be silent, what counts frames for handles and dashboards."""
    if quiet:
        news = RunNews()
        session.RE.subscribe(news)
        return news, None
    console = Console(session.live, catalog=session.catalog, dispatch=session.dispatch)
    session.RE.subscribe(console)
    session.RE.waiting_hook = console.waiting
    return console.news, console
