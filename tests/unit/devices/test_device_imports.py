import json
import os
import subprocess
import sys

import pytest

CODE = """
import json, sys, threading, time
import jsonschema  # of event-model; how long it takes depends on what Jupyter has installed beside it
began = time.process_time()
import ptycho_bluesky.plans, ptycho_bluesky.devices, ptycho_bluesky.callbacks
seconds = time.process_time() - began  # of this process alone: other work on the machine must not count
import os, ophyd
print(json.dumps({"seconds": seconds, "threads": threading.active_count(), "layer": ophyd.get_cl().name,
                  "variable": os.environ.get("OPHYD_CONTROL_LAYER"),
                  "heavy": sorted({"torch", "numba", "cupy", "caproto", "tiled", "matplotlib"} & set(sys.modules))}))
"""


def console(layer=None, path=None):
    env = {key: value for key, value in os.environ.items() if key != "OPHYD_CONTROL_LAYER"}
    if path:
        env["PYTHONPATH"] = str(path)
    if layer:
        env["OPHYD_CONTROL_LAYER"] = layer
    done = subprocess.run([sys.executable, "-c", CODE], env=env, capture_output=True, text=True, timeout=60, check=True)
    return json.loads(done.stdout)


def test_plans_devices_and_callbacks_are_light_and_start_no_threads():
    runs = [console() for _ in range(3)]
    assert min(run["seconds"] for run in runs) < 1.5
    assert all(run["heavy"] == [] and run["threads"] == 1 for run in runs)
    assert runs[0]["layer"] == "dummy" and runs[0]["variable"] is None  # the environment stays as it was


def test_a_choice_made_by_the_user_is_kept():
    assert console("dummy")["variable"] == "dummy"


def test_caproto_is_not_imported_where_nobody_asked_for_it(tmp_path):
    (tmp_path / "caproto").mkdir()
    (tmp_path / "caproto" / "__init__.py").write_text("raise RuntimeError('imported, and searching the network')")
    assert console(path=tmp_path)["layer"] == "dummy"
    with pytest.raises(subprocess.CalledProcessError):
        console("caproto", tmp_path)  # asked for, it is what ophyd takes
