"""What a console says of a run, and what a figure shows of it."""

from __future__ import annotations

import io
import logging
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from event_model import compose_run

from ptycho_bluesky.callbacks import Console, RunFigure, RunNews
from ptycho_bluesky.experiment import Geometry, PatternInfo, PtychographyMetadata, raster
from ptycho_bluesky.stream import LiveImage

PATTERN = raster(8e-7, 8e-7, 2e-7)
METADATA = PtychographyMetadata(
    frames_key="camera",
    position_keys=("sy", "sx"),
    position_unit="um",
    axis_signs=(-1, 1),
    geometry=Geometry(energy_kev=8.8, distance_m=1.0, detector_pixel_m=75e-6),
    pattern=PatternInfo(name="raster", parameters=PATTERN.parameters, num_points=len(PATTERN)),
)
KEYS = {"source": "test", "dtype": "number", "shape": []}


class Run:
    """Documents of a step scan, one by one."""

    def __init__(self, *takers: Any, **start: Any) -> None:
        self.takers = takers
        more = {"num_points": len(PATTERN), "plan_name": "ptycho_scan", "scan_id": 7, **start}
        self.bundle = compose_run(metadata={"ptychography": METADATA.to_start(), **more})
        self.emit("start", self.bundle.start_doc)
        keys = {name: dict(KEYS) for name in ("sy", "sx")} | {"camera": {**KEYS, "dtype": "array", "shape": [4, 4]}}
        self.stream = self.bundle.compose_descriptor(name="primary", data_keys=keys)
        self.emit("descriptor", self.stream.descriptor_doc)

    def emit(self, name: str, doc: Any) -> None:
        for taker in self.takers:
            taker(name, doc)

    def frame(self, k: int) -> None:
        y, x = PATTERN.positions[k] * 1e6
        data = {"sy": -y, "sx": x, "camera": np.full((4, 4), k)}
        self.emit("event", self.stream.compose_event(data=data, timestamps=dict.fromkeys(data, 0.0)))

    def stop(self, **how: Any) -> None:
        self.emit("stop", self.bundle.compose_stop(**how))


class Status:
    def watch(self, tell: Any) -> None:
        tell(name="theta", current=3.0, initial=0.0, target=90.0, unit="deg", time_remaining=240.0)


def live(uid: str, **more: Any) -> Any:
    status = SimpleNamespace(run_uid=uid, frames_inferred=11, confidence=0.874, **more)
    return SimpleNamespace(status=lambda: status)


def test_a_run_in_a_few_lines() -> None:
    out = io.StringIO()
    catalog = SimpleNamespace(context=SimpleNamespace(api_uri="http://tiled:8000/api/v1/"))
    dispatch = SimpleNamespace(job_ids=["of an earlier run"], failures=[])
    console = Console(catalog=catalog, dispatch=dispatch, stream=out)
    run = Run(console, sample="star")
    console._live = live(run.bundle.start_doc["uid"])
    for k in range(len(PATTERN)):
        run.frame(k)
    dispatch.job_ids.append("j-1")
    run.stop()
    lines = out.getvalue().splitlines()
    uid = run.bundle.start_doc["uid"]
    assert lines[1].startswith(f"Scan 7  {uid[:8]}  ptycho_scan  25 points  star  begun at ")
    assert lines[2].split() == ["frame", "time", "y", "(um)", "x", "(um)", "live", "confidence"]
    assert lines[3].split()[0] == "1"  # 25 frames within a second: one row
    assert lines[3].split()[2:] == ["-0.400", "-0.400", "11", "0.87"]
    assert lines[4].startswith("Scan 7 done; 25 frames in ")
    assert lines[4].endswith("; 11 in the live image, confidence 0.87")
    assert lines[5:] == [
        f"  data            http://tiled:8000/ui/browse/raw/{uid}",
        "  reconstruction  ptycho-bluesky jobs show j-1",
    ]


def test_rows_come_the_rarer_the_longer_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    out, now = io.StringIO(), [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "time", lambda: now[0])
    console = Console(stream=out)
    run = Run(console)
    console.news.began = now[0]
    console.news.planned = 72_000
    for _ in range(1440):
        now[0] += 5.0
        run.frame(0)
    rows = len(out.getvalue().splitlines()) - 3
    assert 80 < rows < 150


def test_the_line_that_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    console = Console(stream=out, moving=False)
    assert console.line() == ""
    run = Run(console)
    for k in range(5):
        run.frame(k)
    console.news.began = time.time() - 2.0
    assert console.line().startswith("[#####...................] 5/25  2.")
    assert console.line().endswith("8 s left")
    begun = time.monotonic()
    console.waiting([Status()])
    assert "waiting" not in console.line()  # too short to speak of
    monkeypatch.setattr(time, "monotonic", lambda: begun + 5)
    assert console.line().endswith("waiting for theta: 3 of 90 deg, 4 min left")
    console.waiting(None)
    assert "waiting" not in console.line()
    before = len(out.getvalue())
    console.draw()
    run.stop()
    drawn = out.getvalue()[before:]
    assert drawn.startswith("[#####")
    width = drawn.index("\r")
    assert drawn[width:].startswith("\r" + " " * width + "\rScan 7 done")  # it leaves nothing behind


