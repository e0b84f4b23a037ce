"""A job that begins during its scan: the run grows in a real Tiled, epoch by epoch, without a clock."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from event_model import compose_run

from ptycho_bluesky.config import settings
from ptycho_bluesky.dispatch import JobFolder, JobSpec, Ledger, TiledSource, _growing, _recipes, runner
from ptycho_bluesky.errors import ReconstructionError
from ptycho_bluesky.experiment import PtychoDataset, PtychographyMetadata, Reconstruction, align_phase

OPTIONS = {"modes": 1, "threads": 1}


class Scan:
    """A simulated scan whose documents reach Tiled when a test wants it."""

    def __init__(self, client: Any, dataset: PtychoDataset, probe_file: Path) -> None:
        from bluesky_tiled_plugins import TiledWriter

        assert dataset.probe is not None
        np.save(probe_file, dataset.probe)
        block = PtychographyMetadata.model_validate(
            {
                "frames_key": "image",
                "position_keys": ("y", "x"),
                "position_unit": "m",
                "geometry": dataset.geometry,
                "probe": {"kind": "file", "uri": probe_file.as_uri()},
            }
        )
        run = compose_run(metadata={"ptychography": block.to_start()})
        number = {"dtype": "number", "shape": [], "source": "sim", "dtype_numpy": "<f8"}
        shape = list(dataset.frames.shape[1:])
        image = {"dtype": "array", "shape": shape, "source": "sim", "dtype_numpy": np.dtype(dataset.frames.dtype).str}
        self._bundle = run.compose_descriptor(name="primary", data_keys={"image": image, "y": number, "x": number})
        self._write = TiledWriter(client["raw"], batch_size=8)
        self.dataset, self._run, self.done, self.stopped = dataset, run, 0, False
        self.uid = str(run.start_doc["uid"])
        self._write("start", run.start_doc)
        self._write("descriptor", self._bundle.descriptor_doc)

    def measure(self, count: int) -> None:
        frames, end = np.asarray(self.dataset.frames[:]), min(self.done + count, len(self.dataset))
        for k in range(self.done, end):
            y, x = self.dataset.positions[k]
            data = {"image": frames[k], "y": float(y), "x": float(x)}
            event = self._bundle.compose_event(data=data, timestamps=dict.fromkeys(data, 0.0), validate=False)
            self._write("event", dict(event))
        self.done = end

    def stop(self, exit_status: str = "success") -> None:
        if not self.stopped:
            self._write("stop", self._run.compose_stop(exit_status=exit_status))
        self.stopped = True


@pytest.fixture
def scan(
    client: Any,
    known_scan: tuple[PtychoDataset, Reconstruction],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Scan]:
    monkeypatch.setattr(_growing, "LOOK_S", 0.02)
    monkeypatch.setenv("PTYCHO_BLUESKY_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PTYCHO_BLUESKY_TILED_URI", str(client.context.api_uri))
    monkeypatch.setenv("PTYCHO_BLUESKY_TILED_API_KEY", client.context.api_key)
    settings.cache_clear()
    yield Scan(client, known_scan[0], tmp_path / "probe.npy")
    settings.cache_clear()


def spec_of(scan: Scan, **changes: Any) -> JobSpec:
    source = TiledSource(uid=scan.uid, grow=True, wait_s=changes.pop("wait_s", 60.0))
    return JobSpec(source=source, engine="fast", options=OPTIONS, **changes)


def during(job: JobFolder, act: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch) -> int:
    """Run a job in this process; `act` is done after each of its epochs."""
    recipe = _recipes.FUNCTIONS["reconstruct"]

    def acting(spec: Any, should_stop: Any, on_state: Any, folder: Path) -> Any:
        def tell(state: Any) -> None:
            on_state(state)
            act(state)

        return recipe(spec, should_stop, tell, folder)

    monkeypatch.setitem(_recipes.FUNCTIONS, "reconstruct", acting)
    return runner.main(job.path, 1)


@pytest.mark.timeout(120)
def test_the_result_is_that_of_the_whole_run_and_waits_for_its_end(
    client: Any, scan: Scan, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ptycho_bluesky.catalog import find_reconstructions

    counts: list[int] = []
    scan.measure(40)
    job, _ = Ledger().create(spec_of(scan))

    def act(state: Any) -> None:
        counts.append(len(state.problem))
        if not state.epochs and 1.1 * counts[-1] > scan.done - scan.done % 8:  # what Tiled has is in
            if scan.done == len(scan.dataset):
                scan.stop()
            scan.measure(16)

    assert during(job, act, monkeypatch) == 0
    assert job.status().state == "done" and job.status().registered, job.status()
    assert counts[0] == 40 and counts[-1] == len(scan.dataset) and len(set(counts)) > 3
    whole, _ = Ledger().create(spec_of(scan).model_copy(update={"source": TiledSource(uid=scan.uid)}))
    assert runner.main(whole.path, 1) == 0
    found = {node.metadata["job_id"]: node.to_reconstruction() for node in find_reconstructions(client, scan.uid)}
    grown, once = found[job.job_id], found[whole.job_id]
    assert grown.provenance["source"] == once.provenance["source"] and grown.provenance["raw_uid"] == scan.uid
    assert grown.r_factor < 1.02 * once.r_factor  # half a per cent on larger scans
    phase, reference, _ = align_phase(grown.phase, once.phase)
    inside = np.isfinite(phase)
    assert np.sqrt(np.mean((phase - reference)[inside] ** 2)) < 0.05  # 93 frames; two seeds differ nearly as much


@pytest.mark.timeout(60)
@pytest.mark.parametrize("asked", ["abort", "STOP", "CANCEL"])
def test_an_aborted_scan_and_a_job_that_is_ended_end_well(
    client: Any, scan: Scan, asked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan.measure(48)
    job, _ = Ledger().create(spec_of(scan, limit_s=None))
    epochs: list[int] = []

    def act(state: Any) -> None:
        epochs.append(state.epochs)
        if len(epochs) == 3:
            if asked == "abort":
                scan.measure(5)
                scan.stop("abort")
            else:
                (job.path / asked).touch()

    assert during(job, act, monkeypatch) == 0
    status = job.status()
    assert status.state == ("cancelled" if asked == "CANCEL" else "done")
    if asked == "abort":
        assert epochs[-1] > 0 and len(job_result(job).positions) == 53
        assert status.progress["epochs"] == status.progress["epoch"] == epochs[-1]
    else:
        assert set(epochs) == {0} and status.progress.get("epochs") is None


def job_result(job: JobFolder) -> Reconstruction:
    from ptycho_bluesky.formats import read_reconstruction

    return read_reconstruction(job.result_file)


@pytest.mark.timeout(60)
def test_a_scan_that_falls_silent_is_reconstructed_from_what_there_is(scan: Scan) -> None:
    scan.measure(40)
    job, _ = Ledger().create(spec_of(scan, wait_s=0.3))
    assert runner.main(job.path, 1) == 0
    assert len(job_result(job).positions) == 40


@pytest.mark.timeout(60)
def test_no_frame_at_all_is_said_in_words_and_a_stop_before_the_first_is_no_failure(scan: Scan) -> None:
    source = TiledSource(uid=scan.uid, grow=True, wait_s=0.1)
    with _growing.RunFeed(source, lambda: False) as feed, pytest.raises(ReconstructionError, match="no frame of run"):
        feed.dataset()
    with _growing.RunFeed(replaced(source), lambda: True) as feed:
        assert feed.dataset() is None
    job, _ = Ledger().create(spec_of(scan, wait_s=0.1))
    assert runner.main(job.path, 1) == 1
    assert (job.status().state, job.status().kind) == ("failed", "user")


def replaced(source: TiledSource) -> TiledSource:
    return source.model_copy(update={"wait_s": 60.0})


@pytest.mark.timeout(60)
def test_time_is_counted_from_the_end_of_the_scan(scan: Scan) -> None:
    scan.measure(40)
    with _growing.RunFeed(replaced(spec_of(scan).source), lambda: False, max_seconds=1e-6) as feed:  # type: ignore[arg-type]
        growing = feed.dataset()
        assert growing is not None and not feed.should_stop()
        scan.stop()
        growing.wait_for(1000)
        assert feed.should_stop() and len(growing) == 40
        feed.check()


@pytest.mark.timeout(60)
def test_metadata_that_do_not_fit_end_the_job_with_their_own_words(
    client: Any, scan: Scan, known_scan: tuple[PtychoDataset, Reconstruction], tmp_path: Path
) -> None:
    dataset = known_scan[0]
    assert dataset.geometry is not None
    off = dataset.geometry.model_copy(update={"beam_center_px": (1.0, 1.0)})
    bad = Scan(client, replace(dataset, geometry=off), tmp_path / "p.npy")
    bad.measure(16)
    bad.stop()
    job, _ = Ledger().create(spec_of(bad))
    assert runner.main(job.path, 1) == 1
    assert job.status().kind == "user" and "beam_center_px" in job.status().reason


def test_what_cannot_grow_is_refused_and_what_does_not_grow_is_the_job_that_it_was() -> None:
    source = TiledSource(uid="a", grow=True)
    with pytest.raises(ValueError, match="leave grow out"):
        JobSpec(source=source, engine="fast", ranks=2)
    plain, before = JobSpec(source=TiledSource(uid="a")), "8cf0bf6c"
    assert JobSpec(source=source).job_id != plain.job_id
    assert plain.job_id.startswith(before)
