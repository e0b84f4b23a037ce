from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ptycho_bluesky.catalog import (
    PtychoReconstruction,
    _register,
    find_reconstructions,
    register_reconstruction,
    tiled_writer,
)
from ptycho_bluesky.errors import CatalogError
from ptycho_bluesky.experiment import Reconstruction, phase_contrast

Make = Callable[..., Reconstruction]


def measured(client: Any, documents: list[tuple[str, dict[str, Any]]]) -> str:
    writer = tiled_writer(client, stop_wait_s=30)
    for name, doc in documents:
        writer(name, doc)
    return str(documents[0][1]["uid"])


def test_all_of_a_result_comes_back(
    client: Any, make_result: Make, make_documents: Callable[..., Any], block: Any
) -> None:
    raw_uid = measured(
        client, make_documents(3, 16, metadata=block.model_copy(update={"campaign": {"view": 4}}), scan_id=5)
    )
    result, job_id = make_result(), str(uuid.uuid4())
    register_reconstruction(client, result, job_id=job_id, raw_uid=raw_uid)
    (node,) = find_reconstructions(client, raw_uid)
    assert isinstance(node, PtychoReconstruction)
    assert node.metadata["campaign"] == {"view": 4} and node.metadata["scan_id"] == 5
    assert node.phase.dtype == np.float32 and np.isnan(node.phase[0, 0])
    assert node.amplitude.shape == (24, 24)
    assert node.preview.shape == (24, 24, 3) and node.preview.dtype == np.uint8
    assert phase_contrast(node.phase) == pytest.approx(phase_contrast(result.phase))
    assert node.raw.metadata["start"]["uid"] == raw_uid
    assert node.raw.metadata["derived"]["ptychography"] == [f"processed/ptychography/{job_id}"]
    assert node.raw.metadata["stop"]["exit_status"] == "success"
    again = node.to_reconstruction()
    for name in ("object", "probe", "positions", "coverage", "errors"):
        np.testing.assert_array_equal(getattr(again, name), getattr(result, name))
        assert getattr(again, name).dtype == getattr(result, name).dtype
    assert (again.parameters, again.provenance) == (result.parameters, result.provenance)
    assert (again.origin, again.pixel_size_m, again.engine) == (result.origin, result.pixel_size_m, result.engine)
    assert node.plot().axes


def test_registering_twice_is_registering_once_and_another_result_is_refused(client: Any, make_result: Make) -> None:
    job_id = str(uuid.uuid4())
    first = register_reconstruction(client, make_result(), job_id=job_id)
    again = register_reconstruction(client, make_result(), job_id=job_id)
    assert first.metadata["created"] == again.metadata["created"]
    with pytest.raises(CatalogError, match="another result is registered"):
        register_reconstruction(client, make_result(seed=1), job_id=job_id)
    with pytest.raises(CatalogError, match="made from a file"):
        _ = first.raw


@pytest.mark.parametrize("arrays", range(9))
def test_what_a_killed_process_left_half_written_is_replaced(
    client: Any, make_result: Make, monkeypatch: pytest.MonkeyPatch, arrays: int
) -> None:
    class Killed(BaseException):
        pass

    from tiled.client.container import Container

    written: list[str] = []
    real_array, real_table, real_update = Container.write_array, Container.write_table, Container.update_metadata

    def dying(real: Any) -> Any:
        def write(self: Any, *args: Any, **kwargs: Any) -> Any:
            if len(written) == arrays:
                raise Killed
            written.append(kwargs.get("key", ""))
            return real(self, *args, **kwargs)

        return write

    job_id, raw_uid = str(uuid.uuid4()), str(uuid.uuid4())
    with monkeypatch.context() as patched:
        patched.setattr(Container, "write_array", dying(real_array))
        patched.setattr(Container, "write_table", dying(real_table))
        patched.setattr(Container, "update_metadata", dying(real_update))
        with pytest.raises(Killed):
            register_reconstruction(client, make_result(), job_id=job_id, raw_uid=raw_uid)
    assert find_reconstructions(client, raw_uid) == []  # a half-written result is never found
    register_reconstruction(client, make_result(), job_id=job_id, raw_uid=raw_uid)
    assert [n.metadata["job_id"] for n in find_reconstructions(client, raw_uid)] == [job_id]


def test_a_result_without_epochs_or_pixel_size_or_field(client: Any, make_result: Make) -> None:
    result = make_result(
        errors=np.zeros(0), pixel_size_m=None, coverage=np.zeros((24, 24), np.float32), r_factor=float("nan")
    )
    node = register_reconstruction(client, result, job_id=str(uuid.uuid4()))
    assert node.metadata["position_unit"] == "px" and node.metadata["r_factor"] is None
    back = node.to_reconstruction()
    assert len(back.errors) == 0 and back.pixel_size_m is None and np.isnan(back.r_factor)
    assert node.plot().axes


def test_the_content_hash_sees_arrays_and_parameters_and_nothing_else(make_result: Make) -> None:
    hashes = {
        _register.content_hash(r)
        for r in (make_result(), make_result(seed=1), make_result(parameters={"epochs": 4}), make_result(engine="x"))
    }
    assert len(hashes) == 4
    assert _register.content_hash(make_result(provenance={"host": "there"})) in hashes