def test_a_wait_without_news_of_its_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(stream=io.StringIO(), moving=False)
    begun = time.monotonic()
    console.waiting([object(), object()])
    monkeypatch.setattr(time, "monotonic", lambda: begun + 5)
    assert console.line() == "waiting for 2 devices"


def test_a_terminal_gets_the_line_and_its_thread_ends() -> None:
    out = io.StringIO()
    console = Console(stream=out, moving=True)
    run = Run(console)
    run.frame(0)
    ticker = console._ticker
    assert ticker is not None
    deadline = time.monotonic() + 20
    while "\r" not in out.getvalue() and "[#" not in out.getvalue():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    run.stop(exit_status="abort", reason="enough")
    ticker.join(20)
    assert not ticker.is_alive()
    assert "Scan 7 aborted: enough; 1 frames" in out.getvalue()
    console.close()


def test_it_never_reaches_the_run_engine(caplog: pytest.LogCaptureFixture) -> None:
    run = Run(Console(catalog=object(), stream=io.StringIO()))
    with caplog.at_level(logging.ERROR):
        run.stop()
    assert "the console could not show a 'stop' document" in caplog.text


def test_a_plan_that_is_no_ptychography() -> None:
    out = io.StringIO()
    console = Console(stream=out)
    bundle = compose_run(metadata={"scan_id": 1, "plan_name": "count"})
    console("start", bundle.start_doc)
    stream = bundle.compose_descriptor(name="primary", data_keys={"a": KEYS})
    console("descriptor", stream.descriptor_doc)
    console("event", stream.compose_event(data={"a": 1.0}, timestamps={"a": 0.0}))
    console("stop", bundle.compose_stop())
    assert out.getvalue().splitlines()[-1].startswith("Scan 1 done; 1 frames")


def test_news_of_a_run() -> None:
    news = RunNews()
    assert (news.uid, news.running, news.elapsed_s, len(news.measured)) == ("", False, 0.0, 0)
    run = Run(news)
    run.frame(0)
    run.frame(1)
    assert (news.frames, news.planned, news.running) == (2, 25, True)
    assert news.measured == pytest.approx(PATTERN.positions[:2])  # signs and units are undone
    assert news.path == pytest.approx(PATTERN.positions)
    run.stop(exit_status="fail", reason="shutter")
    assert (news.running, news.exit_status, news.reason, news.seconds_left) == (False, "fail", "shutter", None)
    Run(news)
    assert (news.frames, news.exit_status) == (0, "")


def test_frames_in_files_count(tmp_path: Any) -> None:
    news = RunNews()
    run = Run(news)
    resource = run.bundle.compose_stream_resource(
        mimetype="application/x-hdf5", uri=f"file://localhost{tmp_path}/a.h5", data_key="camera", parameters={}
    )
    run.emit("stream_resource", resource.stream_resource_doc)
    datum = resource.compose_stream_datum(indices={"start": 0, "stop": 4}, descriptor=run.stream.descriptor_doc)
    run.emit("stream_datum", datum)
    assert news.frames == 4
    assert news.measured == pytest.approx(PATTERN.positions[:4])  # positions lie in files, too: as planned


def test_a_figure_of_a_run() -> None:
    news = RunNews()
    run = Run(news)
    for k in range(6):
        run.frame(k)
    maps = np.random.default_rng(0).normal(size=(5, 32, 40)).astype(np.float32)
    maps[:, :4] = np.nan
    image = LiveImage(*maps, (0.0, 0.0), 2e-8, news.uid, 6, 1)
    path, coverage, phase = RunFigure(news, SimpleNamespace(image=lambda: image)).draw().axes[:3]
    assert path.get_title("left") == "Path: 6 of 25 frames"
    assert len(path.lines[1].get_xdata()) == 6
    assert path.yaxis_inverted()
    assert [axis.get_title("left") for axis in (coverage, phase)] == ["Coverage", "Live phase (rad)"]
    assert phase.images[0].get_array().shape == (32, 40)
    image = LiveImage(*maps, (0.0, 0.0), 2e-8, "another run", 6, 1)
    nothing = RunFigure(news, SimpleNamespace(image=lambda: image)).draw().axes[2]
    assert nothing.texts[0].get_text() == "no live image yet"


def test_a_window_redraws_itself_when_there_is_something_new(monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.figure import Figure

    news = RunNews()
    window = RunFigure(news)
    assert not window.open_window()  # the backend of the tests has no windows
    figure, drawn = Figure(), []
    window._figure = figure
    monkeypatch.setattr(figure.canvas, "draw_idle", lambda: drawn.append(news.frames))
    window.refresh()
    run = Run(news)
    window.refresh()
    window.refresh()
    run.frame(0)
    window.refresh()
    assert drawn == [0, 1]
