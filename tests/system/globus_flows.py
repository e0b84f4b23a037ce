"""The Flows service of the stand-in for the Globus cloud: a run follows its definition, state by state."""

from __future__ import annotations

import re
import threading
import time
import uuid
from typing import Any


class Flows:
    """Deployed flows and their runs; transfers and tasks are the cloud's own."""

    faults: dict[str, Any]
    functions: dict[str, str]
    serializer: Any
    tasks: dict[str, Any]
    transfers: dict[str, dict[str, Any]]

    def __init__(self) -> None:
        self.flows: dict[str, dict[str, Any]] = {}
        self.runs: dict[str, dict[str, Any]] = {}

    def create_flow(self, body: dict[str, Any]) -> Any:
        made = str(uuid.uuid4())
        self.flows[made] = body
        return {"id": made, **body}

    def update_flow(self, body: dict[str, Any], flow: str) -> Any:
        self.flows[flow] |= body
        return {"id": flow}

    def run_flow(self, body: dict[str, Any], flow: str) -> Any:
        run_id = str(uuid.uuid4())
        run = self.runs[run_id] = {"run_id": run_id, "status": "ACTIVE", "details": {"details": {}}, "entries": []}
        threading.Thread(
            target=self._follow, args=(run, self.flows[flow]["definition"], body["body"]), daemon=True
        ).start()
        return run

    def _follow(self, run: dict[str, Any], definition: dict[str, Any], context: dict[str, Any]) -> None:
        name = definition["StartAt"]
        while run["status"] == "ACTIVE":
            state = definition["States"][name]
            run["details"] = {"details": {"state_name": name}}
            try:
                following = self._state(name, state, context, run)
            except Exception as error:  # noqa: BLE001 - whatever it is, the run has failed
                said = {"state_name": name, "output": {"status": "FAILED", "details": str(error)}}
                run["entries"] += [{"code": "ActionFailed", "details": said}, {"code": "FlowFailed", "details": {}}]
                run |= {"status": "FAILED", "details": {"description": "the run failed"}}
                return
            if following is None:
                run |= {"status": "SUCCEEDED", "details": {"output": context}}
                return
            name = following

    def _state(self, name: str, state: dict[str, Any], context: dict[str, Any], run: dict[str, Any]) -> str | None:
        if state["Type"] == "Choice":
            for choice in state["Choices"]:
                value = _at(context, choice["Variable"])
                if value == choice.get("StringEquals", choice.get("BooleanEquals")):
                    return str(choice["Next"])
            return str(state["Default"])
        if state["Type"] == "Action":
            if self.faults["break_action"] == name:
                raise RuntimeError(f"{name} was broken")
            act = self._act_transfer if "transfer." in state["ActionUrl"] else self._act_compute
            context[state["ResultPath"].removeprefix("$.")] = {
                "details": act(_resolved(state["Parameters"], context), run)
            }
        return None if state.get("End") else str(state["Next"])

    def _act_transfer(self, given: dict[str, Any], run: dict[str, Any]) -> Any:
        task = self.transfer({**given, "submission_id": str(uuid.uuid4())})["task_id"]
        while self.transfers[task]["status"] == "ACTIVE" and run["status"] == "ACTIVE":
            time.sleep(0.02)
        if self.transfers[task]["status"] == "FAILED":
            raise RuntimeError(f"{self.transfers[task]}")
        return {}

    def _act_compute(self, given: dict[str, Any], run: dict[str, Any]) -> Any:
        (task,) = given["tasks"]
        serialized = [self.serializer.serialize(tuple(task["args"])), self.serializer.serialize({})]
        payload = self.serializer.pack_buffers(serialized)
        made = self._start(self.functions[task["function_id"]] + payload, ["globus_compute_sdk.serialize.JSONData"])
        while not self.tasks[made].done() and run["status"] == "ACTIVE":
            time.sleep(0.02)
        told = self._told(made, self.tasks[made])
        if "exception" in told:
            raise RuntimeError(told["exception"])
        return {"result": [self.serializer.deserialize(told["result"])]}

    def run_told(self, body: Any, run: str) -> Any:
        return {key: value for key, value in self.runs[run].items() if key != "entries"}

    def run_log(self, body: Any, run: str) -> Any:
        return {"entries": self.runs[run]["entries"], "limit": 100, "has_next_page": False}

    def cancel_run(self, body: Any, run: str) -> Any:
        self.runs[run]["status"] = "ENDED"
        return self.run_told(body, run)


def _at(context: Any, path: str) -> Any:
    for key in re.findall(r"\w+|\[\d+\]", path.removeprefix("$.")):
        context = context[int(key[1:-1])] if key.startswith("[") else context[key]
    return context


def _resolved(given: Any, context: dict[str, Any]) -> Any:
    if isinstance(given, dict):
        plain = {key: _resolved(value, context) for key, value in given.items() if not key.endswith(".$")}
        return plain | {key[:-2]: _at(context, path) for key, path in given.items() if key.endswith(".$")}
    return [_resolved(value, context) for value in given] if isinstance(given, list) else given
