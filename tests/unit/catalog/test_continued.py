"""Which runs make one dataset, without a server; the whole way is in the tests of ptycho_resume."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ptycho_bluesky.catalog import continued, dataset_from_run, dataset_from_runs
from ptycho_bluesky.errors import CatalogError, DatasetError
from ptycho_bluesky.experiment import PtychographyMetadata

Documents = Callable[..., list[tuple[str, dict[str, Any]]]]


class Column:
    def __init__(self, data: np.ndarray) -> None:
        self.data, self.shape, self.dtype = data, data.shape, data.dtype

    def read(self) -> np.ndarray:
        return self.data

    def __getitem__(self, index: Any) -> np.ndarray:
        return self.data[index]


class Run(dict[str, Any]):
    """As much of a Tiled run as is read."""

    uri = "http://127.0.0.1/run"

    def __init__(self, docs: list[tuple[str, dict[str, Any]]], parent: Parent) -> None:
        self.metadata = {"start": docs[0][1], "stop": docs[-1][1] if docs[-1][0] == "stop" else None}
        self.parent = parent
        events = [d for n, d in docs if n == "event"]
        keys = events[0]["data"] if events else ()
        columns = {k: Column(np.stack([e["data"][k] for e in events])) for k in keys}
        super().__init__({"primary": columns} if events else {})


class Parent(dict[str, Run]):
    parent: dict[str, Any] = {}  # noqa: RUF012, no amendments

    def search(self, query: Any) -> Parent:
        return Parent(
            {k: r for k, r in self.items() if r.metadata["start"]["ptychography"]["continues"] == query.value}
        )


@pytest.fixture
def raw(make_documents: Documents, block: PtychographyMetadata) -> Parent:
    """A first run of 5 frames; one that began and has none; one that goes on at the fourth position."""
    parent = Parent()
    first = make_documents(5, metadata=block, exit_status="abort")
    uid = first[0][1]["uid"]
    empty = block.model_copy(update={"continues": uid, "first_point": 5})
    later = block.model_copy(update={"continues": uid, "first_point": 4})
    nothing = [d for d in make_documents(2, metadata=empty, exit_status="abort") if d[0] != "event"]
    for docs in (first, nothing, make_documents(6, metadata=later)):
        docs[0][1]["time"] = len(parent) + 1.0
        parent[docs[0][1]["uid"]] = Run(docs, parent)
    return parent


def test_runs_are_in_the_order_of_their_positions(raw: Parent) -> None:
    for run in raw.values():
        assert [r.metadata["start"]["time"] for r in continued(run)] == [1.0, 3.0, 2.0]


def test_every_position_counts_once_and_an_empty_run_not_at_all(raw: Parent) -> None:
    for run in raw.values():
        dataset = dataset_from_run(run)
        assert len(dataset) == 4 + 6
        np.testing.assert_allclose(dataset.positions[:, 0] * 1e6, [0, 1, 2, 3, 0, 1, 2, 3, 4, 5])
        first = next(iter(raw.values()))["primary"]["detector_image"].data
        np.testing.assert_array_equal(dataset.frames[0:4], first[:4])


def test_a_run_that_is_alone_and_empty(raw: Parent) -> None:
    empty = list(raw.values())[1]
    empty.parent = Parent({empty.metadata["start"]["uid"]: empty})
    with pytest.raises(CatalogError, match="no stream 'primary'"):
        dataset_from_run(empty)


def test_runs_that_do_not_join(raw: Parent) -> None:
    runs = [run for run in raw.values() if run]
    assert len(dataset_from_runs(runs)) == 11
    runs[1].metadata["start"]["ptychography"]["rotation_deg"] = 30.0
    with pytest.raises(DatasetError, match=r"runs that do not join .*has rotation_deg 30.0, the first 0.0"):
        dataset_from_runs(runs)
