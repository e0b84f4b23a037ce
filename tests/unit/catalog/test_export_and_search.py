"""What leaves the catalogue: searches by what people ask for, one file for other programs, databroker's two styles."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from ptycho_bluesky.catalog import (
    CampaignRuns,
    ReconstructionsBy,
    ReconstructionsOf,
    ResolvedTo,
    export_run,
    register_reconstruction,
    tiled_writer,
)
from ptycho_bluesky.cli import app
from ptycho_bluesky.errors import CatalogError
from ptycho_bluesky.experiment import Reconstruction
from ptycho_bluesky.formats import load_dataset, read_reconstruction

Make = Callable[..., Reconstruction]


@pytest.fixture
def run(client: Any, make_result: Make, make_documents: Callable[..., Any], block: Any) -> tuple[str, str]:
    """Uid of a run of 10 frames with a reconstruction, and that one's job."""
    tag = uuid.uuid4().hex
    metadata = block.model_copy(update={"campaign": {"uid": tag, "view": 1}})
    documents = make_documents(10, 16, metadata=metadata)
    writer = tiled_writer(client, stop_wait_s=30)
    for name, doc in documents:
        writer(name, doc)
    job, pixel = str(uuid.uuid4()), metadata.geometry.pixel_size_m(16)
    register_reconstruction(
        client, make_result(pixel_size_m=pixel, engine=tag, r_factor=0.2), job_id=job, raw_uid=documents[0][1]["uid"]
    )
    return documents[0][1]["uid"], job


def test_searches(client: Any, run: tuple[str, str]) -> None:
    uid, job = run
    results = client["processed/ptychography"]
    (found,) = results.search(ReconstructionsOf(uid)).values()
    engine, campaign = found.metadata["engine"], client["raw"][uid].metadata["start"]["ptychography"]["campaign"]["uid"]
    assert found.metadata["job_id"] == job
    assert list(results.search(ReconstructionsBy(engine)).search(ResolvedTo(0.2))) == [job]
    assert list(results.search(ReconstructionsBy(engine)).search(ResolvedTo(0.19))) == []
    (measured,) = client["raw"].search(CampaignRuns(campaign)).values()
    assert measured.metadata["start"]["uid"] == uid


def test_a_run_and_its_result_in_one_file(client: Any, run: tuple[str, str], tmp_path: Path) -> None:
    uid, job = run
    written = export_run(client, uid, tmp_path / "run.cxi")
    assert written.metadata["job_id"] == job
    measured, result = load_dataset(tmp_path / "run.cxi"), read_reconstruction(tmp_path / "run.cxi")
    np.testing.assert_array_equal(measured.frames[3], client["raw"][uid]["primary/detector_image"][3])
    assert measured.name == uid and measured.geometry is not None and measured.geometry.energy_kev == 8.0
    np.testing.assert_array_equal(result.object, written.object)
    assert export_run(client, uid, tmp_path / "raw.cxi", result=False) is None
    assert len(load_dataset(tmp_path / "raw.cxi")) == 10
    with pytest.raises(CatalogError, match=f"no finished reconstruction nothing; there are {job}"):
        export_run(client, uid, tmp_path / "no.cxi", job_id="nothing")
    with pytest.raises(CatalogError, match="not in this catalogue"):
        export_run(client, "0" * 36, tmp_path / "no.cxi")


def test_export_by_command(client: Any, run: tuple[str, str], tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["export", run[0][:8], "-o", str(tmp_path / "run.cxi"), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["raw_uid"] == run[0]


DATABROKER = """
import json, sys, warnings
from databroker.v1 import Broker
from ptycho_bluesky.catalog import ReconstructionsOf, connect
# The bluesky writer names axes by their length, so a square frame has two of one name when all keys are read at once.
warnings.filterwarnings("ignore", "Duplicate dimension names")
client, uid = connect(), sys.argv[1]
header = Broker(client["raw"])[uid]
results = client["processed/ptychography"].search(ReconstructionsOf(header.start["uid"]))
found = {
    "uid": header.start["uid"], "status": header.stop["exit_status"],
    "documents": [name for name, _ in header.documents()][:2], "table": list(header.table()["stage_y"]),
    "results": [node.metadata["job_id"] for node in results.values()],
}
second = client["raw"].v2[uid]
found["columns"] = list(second.primary.read(["stage_x"])["stage_x"].shape)
found["frames"] = list(second["primary"]["data"]["detector_image"].read().shape)
print(json.dumps(found))
"""


def test_databroker_reads_the_same_run_in_both_styles(client: Any, run: tuple[str, str]) -> None:
    # In a process of its own: taking the second style changes how runs look in all of the process.
    pytest.importorskip("databroker", reason="databroker is not installed (extra databroker)")
    done = subprocess.run([sys.executable, "-c", DATABROKER, run[0]], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["uid"] == run[0] and found["status"] == "success" and found["documents"] == ["start", "descriptor"]
    assert found["table"] == [float(i) for i in range(10)] and found["results"] == [run[1]]
    assert found["columns"] == [10] and found["frames"] == [10, 16, 16]
