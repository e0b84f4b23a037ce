"""A run read from Tiled while it is measured."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ptycho_bluesky.catalog import RunFollower, dataset_from_run, find_run
from ptycho_bluesky.errors import CatalogError
from ptycho_bluesky.experiment import PtychographyMetadata

Documents = list[tuple[str, dict[str, Any]]]


def sink(client: Any) -> Callable[[str, dict[str, Any]], None]:
    from bluesky_tiled_plugins import TiledWriter

    writer: Callable[[str, dict[str, Any]], None] = TiledWriter(client["raw"], batch_size=5)
    return writer


def test_frames_come_once_and_in_order_and_make_the_dataset_of_the_whole(
    client: Any, make_documents: Callable[..., Documents], block: PtychographyMetadata
) -> None:
    frames = np.random.default_rng(2).poisson(5, (23, 16, 16)).astype(np.uint16)
    frames[4, 3, 3] = frames[21, 9, 9] = 100  # saturated early, and late
    run = make_documents(frames=frames, metadata=block.model_copy(update={"saturation": 100}))
    follower, write, parts, news = RunFollower(client, run[0][1]["uid"]), sink(client), [], []
    with pytest.raises(CatalogError, match="is not in Tiled"):
        follower.look()
    for name, document in run:
        write(name, document)
        if name in ("start", "descriptor"):
            with pytest.raises(CatalogError):
                follower.look()
        elif (number := document.get("seq_num")) in (3, 5, 14, 23) or name == "stop":
            try:
                news.append((number, follower.look(), follower.ended))
            except CatalogError:
                assert number == 3, "nothing is written before the first batch is full"
            while follower.left:
                parts.append(follower.take(4))
    assert news == [(5, 5, False), (14, 5, False), (23, 10, False), (None, 3, True)]
    assert all(len(part) <= 4 for part in parts)
    whole = dataset_from_run(find_run(client, run[0][1]["uid"]))
    np.testing.assert_array_equal(np.concatenate([np.asarray(part.frames) for part in parts]), frames)
    np.testing.assert_array_equal(np.concatenate([part.positions for part in parts]), whole.positions)
    assert parts[0].mask is None and parts[1].mask is not None and parts[1].mask.sum() == 1
    np.testing.assert_array_equal(parts[-1].mask, whole.mask)
    assert parts[-1].geometry == whole.geometry and parts[-1].source == whole.source


def test_a_continued_scan_begins_with_what_was_measured_before(
    client: Any, make_documents: Callable[..., Documents], block: PtychographyMetadata
) -> None:
    first = make_documents(8, metadata=block, exit_status="abort")
    write = sink(client)
    for item in first:
        write(*item)
    goes_on = block.model_copy(update={"continues": first[0][1]["uid"], "first_point": 6})
    second = make_documents(10, metadata=goes_on, exit_status="abort")
    follower, counts = RunFollower(client, second[0][1]["uid"]), []
    for name, document in second:
        sunk = write(name, document)
        assert sunk is None
        if document.get("seq_num") in (5, 10) or name == "stop":
            counts.append(follower.look())
    assert counts == [6 + 5, 6 + 10, 6 + 10] and follower.ended
    taken = follower.take(100)
    np.testing.assert_array_equal(taken.positions[:, 0] * 1e6, [*range(6), *range(10)])


def test_a_run_without_a_frame_says_so_also_when_it_has_ended(
    client: Any, make_documents: Callable[..., Documents], block: PtychographyMetadata
) -> None:
    run = make_documents(0, metadata=block, frames=np.zeros((0, 16, 16), np.uint16), exit_status="abort")
    write = sink(client)
    for item in run:
        write(*item)
    follower = RunFollower(client, run[0][1]["uid"])
    with pytest.raises(CatalogError, match="has no"):
        follower.look()
    assert follower.ended
    with pytest.raises(CatalogError, match="look"):
        follower.take(1)
