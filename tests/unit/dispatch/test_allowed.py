"""A runner looks again at which files its job names: links may have changed since it was submitted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ptycho_bluesky.config import settings
from ptycho_bluesky.dispatch import JobSpec, Ledger, runner
from ptycho_bluesky.dispatch._allowed import check_paths, files_of


def test_a_runner_refuses_what_has_become_a_link_to_elsewhere(
    home: Path, tmp_path: Path, measurement: Path, make_spec: Callable[..., JobSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed = tmp_path / "allowed"
    allowed.mkdir()
    scan = allowed / "scan.npz"
    scan.write_bytes(measurement.read_bytes())
    monkeypatch.setenv("PTYCHO_BLUESKY_RESOURCES", json.dumps({"local": {"kind": "local", "paths": [str(allowed)]}}))
    settings.cache_clear()
    spec = make_spec(source={"kind": "file", "path": str(scan)})
    check_paths(spec)
    job, _ = Ledger().create(spec)
    scan.unlink()
    scan.symlink_to(measurement)
    assert runner.main(job.path, 1) == 1
    assert job.status().kind == "user" and "in none of the folders" in job.status().reason


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({}, []),
        ({"start_from": "default"}, []),
        ({"start_from": "0123abcd"}, []),
        ({"start_from": "models/mine.safetensors"}, ["models/mine.safetensors"]),
        ({"start_from": "~/mine.safetensors", "reconstruction": "/r.h5"}, ["/r.h5", "~/mine.safetensors"]),
        ({"reconstruction": "r.h5"}, ["r.h5"]),
    ],
)
def test_all_files_that_a_training_names_are_looked_at(options: dict[str, str], named: list[str]) -> None:
    spec = JobSpec(recipe="train", source={"kind": "file", "path": "/scan.npz"}, options=options)
    assert files_of(spec) == ["/scan.npz", *named]
