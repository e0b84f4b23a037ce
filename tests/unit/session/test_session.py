"""A session without hardware: three lines, handles, sources, and nothing left behind."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
import pytest

from ptycho_bluesky import session
from ptycho_bluesky._session import Devices, Session
from ptycho_bluesky._session._source import SessionSource
from ptycho_bluesky.devices import simulated_beamline
from ptycho_bluesky.errors import ConfigurationError, PlanError, SessionError
from ptycho_bluesky.experiment import fermat
from ptycho_bluesky.stream import live_views

SMALL: dict[str, Any] = {"frame_size": 64, "field_m": (2e-6, 2e-6), "speedup": 1e6}
ALONE: dict[str, Any] = {"live": False, "dispatch": False, "tiled": False}
SOON = 30.0


@pytest.fixture
def s(tmp_path: Path, use_home: Callable[[Path], Path]) -> Iterator[Session]:
    use_home(tmp_path)
    with session(**ALONE, quiet=True, **SMALL) as made:
        yield made


def until(there: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SOON
    while not there():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def endless() -> Any:
    """A run that goes on until it is told otherwise."""

    @bpp.run_decorator()
    def inner() -> Any:
        while True:
            yield from bps.checkpoint()
            yield from bps.sleep(0.01)

    return inner()


def test_a_scan_in_the_background(s: Session) -> None:
    handle = s.scan(size_um=1.0, step_um=0.25, sample="star", md={"proposal": 7})
    assert handle.wait(SOON) is handle
    assert (handle.state, handle.exception) == ("done", None)
    assert s.news.uid == handle.uid
    assert s.news.frames == s.news.planned == len(s.news.measured)
    assert (s.news.start_document["sample"], s.news.start_document["proposal"]) == ("star", 7)
    assert "done" in repr(handle)


def test_at_the_prompt_as_ever(s: Session) -> None:
    (uid,) = s.RE(s.plan(size_um=1.0, step_um=0.25))
    assert s.news.uid == uid
    assert s.current is None


def test_in_flight(s: Session) -> None:
    handle = s.scan(size_um=1.0, step_um=0.25, fly=True).wait(SOON)
    assert s.news.start_document["plan_name"] == "ptycho_fly"
    assert s.news.frames == s.news.planned == len(s.news.measured)
    assert handle.state == "done"


def test_pause_resume_stop(s: Session) -> None:
    handle = s.run(endless())
    until(lambda: handle.uid is not None)
    assert handle.pause().state == "paused" == str(s.RE.state)
    assert ".resume()" in repr(handle)
    with pytest.raises(SessionError, match="one plan at a time"):
        s.scan()
    assert handle.resume().state == "running"
    assert handle.stop().state == "stopped"
    assert s.news.exit_status == "success"
    with pytest.raises(SessionError, match="has ended"):
        handle.pause()


@pytest.mark.parametrize("paused", [False, True])
def test_abort(s: Session, paused: bool) -> None:
    handle = s.run(endless())
    until(lambda: handle.uid is not None)
    if paused:
        handle.pause()
    assert handle.abort("enough").state == "aborted"
    assert s.news.exit_status == "abort"
    assert handle.wait(SOON).ended  # what was asked for is no failure


def test_what_fails_comes_out_of_wait(s: Session) -> None:
    handle = s.scan(size_um=1e4, step_um=1e3)
    with pytest.raises(PlanError, match="nothing has moved"):
        handle.wait(SOON)
    assert handle.state == "failed"
    assert "PlanError" in repr(handle)


def test_waiting_has_an_end(s: Session) -> None:
    handle = s.run(endless())
    with pytest.raises(SessionError, match=r"still running after 0\.01 s"):
        handle.wait(0.01)
    handle.stop()


def test_closing_ends_the_plan(s: Session) -> None:
    handle = s.run(endless())
    until(lambda: handle.uid is not None)
    s.close()
    s.close()
    assert handle.state == "aborted"
    assert "closed" in repr(s)
    with pytest.raises(SessionError, match="closed"):
        s.scan()


def test_one_session_at_a_time(s: Session) -> None:
    handle = s.run(endless())
    with pytest.raises(SessionError, match="in the open session"):
        session(**ALONE, quiet=True)
    handle.stop()
    with session(**ALONE, quiet=True, **SMALL):
        assert "closed" in repr(s)


def test_it_says_what_can_be_done(s: Session) -> None:
    text = repr(s)
    assert all(word in text for word in ("s.scan()", "s.run(plan)", "s.RE(plan)", "s.dashboard()", "s.close()"))
    assert all(len(line) < 120 for line in text.splitlines())


@pytest.mark.parametrize(
    "how, text",
    [
        ({"pattern": fermat(1e-6, 1e-6, 2e-7), "size_um": 1}, "give one of them"),
        ({"size_um": 1, "kind": "zigzag"}, "zigzag"),
    ],
)
def test_a_scan_that_makes_no_sense(s: Session, how: dict[str, Any], text: str) -> None:
    with pytest.raises(PlanError, match=text):
        s.scan(**how).wait(SOON)


# beamlines ------------------------------------------------------------------------------------------------------------

TOML = """
[stage]
make = "ptycho_bluesky.devices.SimulatedStage"
speedup = 1e6
[detector]
make = "tests_session_detector.make"
[metadata]
frames_key = "camera_image"
position_keys = ["stage_y", "stage_x"]
position_unit = "um"
geometry = {energy_kev = 8.8, distance_m = 2.0, detector_pixel_m = 75e-6}
[pattern]
name = "raster"
height_m = 4e-7
width_m = 4e-7
step_m = 2e-7
"""

DETECTOR = """
import numpy as np
from ophyd.sim import SynSignal

