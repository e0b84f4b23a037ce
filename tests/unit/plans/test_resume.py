import threading

import numpy as np
import pytest
from bluesky.utils import RunEngineInterrupted

from ptycho_bluesky.errors import PlanError
from ptycho_bluesky.experiment import PtychographyMetadata, ScanPattern, fermat, from_positions, raster, snake
from ptycho_bluesky.plans import ptycho_fly, ptycho_resume, ptycho_scan

PATTERN = snake(0.8e-6, 0.8e-6, 0.2e-6)  # 5 x 5


@pytest.fixture
def b(flying_beamline):
    return flying_beamline


def aborted(engine, recorded, plan, after, name="event"):
    """Run a plan and abort it after so many documents of `name`; return the run's documents."""
    recorded.clear()
    seen = []

    def stop(_, doc):
        seen.append(doc)
        if len(seen) == after:
            threading.Thread(target=engine.request_pause).start()

    token = engine.subscribe(stop, name)
    with pytest.raises(RunEngineInterrupted):
        engine(plan)
    engine.abort()
    engine.unsubscribe(token)
    return list(recorded)


def devices(b):
    return [b.detector], b.stage.y, b.stage.x


def places(documents):
    return np.array([(d["data"]["stage_y"], d["data"]["stage_x"]) for n, d in documents if n == "event"])


@pytest.mark.parametrize(
    "pattern",
    [PATTERN, fermat(0.8e-6, 0.8e-6, 0.2e-6).moved((1e-7, 0)), from_positions(PATTERN.positions[::-1], "mine")],
)
def test_only_the_missing_positions_are_measured(b, engine, recorded, pattern):
    first = aborted(engine, recorded, ptycho_scan(*devices(b), pattern, metadata=b.metadata), 7)
    done = len(places(first))
    assert 0 < done < len(pattern)
    recorded.clear()
    (uid,) = engine(ptycho_resume(*devices(b), first, md={"note": "after lunch"}))
    (start,) = recorded.of("start")
    block = PtychographyMetadata.from_start(start)
    assert block.continues == first[0][1]["uid"] != uid and block.first_point == done
    assert start["plan_name"] == "ptycho_resume" and start["note"] == "after lunch"
    assert start["num_points"] == len(pattern) - done and block.pattern.num_points == len(pattern)
    both = np.concatenate([places(first), places(recorded)])
    np.testing.assert_allclose(both * 1e-6, pattern.positions, atol=1e-12)


def test_a_scan_may_be_continued_more_than_once(b, engine, recorded):
    first = aborted(engine, recorded, ptycho_scan(*devices(b), PATTERN, metadata=b.metadata), 5)
    second = aborted(engine, recorded, ptycho_resume(*devices(b), first), 5)
    recorded.clear()
    engine(ptycho_resume(*devices(b), second))
    assert recorded.blocks[0]["continues"] == first[0][1]["uid"]
    both = np.concatenate([places(first), places(second), places(recorded)])
    np.testing.assert_allclose(both * 1e-6, PATTERN.positions, atol=1e-12)


def test_a_fly_scan_goes_on_in_the_middle_of_a_line(b, engine, recorded):
    b.flyer.speedup.put(5.0)
    options = {"metadata": b.metadata, "exposure_s": 0.01, "period_s": 0.02, "flush_s": 0.02}
    first = aborted(engine, recorded, ptycho_fly([b.detector], b.flyer, PATTERN, **options), 3, "stream_datum")
    b.flyer.speedup.put(1e6)
    done = first[-1][1]["num_events"]["primary"]
    assert 0 < done < len(PATTERN)
    recorded.clear()
    engine(ptycho_resume(*devices(b), first, flyer=b.flyer))
    (start,), (stop,) = recorded.of("start"), recorded.of("stop")
    assert start["ptychography"]["first_point"] == done and start["ptychography"]["period_s"] == 0.02
    assert stop["num_events"] == {"primary": len(PATTERN) - done}


def test_a_run_in_the_catalogue_is_continued_and_its_dataset_is_whole(b, engine, recorded, client):
    from ptycho_bluesky.catalog import continued, dataset_from_run, tiled_writer

    engine.subscribe(tiled_writer(client, batch_size=50, stop_wait_s=30))
    first = aborted(engine, recorded, ptycho_scan(*devices(b), PATTERN, metadata=b.metadata), 7)
    root = first[0][1]["uid"]
    done = len(places(first))
    partial = dataset_from_run(client["raw"][root])
    assert len(partial) == done
    (uid,) = engine(ptycho_resume(*devices(b), root[:8]))
    assert [run.metadata["start"]["uid"] for run in continued(client["raw"][root])] == [root, uid]
    for name in (root, uid):
        dataset = dataset_from_run(client["raw"][name])
        assert len(dataset) == len(PATTERN) and dataset.source["raw_uid"] == name
        np.testing.assert_allclose(dataset.positions, PATTERN.positions, atol=1e-12)
        np.testing.assert_array_equal(dataset.frames[0:done], partial.frames[0:done])
    with pytest.raises(PlanError, match="has all 25 positions of its pattern"):
        engine(ptycho_resume(*devices(b), client["raw"][root]))
    with pytest.raises(PlanError, match="'nosuchrun' is not in the catalogue"):
        engine(ptycho_resume(*devices(b), "nosuchrun"))


def test_what_cannot_be_resumed_is_refused(b, engine, recorded):
    first = aborted(engine, recorded, ptycho_scan(*devices(b), PATTERN, metadata=b.metadata), 7)
    recorded.clear()

    def refused(documents=first, **options):
        with pytest.raises(PlanError) as caught:
            engine(ptycho_resume(*devices(b), documents, **options))
        return str(caught.value)

    assert "the pattern has" in refused(pattern=raster(0.8e-6, 0.8e-6, 0.2e-6))
    assert "0 start documents" in refused([])
    start = {**first[0][1], "ptychography": {**first[0][1]["ptychography"], "pattern": None}}
    assert "does not tell all positions" in refused([("start", start), *first[1:]])
    assert "no 'ptychography' block" in refused([("start", {"uid": "x"}), *first[1:]])
    assert recorded == []


def test_a_long_list_is_not_told_and_has_to_be_given(b, engine, recorded, monkeypatch):
    monkeypatch.setattr("ptycho_bluesky.plans._arguments.MOST_LISTED", 10)
    mine = ScanPattern("mine", PATTERN.positions[::-1])
    first = aborted(engine, recorded, ptycho_scan(*devices(b), mine, metadata=b.metadata), 7)
    with pytest.raises(PlanError, match="does not tell all positions"):
        engine(ptycho_resume(*devices(b), first))
    recorded.clear()
    engine(ptycho_resume(*devices(b), first, pattern=mine))
    assert len(places(first)) + len(places(recorded)) == len(PATTERN)
