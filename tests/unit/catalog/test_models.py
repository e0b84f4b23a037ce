"""Models in the library of a home and in the catalogue: kept, registered once, found, fetched back."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ptycho_bluesky.catalog import (
    GateVerdict,
    ModelLibrary,
    ModelRecord,
    PtychoModel,
    fetch_model,
    find_models,
    in_service,
    install,
    probe_hash,
    promote,
    register_model,
    register_waiting_models,
    rollback,
    service_history,
)
from ptycho_bluesky.errors import CatalogError, FormatError, InferenceError

PROBE = np.exp(1j * np.arange(64)).reshape(1, 8, 8).astype(np.complex64)


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def made(name: str, **changes: Any) -> tuple[bytes, ModelRecord]:
    """A model file, as far as the catalogue minds, and its record; names are unique to a test run."""
    data = name.encode() * 1000
    values: dict[str, Any] = {
        "content_hash": digest(f"{name}-{os.getpid()}"),
        "sha256": hashlib.sha256(data).hexdigest(),
        "name": name,
        "suffix": ".safetensors",
        "kind": "probe-vit",
        "architecture": {"kind": "probe-vit", "size": 64},
        "created": time.time(),
    }
    return data, ModelRecord(**{**values, **changes})


def verdict(against: str, passed: bool = True, when: float = 1.0) -> GateVerdict:
    figures = {"phase_correlation": 0.9, "ssim": 0.5}
    return GateVerdict(
        passed=passed,
        against=against,
        reasons=("phase correlation 0.9, in service 0.8",),
        candidate=figures,
        in_service=figures,
        frames=64,
        when=when,
    )


@pytest.fixture
def library(tmp_path: Path, use_home: Callable[[Path], Path]) -> ModelLibrary:
    return ModelLibrary(use_home(tmp_path / "home") / "models")


@pytest.fixture
def shared(client: Any, tmp_path: Path) -> Iterator[tuple[Any, ModelLibrary]]:
    """The tests' catalogue and an empty library."""
    yield client, ModelLibrary(tmp_path / "library")


def test_a_library_keeps_models_with_their_probe_and_finds_them(library: ModelLibrary) -> None:
    data, record = made("star", probe_hash=probe_hash(PROBE))
    library.add(data, record, PROBE)
    other = library.add(*made("star two/../x"))
    assert library.path(other).parent == library.folder and other.file.startswith("star-two-x-")
    for text in (record.content_hash, record.content_hash[:6], "star", record.stem, record.file):
        assert library.find(text) == record
    assert library.path(record).read_bytes() == data
    np.testing.assert_array_equal(library.probe(record), PROBE)
    assert library.probe(other) is None
    assert library.waiting() == [record, other]
    with pytest.raises(InferenceError, match=r"no model 'moon'.*star"):
        library.find("moon")


def test_a_model_is_kept_once_and_keeps_its_trials(library: ModelLibrary) -> None:
    data, record = made("star")
    library.add(data, record)
    judged = library.judge(record.content_hash, verdict(digest("x")))
    assert library.judge(record.content_hash, verdict(digest("x"))) == judged
    assert library.add(data, record).gate == judged.gate and len(library.records()) == 1


@pytest.mark.parametrize("what", ["file", "probe"])
def test_what_is_not_as_its_record_says_is_refused(library: ModelLibrary, what: str) -> None:
    data, record = made("star", probe_hash=probe_hash(PROBE))
    with pytest.raises(FormatError, match=what):
        library.add(data + b"x" * (what == "file"), record, PROBE * (2 if what == "probe" else 1))
    assert library.records() == []


def test_a_damaged_record_hides_no_other(library: ModelLibrary) -> None:
    library.add(*made("star"))
    (library.folder / "bad.record.json").write_text('{"content_hash": "../../etc"')
    assert [r.name for r in library.records()] == ["star"]


def test_promotion_needs_a_passed_gate_or_a_reason(library: ModelLibrary) -> None:
    _, base = made("default")
    first, second = (made(name)[1] for name in ("first", "second"))
    for name in ("default", "first", "second"):
        library.add(*made(name, created=1.0))
    assert in_service(library) is None
    install(library, base)
    assert install(library, first) is None and in_service(library) == library.find("default")
    with pytest.raises(InferenceError, match="not passed the gate against default"):
        promote(library, "first")
    library.judge(first.content_hash, verdict(base.content_hash, passed=False))
    with pytest.raises(InferenceError, match=r"in service 0\.8"):
        promote(library, "first", force=" ")
    library.judge(first.content_hash, verdict(base.content_hash, when=2.0))
    event = promote(library, "first", why="better", who="me@here")
    assert event is not None and (event.who, event.why, event.forced) == ("me@here", "better", False)
    assert promote(library, "first") is None  # it is there already
    library.judge(second.content_hash, verdict(base.content_hash))
    with pytest.raises(InferenceError, match="against first"):
        promote(library, "second")  # it was tried against a model that serves no more
    forced = promote(library, "second", force="the first one is for another beam")
    assert forced is not None and forced.forced and forced.why == "forced: the first one is for another beam"
    assert [e.name for e in service_history(library)] == ["default", "first", "second"]


