"""A beamline at work in three lines: devices, RunEngine, live image, reconstruction and catalogue, held together."""

from __future__ import annotations

import atexit
import contextlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ptycho_bluesky._session._parts import console_of, own_parts, profile_parts
from ptycho_bluesky._session._running import Running
from ptycho_bluesky._session._scan import scan_plan
from ptycho_bluesky.callbacks import web_address
from ptycho_bluesky.errors import SessionError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ptycho_bluesky.dispatch import JobStatus
    from ptycho_bluesky.experiment import ScanPattern
    from ptycho_bluesky.stream import LiveImage, LiveView

__all__ = ["Session", "session"]

logger = logging.getLogger(__name__)

_open: list[Session] = []


class Session:
    """Everything that a scan needs, by one name; made by :func:`session`.

    Attributes
    ----------
    RE:
        The RunEngine: ``s.RE(plan)`` works as always, Ctrl-C included.
    beamline:
        ``stage``, ``detector``, ``metadata``, ``pattern`` and ``flyer``, which are also the session's own attributes.
    live:
        The :class:`~ptycho_bluesky.callbacks.LiveInference`; None without one.
    dispatch:
        The :class:`~ptycho_bluesky.callbacks.DispatchOnStop`; None without one.
    catalog:
        The Tiled client, connected in the background; None without one.
    news:
        Of the present run: a :class:`~ptycho_bluesky.callbacks.RunNews`.
    current:
        Handle of the plan that was run last; None before the first.
    """

    def __init__(
        self,
        beamline: Any = "siemens-star",
        *,
        live: bool | Mapping[str, Any] = True,
        dispatch: bool | Mapping[str, Any] = True,
        tiled: bool = True,
        quiet: bool = False,
        md: Mapping[str, Any] | None = None,
        **simulation: Any,
    ) -> None:
        self._closed = False
        self._view: LiveView | None = None
        self._dispatch_options = dict(dispatch) if isinstance(dispatch, Mapping) else {}
        if isinstance(beamline, str | Path) and Path(beamline).expanduser().is_dir():
            parts = profile_parts(Path(beamline).expanduser().absolute(), space := {"__name__": "__main__"})
            parts.RE.md |= dict(md or {})
            if "console" in space:  # the profile's own
                quiet = True
        else:
            parts = own_parts(beamline, live, dispatch, tiled=tiled, md=dict(md or {}), simulation=simulation)
        self.name, self.RE, self.catalog, self.beamline = parts.name, parts.RE, parts.catalog, parts.beamline
        self.live, self.dispatch = parts.live, parts.dispatch
        self.stage, self.detector, self.metadata = (
            getattr(self.beamline, n) for n in ("stage", "detector", "metadata")
        )
        self.pattern = getattr(self.beamline, "pattern", None)
        self.flyer = getattr(self.beamline, "flyer", None)
        self.current: Running | None = None
        self.news, self._console = console_of(self, quiet)
        self.quiet = quiet
        self._window = self._open_window()
        atexit.register(self.close)

    def _open_window(self) -> Any:
        """Follow the run in a window where matplotlib has one: a console with ``%matplotlib``, but no notebook."""
        import sys

        if self.quiet or "matplotlib.pyplot" not in sys.modules:
            return None
        from ptycho_bluesky.callbacks import RunFigure

        window = RunFigure(self.news, self.view)
        return window if window.open_window() else None

    # measuring --------------------------------------------------------------------------------------------------------

    def scan(
        self,
        pattern: ScanPattern | dict[str, Any] | None = None,
        *,
        size_um: float | tuple[float, float] | None = None,
        step_um: float | None = None,
        kind: str | None = None,
        center_um: tuple[float, float] = (0.0, 0.0),
        fly: bool = False,
        sample: str = "",
        md: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Running:
        """Measure a field of the sample in the background; its live image and its reconstruction follow by themselves.

        Parameters
        ----------
        pattern:
            Positions, metres; None for the beamline's own pattern, or for a field of `size_um`.
        size_um:
            Height and width of the field, micrometres; one number for a square.
        step_um:
            Distance of neighbouring positions, micrometres; 30 % of the probe's diameter unless told.
        kind:
            Of the path: "fermat" (default), "snake" (default in flight), "raster", "lissajous".
        center_um:
            Middle (row, column) of the field.
        fly:
            Whether to measure in flight.
        sample, md:
            Go into the run's metadata.
        **options:
            Of :func:`~ptycho_bluesky.plans.ptycho_scan`, or in flight :func:`~ptycho_bluesky.plans.ptycho_fly`.

        Returns
        -------
        Running
            The handle: ``.pause()``, ``.resume()``, ``.stop()``, ``.abort()``, ``.wait()``, ``.reconstruction()``.

        Examples
        --------
        >>> s.scan(size_um=2, step_um=0.25, sample="star").wait()  # doctest: +SKIP
        """
        field = {"size_um": size_um, "step_um": step_um, "kind": kind, "center_um": center_um}
        return self.run(self.plan(pattern, **field, fly=fly, sample=sample, md=md, **options))

    def plan(self, pattern: ScanPattern | dict[str, Any] | None = None, **how: Any) -> Any:
        """Return the plan of :meth:`scan`, with its arguments: for ``s.RE(...)``, ``dry_run``, or a plan of plans."""
        return scan_plan(self, pattern, **how)

    def run(self, plan: Any) -> Running:
        """Run any plan in a thread of its own and return its handle at once.

        Raises
        ------
        SessionError
            When a plan runs or is paused, or the session is closed.
        """
        self._usable()
        if self.RE.state != "idle" or (self.current is not None and not self.current.ended):
            raise SessionError(
                f"the RunEngine is {self.RE.state}; one plan at a time: s.current.wait(), .resume() or .abort() first"
            )
        self.current = Running(self, plan)
        return self.current

    def _usable(self) -> None:
        if self._closed:
            raise SessionError("the session is closed; open another one: s = session()")

    # looking ----------------------------------------------------------------------------------------------------------

    @property
    def view(self) -> LiveView | None:
        """Reader of the live image; None where there is none."""
        if self._view is None and self.live is not None and not self._closed:
            from ptycho_bluesky.stream import LiveView

            self._view = LiveView(self.live.name)
        return self._view

    def image(self) -> LiveImage | None:
        """Return the live image: phase, amplitude, confidence (Y, X) float32; None before the first."""
        return None if self.view is None else self.view.image()

    def figure(self) -> Figure:
        """Return a plot of the run as it is now: path, coverage, live phase."""
        from ptycho_bluesky.callbacks import RunFigure

        return RunFigure(self.news, self.view).draw()

    def dashboard(self, **options: Any) -> Any:
        """Return the live dashboard; a notebook shows it as a cell's last line.

        Raises
        ------
        ConfigurationError
            When the widgets are not installed.
        """
        self._usable()
        from ptycho_bluesky.jupyter import Dashboard

        return Dashboard(self.source(), **options)

    def source(self) -> Any:
        """Return what a dashboard shows and acts upon: a :class:`~ptycho_bluesky.jupyter.DashboardSource`."""
        from ptycho_bluesky._session._source import SessionSource

        return SessionSource(self)

    # reconstructions --------------------------------------------------------------------------------------------------

    @property
    def jobs(self) -> list[JobStatus]:
        """The jobs of this session's runs, newest first."""
        from ptycho_bluesky.dispatch import Ledger

        ledger = Ledger()
        return [ledger.status(job) for job in reversed(self.dispatched())]

    def dispatched(self) -> dict[str, str]:
        """Return the run of each job that this session has sent off, oldest first."""
        from ptycho_bluesky.dispatch import Ledger

        ids = list(dict.fromkeys(self.dispatch.job_ids)) if self.dispatch is not None else []
        ledger = Ledger() if ids else None
        return {job: str(ledger.job(job).spec().raw_uid or "") for job in ids} if ledger is not None else {}

    def reconstruction(self, job_id: str | None = None, timeout: float = 3600.0) -> Any:
        """Wait for a job, the last one unless told, and return its result as it stands in Tiled.

        Raises
        ------
        SessionError
            When there is no job, or its result is not in Tiled.
        DispatchError
            When it failed, or the time is over.
        """
        from ptycho_bluesky.catalog import find_reconstructions
        from ptycho_bluesky.dispatch import wait
        from ptycho_bluesky.errors import DispatchError

        known = self.dispatched()
        wanted = job_id or next(reversed(known), None)
        if wanted is None:
            raise SessionError("nothing has been dispatched yet; s.scan() first")
        done = wait(wanted, timeout)
        if done.state != "done":
            raise DispatchError(f"job {wanted} ended as {done.state}: {done.reason or 'ptycho-bluesky jobs logs'}")
        for node in find_reconstructions(self.catalog, known.get(wanted, "")):
            if node.metadata["job_id"] == done.job_id:
                return node
        raise SessionError(f"the result of job {wanted} is not in Tiled yet: ptycho-bluesky jobs show {wanted}")

    def send_off(self) -> str:
        """Submit the reconstruction of the last run, whether or not that happened by itself; returns what was done.

        Raises
        ------
        SessionError
            When there is no run yet, or no Tiled to read it from.
        """
        from ptycho_bluesky.dispatch import JobSpec, TiledSource, submit

        uid = self.news.uid
        if not uid or self.news.metadata is None or self.catalog is None:
            raise SessionError("there is no ptychography run in Tiled to reconstruct; s.scan() first")
        told = {key: value for key, value in self._dispatch_options.items() if key in ("engine", "options", "device")}
        job = submit(JobSpec(source=TiledSource(uid=uid), raw_uid=uid, **told))
        if self.dispatch is not None:
            self.dispatch.job_ids.append(job)
        return f"job {job} is on its way" + ("; it begins when the run has ended" if self.news.running else "")

    def web_address(self) -> str | None:
        """Return the address of Tiled's web page, without a key; None while Tiled is not connected.

        The embedded server asks for the key that is in ``tiled/api_key`` of the settings' home.
        """
        return web_address(self.catalog)

    # the end ----------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """End it: a plan that still runs is aborted, edge process and shared memory go; jobs and Tiled's data stay."""
        if self._closed:
            return
        self._closed = True
        atexit.unregister(self.close)
        if self.current is not None and not self.current.ended:
            with contextlib.suppress(SessionError):  # it has just ended by itself
                self.current.abort("the session was closed")
        for part in (self._window, self._view, self._console, self.live):
            if part is not None:
                part.close()
        if self in _open:
            _open.remove(self)

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        if self._closed:
            return "<session, closed; open another one: s = session()>"
        states = [job.state for job in self.jobs] if self.dispatch is not None else []
        jobs = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states)) or "none yet"
        running = f"\n  s.current     {self.current!r}" if self.current is not None else ""
        live = "" if self.live is None else f"\n  s.live        {self.live.status().state}; s.image() is the image now"
        return f"""session: {self.name}, RunEngine {self.RE.state}{running}
  s.scan()      measure in the background; s.scan(size_um=2, step_um=0.25, sample="..."); help(s.scan)
  s.run(plan)   any plan in the background: .pause() .resume() .stop() .abort() .wait()
  s.RE(plan)    the same at the prompt, as ever; s.plan(...) is the plan of s.scan(...)
  s.dashboard() the live dashboard of a notebook; s.figure() a plot; elsewhere: ptycho-bluesky watch{live}
  s.jobs        reconstructions: {jobs}; s.reconstruction() waits for the last one
  s.catalog     {self.web_address() or "Tiled is being connected" if self.catalog is not None else "none"}
  s.stage, s.detector, s.metadata, s.pattern; s.close() ends it"""


