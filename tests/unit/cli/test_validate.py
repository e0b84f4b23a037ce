from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from ptycho_bluesky.cli import app
from ptycho_bluesky.experiment import PtychoDataset
from ptycho_bluesky.formats import save_dataset

KEYS = {"source", "kind", "ok", "needed", "wished", "amendments", "frames", "frame_shape"}


def validate(*arguments: str) -> tuple[int, Any]:
    result = CliRunner().invoke(app, ["validate", *arguments, "--json"])
    return result.exit_code, json.loads(result.stdout) if result.stdout else result.exception


def test_a_file(tmp_path: Path) -> None:
    frames = np.ones((9, 16, 16), np.uint16)
    save_dataset(tmp_path / "good.npz", PtychoDataset(frames, np.arange(18.0).reshape(9, 2)))
    code, found = validate(str(tmp_path / "good.npz"))
    assert code == 0 and found["ok"] and found["frames"] == 9 and found["frame_shape"] == [16, 16]
    assert [text.split(":")[0] for text in found["wished"]] == ["geometry", "probe", "mask"]
    np.savez(tmp_path / "bad.npz", frames=frames)
    code, found = validate(str(tmp_path / "bad.npz"))
    assert code == 1 and not found["ok"] and "positions" in found["needed"][0]


def test_a_run_without_a_block_is_amended(client: Any, tmp_path: Path) -> None:
    from event_model import compose_run

    from ptycho_bluesky.catalog import amendments_of, tiled_writer

    run, writer = (
        compose_run(metadata={"plan_name": "scan", "motors": ["m_y", "m_x"]}),
        tiled_writer(client, stop_wait_s=30),
    )
    number = {"dtype": "number", "shape": [], "source": "s", "dtype_numpy": "<f8", "units": "mm"}
    image = {"dtype": "array", "shape": [16, 16], "source": "s", "dtype_numpy": "<u2"}
    descriptor = run.compose_descriptor(name="primary", data_keys={"m_y": number, "m_x": number, "cam": image})
    writer("start", run.start_doc)
    writer("descriptor", descriptor.descriptor_doc)
    for k in range(4):
        data = {"m_y": k * 1e-3, "m_x": 0.0, "cam": np.ones((16, 16), np.uint16)}
        writer("event", dict(descriptor.compose_event(data=data, timestamps=dict.fromkeys(data, 0.0), validate=False)))
    writer("stop", run.compose_stop())
    uid, mapping = run.start_doc["uid"], tmp_path / "mapping.toml"

    code, found = validate(uid)
    assert code == 1 and found.keys() == KEYS and "no 'ptychography' block" in found["needed"][0]
    assert CliRunner().invoke(app, ["validate", uid, "--template", str(mapping)]).exit_code == 0
    text = mapping.read_text()
    assert 'position_unit = "mm"' in text and 'frames_key = "cam"' in text
    mapping.write_text(
        text.replace("energy_kev = 0.0", "energy_kev = 9.0").replace("distance_m = 0.0", "distance_m = 2.0")
    )
    code, found = validate(uid, "--mapping", str(mapping))
    assert code == 0 and found["ok"] and found["frames"] == 4 and found["amendments"] == 0
    shown = CliRunner().invoke(app, ["validate", uid, "--amend", str(mapping), "--reason", "before we had the plan"])
    assert shown.exit_code == 0 and "good to know" in shown.stdout and "--template" in shown.stdout
    assert [a["reason"] for a in amendments_of(client["raw"][uid])] == ["before we had the plan"]


def test_wrong_use(tmp_path: Path, client: Any) -> None:
    (tmp_path / "m.toml").write_text("[ptychography]\n")
    code, error = validate("nosuchrun00")
    assert code == 1 and "neither a file nor the uid of a run" in str(error)
    code, error = validate(str(tmp_path / "m.npz"), "--amend", str(tmp_path / "m.toml"))
    assert code == 1 and "are for runs in the catalogue" in str(error)


@pytest.mark.parametrize("option", ["--mapping", "--amend"])
def test_a_mapping_must_exist(option: str, tmp_path: Path) -> None:
    assert CliRunner().invoke(app, ["validate", "x", option, str(tmp_path / "none.toml")]).exit_code == 2