def test_roll_backs_go_back_one_by_one_and_end_at_the_first(library: ModelLibrary) -> None:
    for name in ("default", "first", "second"):
        library.add(*made(name))
    install(library, library.find("default"))
    promote(library, "first", force="x")
    promote(library, "second", force="x")
    assert [rollback(library).name, rollback(library, why="it too").name] == ["first", "default"]
    with pytest.raises(InferenceError, match="nothing to go back to"):
        rollback(library)
    promote(library, "second", force="x")
    assert rollback(library).name == "default"
    assert service_history(library)[-1].previous == library.find("second").content_hash


def test_a_power_cut_between_pointer_and_history_loses_neither(
    library: ModelLibrary, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ptycho_bluesky.catalog import _service

    for name in ("default", "first"):
        library.add(*made(name))
    install(library, library.find("default"))
    real = _service.write_whole

    def dying(path: Path, data: bytes) -> None:
        if path.name == "history.jsonl":
            raise KeyboardInterrupt
        real(path, data)

    with monkeypatch.context() as patched:
        patched.setattr(_service, "write_whole", dying)
        with pytest.raises(KeyboardInterrupt):
            promote(library, "first", force="x")
    assert in_service(library) == library.find("first")
    assert [e.name for e in service_history(library)] == ["default", "first"]
    assert rollback(library).name == "default"


def test_a_model_goes_into_the_catalogue_and_comes_back(shared: tuple[Any, ModelLibrary], tmp_path: Path) -> None:
    client, library = shared
    uid = f"run-{os.getpid()}"
    data, record = made("catalogued", probe_hash=probe_hash(PROBE), raw_uids=(uid,), licence="CC0-1.0")
    library.add(data, record, PROBE)
    library.add(*made("another"))
    assert set(register_waiting_models(client, library)) == {record.content_hash, made("another")[1].content_hash}
    assert library.waiting() == [] and register_waiting_models(client, library) == []
    (node,) = find_models(client, raw_uid=uid, kind="probe-vit", passed=False)
    assert isinstance(node, PtychoModel) and node.record == record
    np.testing.assert_array_equal(node.probe, PROBE)
    assert node.download(tmp_path).read_bytes() == data
    elsewhere = ModelLibrary(tmp_path / "elsewhere")
    fetched = fetch_model(client, elsewhere, record.content_hash[:10])
    assert elsewhere.path(fetched).read_bytes() == data and elsewhere.waiting() == []
    with pytest.raises(CatalogError, match=r"no model 'unheard-of'.*catalogued"):
        fetch_model(client, elsewhere, "unheard-of")


def test_trials_and_service_of_two_machines_meet_in_the_catalogue(
    shared: tuple[Any, ModelLibrary], tmp_path: Path
) -> None:
    client, here = shared
    record = here.add(*made("travelled"))
    key, against = record.content_hash, digest("the other")
    node = register_model(client, here, key)
    there = ModelLibrary(tmp_path / "there")
    fetch_model(client, there, key)
    here.judge(key, verdict(against, passed=False, when=1.0))
    there.judge(key, verdict(against, passed=True, when=2.0))
    promote(there, key)
    assert register_waiting_models(client, there) == register_waiting_models(client, here) == [key]
    node = client["processed/models"][key]
    assert [g.when for g in node.record.gate] == [1.0, 2.0] and node.metadata["passed"] is True
    assert [e["event"] for e in node.metadata["service"]] == ["promoted"]


def test_altered_bytes_and_a_foreign_model_under_the_key_are_refused(
    shared: tuple[Any, ModelLibrary], tmp_path: Path
) -> None:
    client, library = shared
    record = library.add(*made("altered"))
    node = register_model(client, library, record.content_hash)
    node["weights"].write(np.frombuffer(b"evil" * 1750, np.uint8)[: 7 * 1000])
    with pytest.raises(CatalogError, match="altered or damaged"):
        node.download(tmp_path)
    with pytest.raises(CatalogError, match="altered or damaged"):
        fetch_model(client, ModelLibrary(tmp_path / "elsewhere"), record.content_hash)
    node.update_metadata({"architecture": {"kind": "other"}}, drop_revision=True)
    with pytest.raises(CatalogError, match="another model lies under"):
        register_model(client, library, record.content_hash)


@pytest.mark.parametrize("step", [1, 2, 3])
def test_a_registration_cut_short_at_any_step_is_done_once_when_tried_again(
    shared: tuple[Any, ModelLibrary], monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    from tiled.client.container import Container

    class Killed(BaseException):
        pass

    client, library = shared
    data, record = made(f"cut-short-{step}", probe_hash=probe_hash(PROBE))
    library.add(data, record, PROBE)
    done: list[str] = []

    def dying(real: Any) -> Any:
        def act(self: Any, *args: Any, **kwargs: Any) -> Any:
            if len(done) == step:
                raise Killed
            done.append("")
            return real(self, *args, **kwargs)

        return act

    with monkeypatch.context() as patched:
        for name in ("create_container", "write_array", "update_metadata"):
            patched.setattr(Container, name, dying(getattr(Container, name)))
        with pytest.raises(Killed):
            register_model(client, library, record.content_hash)
    assert not library.find(record.content_hash).registered
    assert record.content_hash not in [n.item["id"] for n in find_models(client)]
    assert register_waiting_models(client, library) == [record.content_hash]
    (node,) = [n for n in find_models(client) if n.item["id"] == record.content_hash]
    assert node.data() == data
