from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from pydantic import ValidationError

from ptycho_bluesky.dispatch import RECIPES, FileSource, JobSpec, TiledSource
from ptycho_bluesky.errors import DispatchError

SOURCE = {"kind": "file", "path": "/data/scan.npz"}


def test_a_spec_is_json_and_comes_back_the_same(make_spec: Callable[..., JobSpec]) -> None:
    spec = make_spec(raw_uid="abc", priority=3, max_seconds=10)
    assert JobSpec.parse(spec.model_dump_json()) == spec
    assert JobSpec.parse(spec.model_dump_json()).job_id == spec.job_id


def test_equal_specs_are_one_job_and_others_are_others() -> None:
    one = JobSpec(source=TiledSource(uid="u"), options={"a": 1, "b": 2})
    assert one.raw_uid == "u"
    assert one.job_id == JobSpec(source=TiledSource(uid="u"), options={"b": 2, "a": 1}).job_id
    others = [
        JobSpec(source=TiledSource(uid="v"), options={"a": 1, "b": 2}),
        JobSpec(source=TiledSource(uid="u"), options={"a": 1, "b": 3}),
        JobSpec(source=TiledSource(uid="u"), options={"a": 1, "b": 2}, engine="dm"),
    ]
    assert len({one.job_id, *(o.job_id for o in others)}) == 4


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"recipe": "rm -rf"}, "allowed are reconstruct"),
        ({"recipie": "reconstruct"}, "recipie"),
        ({"device": "tpu"}, "device"),
        ({"priority": 101}, "priority"),
        ({"source": {"kind": "http", "path": "x"}}, "source"),
        ({"source": {**SOURCE, "code": "import os"}}, "code"),
        ({"options": {"blob": "x" * 70_000}}, "at most 65536"),
        ({"options": {"api_key": "x"}}, "looks like a secret"),
        ({"options": {"deep": [{"password": "x"}]}}, "looks like a secret"),
        ({"options": {"uri": "https://me:pw@host/x"}}, "looks like a secret"),
        ({"version": 2}, "version"),
        ({"max_seconds": -1}, "max_seconds"),
    ],
)
def test_what_is_refused_is_named(changes: dict[str, object], said: str) -> None:
    with pytest.raises(DispatchError, match=said):
        JobSpec.parse(json.dumps({"source": SOURCE, **changes}))
    with pytest.raises(ValidationError):
        JobSpec(**{"source": SOURCE, **changes})  # type: ignore[arg-type]


def test_texts_that_are_no_json() -> None:
    with pytest.raises(DispatchError, match="JSON"):
        JobSpec.parse("{")
    with pytest.raises(DispatchError, match="at most"):
        JobSpec.parse("x" * 200_000)


def test_a_sample_may_be_called_as_it_likes() -> None:
    assert (
        FileSource(path="/data/secret-token/scan.npz")
        == JobSpec.parse(json.dumps({"source": {"kind": "file", "path": "/data/secret-token/scan.npz"}})).source
    )


def test_a_relative_path_means_the_one_of_the_submitting_process() -> None:
    assert FileSource(path="scan.npz").path.startswith("/")


def test_the_runner_knows_the_recipes_that_a_spec_may_name() -> None:
    from ptycho_bluesky.dispatch._recipes import FUNCTIONS

    assert tuple(FUNCTIONS) == RECIPES


def test_one_gpu_is_one_resource_whatever_it_is_called(make_spec: Callable[..., JobSpec]) -> None:
    assert [make_spec(device=d).resource for d in ("cpu", "cuda", "cuda:0", "cuda:1")] == [
        "cpu", "cuda:0", "cuda:0", "cuda:1",
    ]  # fmt: skip
