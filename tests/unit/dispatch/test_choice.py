"""Which place a job goes to, and whether it may."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ptycho_bluesky.config import settings
from ptycho_bluesky.dispatch import JobSpec, Ledger, LocalExecutor, cancel, history, retry
from ptycho_bluesky.dispatch._choice import choose
from ptycho_bluesky.dispatch.clusters import Seen, SlurmLauncher
from ptycho_bluesky.errors import ConfigurationError, DispatchError

Make = Callable[..., JobSpec]

RESOURCES = """
[resources.local]
kind = "local"
max_frames = 5000
paths = [{paths}]
[resources.small]
kind = "slurm"
max_frames = 20000
[resources.large]
kind = "slurm"
device = "cuda"
min_frames = 1000
nodes = 4
ranks_per_node = 4
"""


@pytest.fixture
def places(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., set[str]]:
    """Return a function that writes the settings; it returns the set of places that answer, to be changed at will."""
    answering = {"small", "large"}
    monkeypatch.setattr(SlurmLauncher, "look", lambda self: {} if self.place in answering else None)

    def use(paths: str = "") -> set[str]:
        (tmp_path / "settings.toml").write_text(RESOURCES.format(paths=paths))
        monkeypatch.setenv("PTYCHO_BLUESKY_CONFIG", str(tmp_path / "settings.toml"))
        settings.cache_clear()
        return answering

    return use


@pytest.mark.parametrize(
    ("asked", "place"),
    [
        ({}, "local"),  # of unknown size: the first one
        ({"frames": 400}, "local"),
        ({"frames": 6000}, "small"),
        ({"frames": 90_000}, "large"),
        ({"frames": 6000, "device": "cuda", "engine": "fast"}, "large"),
        ({"frames": 6000, "ranks": 8, "engine": "fast"}, "large"),
    ],
)
def test_size_device_and_ranks_decide(
    places: Callable[..., set[str]], make_spec: Make, asked: dict[str, object], place: str
) -> None:
    places()
    assert choose(make_spec(place="auto", **asked), Ledger())[0] == place


def test_a_place_that_does_not_answer_is_passed_over_and_the_history_says_why(
    places: Callable[..., set[str]], make_spec: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    answering = places()
    answering.discard("small")
    monkeypatch.setattr(SlurmLauncher, "submit", lambda self, job, shape, script, after: "7")
    job_id = LocalExecutor().submit(make_spec(place="auto", frames=6000))
    job = Ledger().job(job_id)
    assert job.spec().place == "large" and (job.runner() or {})["id"] == "7"
    (asked,) = [event["asked"] for event in history(job_id) if "asked" in event]
    assert asked == (
        "to run at large: 0 jobs there; not local: 6000 frames are more than its 5000; not small: it does not answer"
    )
    assert LocalExecutor().submit(make_spec(place="auto", frames=6000)) == job_id  # wherever it would go now
    seen = {"7": Seen("PENDING", True, job_id)}
    monkeypatch.setattr(SlurmLauncher, "look", lambda self: seen)
    monkeypatch.setattr(
        SlurmLauncher, "end", lambda self, number: seen.update({number: Seen("CANCELLED", False, job_id)})
    )
    assert cancel(job_id).state == "cancelled"


def test_with_a_deadline_a_place_where_a_job_begins_at_once_goes_before(
    places: Callable[..., set[str]], make_spec: Make
) -> None:
    places()
    Ledger().create(make_spec(raw_uid="ahead"))
    assert choose(make_spec(place="auto", frames=2000), Ledger())[0] == "local"
    place, why = choose(make_spec(place="auto", frames=2000, max_seconds=60.0), Ledger())
    assert place == "small" and "not local: its max_seconds do not wait for other jobs (1 jobs there, 1 at once)" in why


def test_what_no_place_takes_is_refused_with_all_reasons(places: Callable[..., set[str]], make_spec: Make) -> None:
    places().clear()
    with pytest.raises(
        DispatchError, match=r"not local: 9000 .* not small: it does not answer; not large: it does not"
    ):
        choose(make_spec(place="auto", frames=9000), Ledger())


def test_files_outside_the_allowed_folders_are_refused(
    places: Callable[..., set[str]], make_spec: Make, tmp_path: Path
) -> None:
    places(f'"{tmp_path}/allowed"')
    with pytest.raises(
        DispatchError, match=r"measurement\.npz is in none of the folders that jobs at 'local' may read"
    ):
        LocalExecutor().submit(make_spec())
    assert choose(make_spec(place="auto", frames=100), Ledger())[0] == "small"


def test_a_failed_job_is_tried_again_at_another_place_and_stays_the_same_job(
    places: Callable[..., set[str]], make_spec: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    places()
    monkeypatch.setattr(SlurmLauncher, "submit", lambda self, job, shape, script, after: "7")
    ledger = Ledger()
    job, _ = ledger.create(make_spec(place="small"))
    ledger.record(job, "failed", reason="its cluster is down", kind="machine")
    with pytest.raises(DispatchError, match="no resource is named 'moon'"):
        retry(job.job_id, "moon")
    assert job.status().state == "failed" and job.spec().place == "small"
    assert retry(job.job_id, "large").attempt == 2
    assert (job.spec().place, job.spec().job_id, (job.runner() or {})["place"]) == ("large", job.job_id, "large")
    assert [j.job_id for j in ledger.active("large")] == [job.job_id] and ledger.active("small") == []
    assert history(job.job_id)[-1]["reason"] == "to run at large: as asked for"
    ledger.record(job, "failed")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[resources.mine]\nkind = "local"\n', "nothing else, is named 'local'"),
        ('[resources.auto]\nkind = "slurm"\n', "other than 'auto' and 'cpu'"),
        ('[resources.c]\nkind = "slurm"\npartition = "a b; rm"\n', "partition"),
        ('[resources.c]\nkind = "pbs"\nnodes = 2\n', "give nodes = 1 under PBS"),
        ('[resources.c]\nkind = "slurm"\npaths = ["data"]\n', "not absolute"),
    ],
)
def test_settings_that_make_no_sense_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: Path, text: str, said: str
) -> None:
    (tmp_path / "settings.toml").write_text(text)
    monkeypatch.setenv("PTYCHO_BLUESKY_CONFIG", str(tmp_path / "settings.toml"))
    settings.cache_clear()
    with pytest.raises(ConfigurationError, match=said):
        settings()
    (tmp_path / "settings.toml").write_text("")
    settings.cache_clear()
