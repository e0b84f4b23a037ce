"""A cloud in this process, and settings that name it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import globus_cloud
import pytest

from ptycho_bluesky._resources import GlobusResource
from ptycho_bluesky.config import settings
from ptycho_bluesky.dispatch.globus._compute import Compute
from ptycho_bluesky.dispatch.globus._login import globus_app


@pytest.fixture(scope="session")
def cloud_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, globus_cloud.Cloud]]:
    root = tmp_path_factory.mktemp("cloud")
    with globus_cloud.in_this_process({globus_cloud.HERE: root / "here", globus_cloud.THERE: root / "there"}) as served:
        yield served


@pytest.fixture
def cloud(
    cloud_process: tuple[str, globus_cloud.Cloud], home: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[globus_cloud.Cloud]:
    """Works, and runs its tasks in this process; a home of its own."""
    url, cloud = cloud_process
    for name, value in globus_cloud.environment(url).items():
        monkeypatch.setenv(name, value)
    cloud.faults.update(globus_cloud.FAULTS, refuse={})
    cloud.log.clear()
    before = Path.cwd()
    yield cloud
    os.chdir(before)  # tasks change it


@pytest.fixture
def resource() -> GlobusResource:
    return GlobusResource(
        kind="globus",
        endpoint=globus_cloud.ENDPOINT,
        collection=globus_cloud.THERE,
        here_collection=globus_cloud.HERE,
        poll_s=0.1,
        answer_s=10,
    )


@pytest.fixture
def compute(cloud: globus_cloud.Cloud, resource: GlobusResource) -> Iterator[Compute]:
    with contextlib.closing(globus_app([resource])) as app:
        yield Compute(app, resource)


@pytest.fixture
def configured(resource: GlobusResource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Call to write settings with this resource, named ``facility``, and further fields."""

    def write(**more: Any) -> None:
        fields = {**resource.model_dump(mode="json", exclude_defaults=True), **more}
        lines = [f"{key} = {value!r}".replace("'", '"') for key, value in fields.items()]
        (tmp_path / "settings.toml").write_text("\n".join(["[resources.facility]", *lines, ""]))
        monkeypatch.setenv("PTYCHO_BLUESKY_CONFIG", str(tmp_path / "settings.toml"))
        settings.cache_clear()

    return write
