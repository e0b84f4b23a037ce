from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ptycho_bluesky.catalog import _writer, frames, resend_backups, tiled_writer

Documents = Callable[..., list[tuple[str, dict[str, Any]]]]


def backups(home: Path) -> list[Path]:
    return sorted((home / "tiled" / "backups").glob("*.msgpack"))


def test_inline_images_become_a_stack_that_is_read_by_slices(
    client: Any, catalog_home: Path, make_documents: Documents
) -> None:
    docs = make_documents(120, 16)
    writer = tiled_writer(client, batch_size=50, stop_wait_s=30)
    for name, doc in docs:
        writer(name, doc)
    run = client["raw"][docs[0][1]["uid"]]  # the whole run is there when the stop document has been handled
    images = frames(run, "detector_image")
    assert images.shape == (120, 16, 16)
    assert images.dtype == np.uint16
    np.testing.assert_array_equal(images[48:53], np.stack([d["data"]["detector_image"] for n, d in docs[50:55]]))
    assert images[5:5].shape == (0, 16, 16)
    assert images[0:10:3].shape == (4, 16, 16)
    assert backups(catalog_home) == []


def test_the_run_engine_waits_less_than_5_ms_an_event(client: Any, make_documents: Documents) -> None:
    docs = make_documents(400, 128)
    writer, costs = tiled_writer(client, stop_wait_s=30), []
    begin = time.perf_counter()
    for name, doc in docs:
        before = time.perf_counter()
        writer(name, doc)
        if name == "event":
            costs.append(time.perf_counter() - before)
    total = time.perf_counter() - begin
    assert sum(costs) / len(costs) < 5e-3
    assert total / len(costs) < 20e-3  # until Tiled has all of it
    assert frames(client["raw"][docs[0][1]["uid"]], "detector_image").shape == (400, 128, 128)


def test_a_tiled_that_dies_in_mid_scan_fails_nothing_and_gets_the_run_later(
    client: Any, catalog_home: Path, make_documents: Documents, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[str] = []
    real = _writer._tiled_writer

    def dying(client: Any, batch_size: int) -> Callable[[str, dict[str, Any]], None]:
        sink = real(client, batch_size)

        def write(name: str, doc: dict[str, Any]) -> None:
            sent.append(name)
            if len(sent) > 8:
                raise ConnectionError("Tiled is gone")
            sink(name, doc)

        return write

    docs = make_documents(20, 16)
    uid = docs[0][1]["uid"]
    monkeypatch.setattr(_writer, "_tiled_writer", dying)
    writer = tiled_writer(client, batch_size=2, stop_wait_s=30)
    for name, doc in docs:
        writer(name, doc)
    deadline = time.monotonic() + 5
    monkeypatch.setattr(_writer, "_tiled_writer", real)
    assert [p.stem for p in backups(catalog_home)] == [uid]
    assert not client["raw"][uid].metadata.get("stop")  # the beginning of the run had arrived
    while not (sent_now := resend_backups(client)) and time.monotonic() < deadline:
        time.sleep(0.05)  # the writer frees its journal a moment later
    assert sent_now == [uid]
    assert backups(catalog_home) == []
    run = client["raw"][uid]
    assert run.metadata["stop"]["exit_status"] == "success"
    np.testing.assert_array_equal(frames(run, "detector_image")[19:20][0], docs[-2][1]["data"]["detector_image"])
    assert resend_backups(client) == []


def test_a_tiled_that_is_dead_when_the_run_starts_holds_nothing_up(
    client: Any, catalog_home: Path, make_documents: Documents, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = _writer._tiled_writer

    def dead(client: Any, batch_size: int) -> Any:
        time.sleep(0.5)  # Tiled's client tries for 45 s
        raise ConnectionError("Tiled is gone")

    docs = make_documents(20, 16)
    writer = tiled_writer(client, stop_wait_s=0.1)
    monkeypatch.setattr(_writer, "_tiled_writer", dead)
    begin = time.monotonic()
    for name, doc in docs:
        writer(name, doc)
    assert time.monotonic() - begin < 0.4
    time.sleep(1.0)
    monkeypatch.setattr(_writer, "_tiled_writer", real)
    assert resend_backups(client) == [docs[0][1]["uid"]]
    assert frames(client["raw"][docs[0][1]["uid"]], "detector_image").shape == (20, 16, 16)


def test_a_run_whose_console_died_gets_an_abort_as_its_end(
    client: Any, catalog_home: Path, make_documents: Documents
) -> None:
    docs = make_documents(7, 16, exit_status=None)
    uid = docs[0][1]["uid"]
    journal = _writer.Journal(catalog_home / "tiled" / "backups" / f"{uid}.msgpack")
    for name, doc in docs:
        journal.append(name, doc)
    assert resend_backups(client) == []  # still being written
    journal.close()
    with (catalog_home / "tiled" / "backups" / f"{uid}.msgpack").open("ab") as file:
        file.write(b"\x92\xa5event\x85")  # torn by the power cut
    assert resend_backups(client, uid) == [uid]
    run = client["raw"][uid]
    assert run.metadata["stop"]["exit_status"] == "abort"
    assert run.metadata["stop"]["num_events"] == {"primary": 7}
    assert frames(run, "detector_image").shape == (7, 16, 16)


def test_a_full_disk_under_the_journal_does_not_stop_the_run(
    client: Any, make_documents: Documents, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Any, name: str, document: dict[str, Any]) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_writer.Journal, "append", full)
    docs = make_documents(5, 16)
    writer = tiled_writer(client, stop_wait_s=30)
    for name, doc in docs:
        writer(name, doc)
    assert client["raw"][docs[0][1]["uid"]].metadata["stop"]["exit_status"] == "success"


def test_a_bad_journal_is_kept_and_does_not_hinder_the_others(client: Any, catalog_home: Path) -> None:
    bad = catalog_home / "tiled" / "backups" / "bad.msgpack"
    bad.write_bytes(b"\xc1\xc1\xc1")
    assert resend_backups(client) == []
    assert bad.exists()
    bad.unlink()


def test_two_consoles_append_one_at_a_time(
    tmp_path: Path, use_home: Callable[[Path], Path], make_documents: Documents, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two that append to one of Tiled's tables at once repeat rows: 1 of 4 such pairs did, before they took turns."""
    use_home(tmp_path)
    inside, most = [0], [0]

    def slow_sink(name: str, document: dict[str, Any]) -> None:
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        time.sleep(0.01)
        inside[0] -= 1

    monkeypatch.setattr(_writer, "_tiled_writer", lambda client, batch_size: slow_sink)
    writers = [_writer.RunWriter(None, batch_size=1, stop_wait_s=10, folder=tmp_path / "tiled" / "b") for _ in "ab"]
    for pair in zip(make_documents(8), make_documents(8), strict=True):
        for writer, (name, document) in zip(writers, pair, strict=True):
            writer(name, document)
    assert most == [1]
