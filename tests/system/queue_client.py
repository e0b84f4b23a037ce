"""A user at the queue server: ``queue_client.py CONTROL INFO`` queues a scan, runs it, and prints one JSON object."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from bluesky_queueserver_api import BPlan
from bluesky_queueserver_api.zmq import REManagerAPI


def refusal(manager: Any, plan: Any) -> str:
    try:
        manager.item_add(plan)
    except manager.RequestFailedError as error:
        return str(error)
    return ""


def until(manager: Any, key: str, value: Any, seconds: float) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            if manager.status(reload=True)[key] == value:
                return
        except manager.RequestTimeoutError:  # it does not listen yet
            pass
        if time.monotonic() > end:
            raise TimeoutError(f"{key} did not become {value!r} within {seconds:.0f} s")
        time.sleep(0.1)


manager = REManagerAPI(zmq_control_addr=sys.argv[1], zmq_info_addr=sys.argv[2])
until(manager, "manager_state", "idle", 60)
manager.environment_open()
until(manager, "worker_environment_exists", True, 90)
until(manager, "manager_state", "idle", 30)
found: dict[str, Any] = {
    "allowed": manager.plans_allowed()["plans_allowed"],
    "devices": sorted(manager.devices_allowed()["devices_allowed"]),
    "wrong_type": refusal(manager, BPlan("ptycho_map", height_um="wide")),
    "not_allowed": refusal(manager, BPlan("mv", 1)),
}
manager.item_add(BPlan("ptycho_map", height_um=1.0, width_um=1.0, sample="queued"))
manager.queue_start()
manager.wait_for_idle(timeout=120)
found["result"] = manager.history_get()["items"][-1]["result"]
manager.environment_close()
manager.wait_for_idle(timeout=60)
manager.close()
sys.stdout.write(json.dumps(found))
