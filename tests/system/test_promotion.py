"""A model is promoted, and rolled back, while a scan is imaged: the running edge process follows, frame by frame."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from event_model import compose_run
from waiting import until

from ptycho_bluesky.callbacks import LiveInference
from ptycho_bluesky.catalog import ModelLibrary, promote, rollback
from ptycho_bluesky.dispatch.models import add_model, model_in_service
from ptycho_bluesky.experiment import PtychoDataset, PtychographyMetadata, Reconstruction
from ptycho_bluesky.inference import ProbeViTModel, load_model


@pytest.mark.timeout(240)
def test_a_running_edge_process_swaps_networks_and_loses_no_frame(
    tmp_path: Path, use_home: Callable[[Path], Path], known_scan: tuple[PtychoDataset, Reconstruction]
) -> None:
    library = ModelLibrary(use_home(tmp_path / "home") / "models")
    model_in_service(library)
    other = load_model()
    assert isinstance(other, ProbeViTModel)
    with torch.no_grad():
        next(other.network.parameters()).mul_(1.01)
    other.save(tmp_path / "other.safetensors")
    second = add_model(tmp_path / "other.safetensors", library)

    dataset, result = known_scan
    places = dataset.positions / dataset.pixel_size_m  # type: ignore[operator]
    block = PtychographyMetadata(frames_key="det", position_keys=("y", "x"), position_unit="px").to_start()
    run = compose_run(metadata={"ptychography": block})
    keys = {name: {"dtype": "number", "shape": [], "source": "test"} for name in ("y", "x")}
    keys["det"] = {"dtype": "array", "shape": list(dataset.frame_shape), "source": "test"}  # type: ignore[dict-item]
    stream = run.compose_descriptor(name="primary", data_keys=keys)
    with LiveInference("in-service", probe=result.probe, folder=tmp_path / "live", threads=1) as live:
        live.wait_ready(120)
        live("start", run.start_doc)
        live("descriptor", stream.descriptor_doc)
        (log,) = (tmp_path / "live").glob("edge-*.log")
        for k, frame in enumerate(dataset.frames[:]):
            if k == 30:
                assert promote(library, second.content_hash, force="a test") is not None
            if k == 60:
                assert rollback(library).name == "default"
            if k in (45, 75):  # frames came before it had changed, and come after it
                until(lambda swaps=k // 30: log.read_text().count("is in service") == swaps)  # type: ignore[misc]
            data = {"det": frame, "y": float(places[k, 0]), "x": float(places[k, 1])}
            live("event", stream.compose_event(data=data, timestamps=dict.fromkeys(data, 0.0), validate=False))
        live("stop", run.compose_stop())
        told = live.wait(60)
    assert told is not None and told["frames"] == told["frames_inferred"] == len(dataset)
    assert told["frames_dropped"] == 0