def make(name):
    return SynSignal(name="camera_image", func=lambda: np.ones((16, 16), np.uint16))
"""


def test_a_beamline_from_toml(
    tmp_path: Path, use_home: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    use_home(tmp_path / "home")
    (tmp_path / "tests_session_detector.py").write_text(DETECTOR)
    (tmp_path / "bl.toml").write_text(TOML)
    monkeypatch.syspath_prepend(tmp_path)
    with session(tmp_path / "bl.toml", **ALONE, quiet=True) as s:
        s.scan(min_overlap=None).wait(SOON)
        assert s.news.frames == 9
        with pytest.raises(PlanError, match="step has to be told"):
            s.scan(size_um=1)


def test_a_beamline_from_a_profile(tmp_path: Path, use_home: Callable[[Path], Path]) -> None:
    use_home(tmp_path / "home")
    startup = tmp_path / "bl" / "profile_ptycho" / "startup"
    startup.mkdir(parents=True)
    (startup / "00-re.py").write_text("from bluesky import RunEngine\nRE = RunEngine({'beamline_id': 'bl'})\n")
    (startup / "10-devices.py").write_text(
        "from ptycho_bluesky.devices import simulated_beamline\n"
        "beamline = simulated_beamline(frame_size=64, field_m=(1e-6, 1e-6), speedup=1e6)\n"
        "stage, detector, metadata = beamline.stage, beamline.detector, beamline.metadata\n"
    )
    with session(tmp_path / "bl", quiet=True, md={"proposal": 7}) as s:
        s.scan(min_overlap=None).wait(SOON)
        assert (s.name, s.live) == ("bl", None)
        assert (s.news.start_document["beamline_id"], s.news.start_document["proposal"]) == ("bl", 7)


@pytest.mark.parametrize(
    "given, text",
    [
        ("no-such-sample", "siemens-star"),
        ("missing.toml", "cannot be read"),
        (3, "allowed are"),
    ],
)
def test_no_beamline(
    given: Any, text: str, tmp_path: Path, use_home: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    use_home(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match=text):
        session(given, **ALONE)


@pytest.mark.parametrize(
    "change, text",
    [
        (("SimulatedStage", "NoStage"), "there is no"),
        (("speedup = 1e6", "colour = 1"), "refuses its arguments"),
        (("[stage]", "[stages]"), "2 faults"),
        (("[stage]", "[stage"), "no valid TOML"),
    ],
)
def test_a_toml_with_a_fault(
    change: tuple[str, str], text: str, tmp_path: Path, use_home: Callable[[Path], Path]
) -> None:
    use_home(tmp_path / "home")
    (tmp_path / "bl.toml").write_text(TOML.replace(*change))
    with pytest.raises(ConfigurationError, match=text):
        session(tmp_path / "bl.toml", **ALONE)


def test_options_that_do_not_fit(tmp_path: Path, use_home: Callable[[Path], Path]) -> None:
    use_home(tmp_path)
    beamline = simulated_beamline(frame_size=64, field_m=(1e-6, 1e-6))
    with pytest.raises(ConfigurationError, match="seed: only a simulated sample"):
        session(beamline, **ALONE, seed=3)
    with pytest.raises(ConfigurationError, match="dispatch=False"):
        session(tiled=False)
    with session(Devices(beamline.stage, beamline.detector, beamline.metadata), **ALONE, quiet=True) as s:
        with pytest.raises(PlanError, match="what is to be measured"):
            s.plan()
        with pytest.raises(PlanError, match="no flyer"):
            s.plan(size_um=1, fly=True)


# what a dashboard is given --------------------------------------------------------------------------------------------


def test_the_source_of_a_dashboard(s: Session) -> None:
    source = SessionSource(s)
    idle = source.snapshot()
    assert (idle.engine, idle.run_uid, idle.live, idle.stage) == ("idle", "", "", None)
    assert source.image(0) is None
    assert source.frame() is None
    s.scan(size_um=1.0, step_um=0.25, sample="star").wait(SOON)
    news = source.snapshot()
    assert (news.frames, news.expected, news.path_points) == (s.news.frames,) * 3
    assert news.title == "star, ptycho_scan"
    frame = source.frame()
    assert frame is not None
    assert frame.pixels.shape == (64, 64)
    assert frame.mask is not None
    assert frame.number == s.news.frames - 1
    # the path lies in the image, half a frame from where patches begin
    field_m = s.metadata.geometry.pixel_size_m(64) * 64
    assert source.path() == pytest.approx(s.news.path + field_m / 2)


def test_its_dashboard(s: Session) -> None:
    pytest.importorskip("anywidget", reason="needs anywidget (extra 'notebook')")
    board = s.dashboard()
    try:
        assert isinstance(board.source, SessionSource)
    finally:
        board.close()


def test_its_buttons(s: Session) -> None:
    source = SessionSource(s)
    with pytest.raises(SessionError, match="the RunEngine is idle"):
        source.act("pause")
    with pytest.raises(SessionError, match="no ptychography run"):
        source.act("dispatch")
    handle = s.run(endless())
    until(lambda: handle.uid is not None)
    source.act("pause")
    until(lambda: s.RE.state == "paused")
    source.act("resume")
    until(lambda: s.RE.state == "running")
    source.act("stop_and_keep")
    until(lambda: handle.ended)
    assert handle.state == "stopped"


@pytest.mark.parametrize("action, status", [("stop_and_keep", "success"), ("abort", "abort")])
def test_its_buttons_reach_a_plan_at_the_prompt(s: Session, action: Any, status: str) -> None:
    """The main thread is in RE(plan); buttons come from another one."""
    from bluesky.utils import RunEngineInterrupted

    source, seen = SessionSource(s), []

    def press() -> None:
        until(lambda: s.news.running)
        seen.append(source.snapshot().blocking)
        source.act(action)

    thread = threading.Thread(target=press)
    thread.start()
    with pytest.raises(RunEngineInterrupted):
        s.RE(endless())
    thread.join()
    assert seen == [True]
    assert s.news.exit_status == status


# the live image, and what is left -------------------------------------------------------------------------------------


@pytest.mark.timeout(200)
def test_the_live_image_of_a_session(tmp_path: Path, use_home: Callable[[Path], Path]) -> None:
    use_home(tmp_path)
    options = {"threads": 1, "backend": "torch"}
    with session(live=options, dispatch=False, tiled=False, quiet=True, **SMALL) as s:
        assert s.live is not None
        name = s.live.name
        handle = s.scan(size_um=1.5, step_um=0.25).wait(SOON)
        assert s.live.wait(2 * SOON)["frames_inferred"] == s.news.frames
        image, news = s.image(), s.source().snapshot()
        assert image is not None
        assert image.run_uid == handle.uid == news.run_uid
        assert news.inferred == s.news.frames
        assert s.source().image(0).number == image.number
        assert len(s.figure().axes) >= 3
        pid = s.live.status().pid
    assert name not in live_views()
    assert not Path(f"/proc/{pid}").exists()
    assert not list(Path("/dev/shm").glob(f"*{name}*"))


def test_it_begins_without_torch(tmp_path: Path) -> None:
    program = (
        "import sys, ptycho_bluesky; assert 'bluesky' not in sys.modules; ptycho_bluesky.session;"
        "heavy = {'torch', 'numba', 'matplotlib', 'IPython', 'anywidget'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60, cwd=tmp_path)
