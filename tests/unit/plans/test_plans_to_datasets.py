"""Flights and mosaics, through a real Tiled server, to datasets."""

import numpy as np
import pytest
from event_model import DocumentNames, schema_validators

from ptycho_bluesky.devices import SimulatedAxis
from ptycho_bluesky.errors import DatasetError
from ptycho_bluesky.experiment import PtychographyMetadata, snake
from ptycho_bluesky.plans import ptycho_fly, ptycho_mosaic
from ptycho_bluesky.stream import FrameRange, RunReader

PATTERN = snake(0.4e-6, 0.6e-6, 0.2e-6)


@pytest.fixture
def b(flying_beamline):
    return flying_beamline


@pytest.mark.filterwarnings("ignore:Tiled server does not support remote validation")  # then its client does it
def test_a_flight_becomes_a_dataset_and_live_ranges(b, engine, recorded, client):
    from ptycho_bluesky.catalog import dataset_from_run, tiled_writer

    engine.subscribe(tiled_writer(client, batch_size=100, stop_wait_s=30))
    (uid,) = engine(ptycho_fly([b.detector], b.flyer, PATTERN, metadata=b.metadata, exposure_s=0.001, flush_s=0.02))
    dataset = dataset_from_run(client["raw"][uid])
    np.testing.assert_allclose(dataset.positions, PATTERN.positions, atol=1e-10)
    assert dataset.frames.shape == (12, 64, 64) and np.asarray(dataset.frames[11:12]).sum() > 0

    run = client["raw"][uid]
    assert run.validate(fix_errors=False, write_notes=False), "Tiled's own check of a run"
    exported = list(run.documents())
    for name, document in exported:
        schema_validators[DocumentNames[name]].validate(document)
    assert exported[0][1]["uid"] == uid and exported[-1][0] == "stop"
    assert max(d["indices"]["stop"] for name, d in exported if name == "stream_datum") == 12

    reader = RunReader(PtychographyMetadata.from_start(recorded[0][1]))
    live = [item for name, doc in recorded for item in reader.feed(name, doc)]
    assert all(isinstance(item, FrameRange) for item in live) and sum(map(len, live)) == 12
    assert reader.unmatched == 0 and [item.index for item in live] == sorted(item.index for item in live)


def test_tiles_become_one_dataset(b, engine, recorded, client):
    from ptycho_bluesky.catalog import CampaignRuns, dataset_from_runs, tiled_writer

    coarse = [SimulatedAxis(name=name, egu="um", limits=(-10.0, 10.0)) for name in ("coarse_y", "coarse_x")]
    engine.subscribe(tiled_writer(client, batch_size=100, stop_wait_s=30))
    tile = {"name": "raster", "height_m": 0.2e-6, "width_m": 0.2e-6, "step_m": 0.1e-6}
    options = {"height_m": 0.35e-6, "width_m": 0.2e-6, "tile_overlap_m": 0.05e-6, "metadata": b.metadata}
    engine(ptycho_mosaic([b.detector], b.stage.y, b.stage.x, tile, **options, coarse_y=coarse[0], coarse_x=coarse[1]))
    campaign = recorded.blocks[0]["campaign"]["uid"]
    dataset = dataset_from_runs(client["raw"].search(CampaignRuns(campaign)).values())
    assert len(dataset) == 18 and len(dataset.source["raw_uids"]) == 2
    np.testing.assert_allclose([dataset.positions[:, 0].min(), dataset.positions[:, 0].max()], [-0.175e-6, 0.175e-6])
    with pytest.raises(DatasetError, match="there is no run"):
        dataset_from_runs([])