def session(
    beamline: Any = "siemens-star",
    *,
    live: bool | Mapping[str, Any] = True,
    dispatch: bool | Mapping[str, Any] = True,
    tiled: bool = True,
    quiet: bool = False,
    md: Mapping[str, Any] | None = None,
    **simulation: Any,
) -> Session:
    """Return a beamline at work: RunEngine, devices, live image, reconstruction on stop, Tiled.

    One at a time: where a session is open, it is closed first, unless a plan runs in it.

    Parameters
    ----------
    beamline:
        A simulated sample: "siemens-star", "cells", "foam", "integrated-circuit". Of a real beamline the folder of its
        profile (``ptycho-bluesky profile new``), a TOML file with its devices, or an object with ``stage``,
        ``detector`` and ``metadata``.
    live:
        Whether there is a live image; a mapping has options of :class:`~ptycho_bluesky.callbacks.LiveInference`.
        A profile decides itself on this and the next two.
    dispatch:
        Whether runs are reconstructed when they stop; a mapping has options of
        :class:`~ptycho_bluesky.callbacks.DispatchOnStop`.
    tiled:
        Whether runs go to Tiled: the configured server, or the embedded one, which is started where none is alive.
    quiet:
        Nothing is written to the console.
    md:
        Metadata of every run: proposal, sample...
    **simulation:
        More arguments of :func:`~ptycho_bluesky.devices.simulated_beamline`, e.g. ``photons_per_frame=1e5``.

    Raises
    ------
    ConfigurationError
        When the beamline cannot be made of what was given.
    SessionError
        When a plan runs in the session that is open.

    Examples
    --------
    >>> from ptycho_bluesky import session
    >>> s = session()  # doctest: +SKIP
    >>> s.scan()  # doctest: +SKIP
    """
    for other in list(_open):
        if other.current is not None and not other.current.ended:
            raise SessionError(
                f"a plan is {other.current.state} in the open session; wait for it, or close() that first"
            )
        other.close()
    made = Session(beamline, live=live, dispatch=dispatch, tiled=tiled, quiet=quiet, md=md, **simulation)
    _open.append(made)
    return made
