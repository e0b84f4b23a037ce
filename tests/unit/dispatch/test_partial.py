"""Images of a running reconstruction in Tiled."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ptycho_bluesky.catalog import partial_jobs, register_reconstruction
from ptycho_bluesky.config import settings
from ptycho_bluesky.dispatch import JobFolder, JobSpec, Ledger
from ptycho_bluesky.dispatch._partial import PartialImages
from ptycho_bluesky.experiment import PtychoDataset, Reconstruction
from ptycho_bluesky.reconstruction import FastEngine, FastOptions, reconstruct

OPTIONS = {"modes": 1, "threads": 1, "epochs": 3}
PATH = "processed/ptychography-partial"


@pytest.fixture
def job(
    client: Any, make_spec: Callable[..., JobSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[JobFolder]:
    monkeypatch.setenv("PTYCHO_BLUESKY_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PTYCHO_BLUESKY_TILED_URI", str(client.context.api_uri))
    monkeypatch.setenv("PTYCHO_BLUESKY_TILED_API_KEY", client.context.api_key)
    monkeypatch.setenv("PTYCHO_BLUESKY_PARTIAL_IMAGES_S", "0.01")
    settings.cache_clear()
    yield Ledger().create(make_spec())[0]
    settings.cache_clear()


@pytest.fixture(scope="module")
def states(known_scan: tuple[PtychoDataset, Reconstruction]) -> list[Any]:
    return list(FastEngine().run(known_scan[0], FastOptions.model_validate(OPTIONS)))


class Waiting:
    """Hears what a websocket tells of a node, and waits for it."""

    def __init__(self) -> None:
        self.news: list[Any] = []
        self._more = threading.Condition()

    def __call__(self, update: Any) -> None:
        with self._more:
            self.news.append(update)
            self._more.notify_all()

    def until(self, true: Callable[[list[Any]], bool]) -> None:
        with self._more:
            assert self._more.wait_for(lambda: true(self.news), 30), self.news


def epochs(news: list[Any]) -> list[int]:
    return [n.metadata["epoch"] for n in news if n.type == "container-child-metadata-updated"]


@pytest.mark.filterwarnings(
    r"ignore:connect\(\) must be used as a context manager:DeprecationWarning"
)  # Tiled's client
@pytest.mark.timeout(90)
def test_a_subscriber_sees_the_image_change_and_it_goes_when_the_result_is_registered(
    client: Any,
    job: JobFolder,
    states: list[Any],
    known_scan: tuple[PtychoDataset, Reconstruction],
) -> None:
    from ptycho_bluesky.catalog._connect import child

    parent, told, pieces = child(client["processed"], "ptychography-partial"), Waiting(), Waiting()
    container = parent.subscribe()
    container.child_metadata_updated.add_callback(told)
    with container.start_in_thread(), PartialImages(job, job.spec()) as partial:
        tell = partial.beside(lambda _: None)
        tell(states[0])
        told.until(lambda news: 1 in epochs(news))
        phase = client[PATH][job.job_id]["phase"].subscribe()
        phase.new_data.add_callback(pieces)
        with phase.start_in_thread():
            broken = np.full_like(states[1].model.object, np.nan)
            tell(replace(states[1], model=replace(states[1].model, object=broken)))
            tell(states[2])
            told.until(lambda news: 3 in epochs(news))
            pieces.until(lambda news: len(news) >= 1)
    assert 2 not in epochs(told.news), "what is not finite is not shown"
    node = client[PATH][job.job_id]
    expected = reconstruct(known_scan[0], "fast", OPTIONS, check=False)
    np.testing.assert_allclose(node["phase"].read(), expected.phase, atol=1e-5)
    np.testing.assert_allclose(node["amplitude"].read(), expected.amplitude, atol=1e-5)
    assert node.metadata["r_factor"] == pytest.approx(states[2].r_factor) and node.metadata["epochs"] == 3
    assert node.metadata["frames"] == len(known_scan[0]) and job.job_id in partial_jobs(client)
    register_reconstruction(client, expected, job_id=job.job_id)
    assert job.job_id not in partial_jobs(client)


@pytest.mark.timeout(60)
def test_images_of_jobs_that_ended_otherwise_are_taken_away(
    client: Any, job: JobFolder, states: list[Any], make_spec: Callable[..., JobSpec]
) -> None:
    from ptycho_bluesky.catalog import PartialNode

    killed, _ = Ledger().create(make_spec(priority=7))
    Ledger().record(killed, "lost")
    going_on, _ = Ledger().create(make_spec(priority=8))
    image = np.zeros((4, 4), np.float32)
    for other in (killed, going_on):
        PartialNode(client, other.job_id).show(image, image, {})
    node = PartialNode(client, killed.job_id)
    node.show(image, image, {"epoch": 1})
    node.show(np.ones((6, 5), np.float32), np.ones((6, 5), np.float32), {"epoch": 2})  # a scan that grew
    assert client[PATH][killed.job_id]["phase"].shape == (6, 5)
    with pytest.raises(RuntimeError, match="on its way"), PartialImages(job, job.spec()) as partial:
        partial.beside(lambda _: None)(states[0])
        end = threading.Event()
        for _ in range(1000):
            if job.job_id in partial_jobs(client):
                break
            end.wait(0.02)
        assert {job.job_id, going_on.job_id} <= set(partial_jobs(client))
        raise RuntimeError("on its way")
    left = partial_jobs(client)
    assert killed.job_id not in left and job.job_id not in left and going_on.job_id in left


@pytest.mark.timeout(30)
def test_neither_a_dead_server_nor_states_without_an_image_hinder_the_engine(
    home: Path, make_spec: Callable[..., JobSpec], states: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PTYCHO_BLUESKY_PARTIAL_IMAGES_S", "0.01")
    monkeypatch.setattr("ptycho_bluesky.dispatch._partial.CONNECT_S", 0.1)
    settings.cache_clear()
    job, _ = Ledger().create(make_spec())
    seen: list[Any] = []
    with PartialImages(job, job.spec()) as partial:
        tell = partial.beside(seen.append)
        for state in (object(), *states):
            tell(state)
    assert seen[1:] == states and not partial._thread.is_alive()
    Ledger().record(job, "cancelled")
