"""The Globus cloud in one process of loopback; nothing else is faked: real SDKs outside, a real endpoint engine inside.

Answers what Auth, Compute, Transfer and Flows answer to the requests that this package makes. Submitted tasks run in an
engine of globus-compute-endpoint, transfers copy files between folders, and a run of a flow follows its definition. By
``POST /control`` a test makes it fail: see FAULTS.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import shutil
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import jwt
import requests
from cryptography.hazmat.primitives.asymmetric import rsa
from globus_compute_common import messagepack
from globus_compute_common.messagepack.message_types import Task
from globus_compute_endpoint.engines import ThreadPoolEngine
from globus_compute_endpoint.engines.base import GCFuture
from globus_compute_sdk.serialize import ComputeSerializer, JSONData, PureSourceTextInspect
from globus_flows import Flows

JSON_ONLY = [PureSourceTextInspect, JSONData]
SERVICES = ("AUTH", "COMPUTE", "TRANSFER", "FLOWS")
SERVERS = {"facd7ccc": "funcx_service", "transfer": "transfer.api.globus.org", "eec9b274": "flows.globus.org"}
GRANTED = "openid https://auth.globus.org/scopes/facd7ccc-c5f4-42aa-916b-a0e270e2c2a9/all " + " ".join(
    [
        "urn:globus:auth:scope:transfer.api.globus.org:all",
        "https://auth.globus.org/scopes/eec9b274-0c81-4334-bdc2-54e90e689b9a/all",
    ]
)
"""What a person who logs in consents to."""

ENDPOINT, HERE, THERE, PERSON = (str(uuid.UUID(int=n)) for n in (1, 2, 3, 4))

FAULTS: dict[str, Any] = {
    "auth": None,  # "invalid_grant": refuses tokens
    "refuse": {},  # path prefix: [status, body, how often]
    "endpoint": "online",
    "transfer": None,  # {"nice_status": ..., "nice_status_details": ...}: transfers make no progress
    "permitted": None,  # list of functions that the endpoint allows
    "forget": False,  # tasks are not known any more
    "break_action": None,  # state of a flow that fails
}


def environment(url: str) -> dict[str, str]:
    """Return what points the SDKs of a process to this cloud."""
    urls = {f"GLOBUS_SDK_SERVICE_URL_{name}": url for name in SERVICES}
    client = {"GLOBUS_COMPUTE_CLIENT_ID": str(uuid.UUID(int=9)), "GLOBUS_COMPUTE_CLIENT_SECRET": "s3cret-of-the-client"}
    return {**urls, **client}


class Refusal(Exception):
    def __init__(self, status: int, body: dict[str, Any]) -> None:
        super().__init__(status, body)
        self.status, self.body = status, body


class Cloud(Flows):
    """State of all services.

    Parameters
    ----------
    roots:
        Folders of the collections, by their UUIDs.
    workers:
        Threads of the endpoint; a job and a look need two.
    """

    def __init__(self, roots: dict[str, Path], workers: int = 4) -> None:
        super().__init__()
        self.roots, self.faults, self.log = roots, dict(FAULTS), list[str]()
        self.url = ""
        self.functions: dict[str, str] = {}
        self.tasks: dict[str, GCFuture] = {}
        self.transfers: dict[str, dict[str, Any]] = {}
        self.submitted: dict[str, str] = {}
        self.serializer = ComputeSerializer(*JSON_ONLY)
        self.engine = ThreadPoolEngine(max_workers=workers, allowed_serializers=JSON_ONLY)
        self.engine.start(endpoint_id=uuid.UUID(ENDPOINT), run_dir=tempfile.mkdtemp())

    def answer(self, method: str, path: str, body: Any) -> Any:
        self.log.append(f"{method} {path}")
        for prefix, (status, said, times) in self.faults["refuse"].items():
            if path.startswith(prefix) and times > 0:
                self.faults["refuse"][prefix][2] -= 1
                raise Refusal(status, said)
        for pattern, act in ROUTES:
            if found := re.fullmatch(pattern, f"{method} {path}"):
                return act(self, body, *found.groups())
        raise Refusal(404, {"code": "NotFound", "message": f"{method} {path}"})

    # Control

    def control(self, body: dict[str, Any]) -> Any:
        self.faults.update(body)
        return {"log": self.log, "functions": list(self.functions)}

    # Auth

    def token(self, body: dict[str, Any]) -> Any:
        if self.faults["auth"]:
            raise Refusal(400, {"error": self.faults["auth"]})
        person = body["grant_type"] != "client_credentials"
        found = []
        for scope in re.sub(r"\[[^\]]*\]", "", GRANTED if person else body["scope"]).split():
            flow = re.search(r"scopes/([0-9a-f-]{36})/flow_", scope)
            named = next((value for key, value in SERVERS.items() if key in scope), "auth.globus.org")
            found.append((flow.group(1) if flow else named, scope))
        wanted = body.get("refresh_token", "").removeprefix("refresh-")  # of one service
        tokens = [
            {
                "access_token": f"token-{server}",
                "scope": " ".join(scope for other, scope in found if other == server),
                "resource_server": server,
                "expires_in": 172800,
                "token_type": "Bearer",
                **({"refresh_token": f"refresh-{server}"} if person else {}),
            }
            for server in dict.fromkeys(server for server, _ in found)
            if not wanted or server == wanted
        ]
        who = {"id_token": self._id_token(body.get("client_id", ""))} if person and not wanted else {}
        return {**tokens[0], "other_tokens": tokens[1:], **who}

    def _id_token(self, client_id: str) -> str:
        claims = {"sub": PERSON, "aud": client_id, "iss": "globus", "exp": time.time() + 600}
        return jwt.encode(claims, self.key, algorithm="RS512")

    @functools.cached_property
    def key(self) -> rsa.RSAPrivateKey:
        return rsa.generate_private_key(public_exponent=65537, key_size=2048)

    def openid(self, body: Any) -> Any:
        algorithms = {"id_token_signing_alg_values_supported": ["RS512"]}
        return {**algorithms, "issuer": "globus", "jwks_uri": f"{self.url}jwk.json"}

    def jwk(self, body: Any) -> Any:
        return {"keys": [jwt.algorithms.RSAAlgorithm.to_jwk(self.key.public_key(), as_dict=True)]}

    # Compute

    def register(self, body: dict[str, Any]) -> Any:
        made = str(uuid.uuid4())
        self.functions[made] = body["function_code"]
        return {"function_uuid": made}

    def endpoint(self, body: Any, endpoint: str) -> Any:
        return {"status": self.faults["endpoint"], "details": {}}

    def submit(self, body: dict[str, Any], endpoint: str) -> Any:
        if len(json.dumps(body)) > 10_000_000:
            raise Refusal(413, {"reason": "TASK_PAYLOAD_TOO_LARGE", "status": "Failed"})
        tasks = {}
        for function, payloads in body["tasks"].items():
            permitted = self.faults["permitted"]
            if permitted is not None and function not in permitted:
                said = {"reason": f"Function {function} not permitted on endpoint", "code": "FUNCTION_NOT_PERMITTED"}
                raise Refusal(403, {**said, "status": "Failed"})
            code = self.functions[function]
            tasks[function] = [self._start(code + payload, body.get("result_serializers")) for payload in payloads]
        return {"tasks": tasks, "task_group_id": str(uuid.uuid4()), "request_id": "r", "endpoint_id": endpoint}

    def _start(self, buffer: str, result_serializers: list[str] | None) -> str:
        task_id = uuid.uuid4()
        future = self.tasks[str(task_id)] = GCFuture(task_id)
        packed = messagepack.pack(Task(task_id=task_id, task_buffer=buffer))
        self.engine.submit(future, packed, {}, result_serializers)
        return str(task_id)

    def batch(self, body: dict[str, Any]) -> Any:
        known = {} if self.faults["forget"] else self.tasks
        found = {t: self._told(t, known[t]) for t in body["task_ids"] if t in known}
        return {"response": "batch", "results": found}

    def _told(self, task_id: str, future: GCFuture) -> dict[str, Any]:
        if not future.done():
            return {"task_id": task_id, "status": "pending"}
        result = messagepack.unpack(future.result())
        if getattr(result, "error_details", None):
            return {"task_id": task_id, "status": "failed", "exception": result.data, "completion_t": "0"}
        return {"task_id": task_id, "status": "success", "result": result.data, "completion_t": "0"}

    # Transfer

    def submission(self, body: Any) -> Any:
        return {"value": str(uuid.uuid4())}

    def transfer(self, body: dict[str, Any]) -> Any:
        key = body["submission_id"]
        if key not in self.submitted:
            task = self.submitted[key] = str(uuid.uuid4())
            self.transfers[task] = {"task_id": task, "status": "ACTIVE", "nice_status": "OK", "bytes_transferred": 0}
            if self.faults["transfer"]:
                self.transfers[task] |= self.faults["transfer"]
            else:
                threading.Thread(target=self._copy, args=(task, body), daemon=True).start()
        return {"code": "Accepted", "task_id": self.submitted[key], "submission_id": key}

    def _copy(self, task: str, body: dict[str, Any]) -> None:
        source, destination = (self.roots[body[f"{end}_endpoint"]] for end in ("source", "destination"))
        told = self.transfers[task]
        try:
            for item in body["DATA"]:
                target = destination / item["destination_path"].lstrip("/")
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source / item["source_path"].lstrip("/"), target)
                told["bytes_transferred"] += target.stat().st_size
            told["status"] = "SUCCEEDED"
        except OSError as error:
            told |= {"status": "FAILED", "nice_status": "FILE_NOT_FOUND", "nice_status_details": str(error)}

    def task(self, body: Any, task: str) -> Any:
        return self.transfers[task]

    def events(self, body: Any, task: str) -> Any:
        details = self.transfers[task].get("nice_status_details")
        return {
            "DATA": [{"is_error": True, "details": details}] if details else [],
            "total": 1,
            "offset": 0,
            "limit": 9,
        }

    def cancel_transfer(self, body: Any, task: str) -> Any:
        self.transfers[task]["status"] = "FAILED"
        return {"code": "Canceled", "message": "cancelled"}


ONE = r"([0-9a-f-]{36})"
ROUTES: list[tuple[str, Callable[..., Any]]] = [
    ("POST /control", Cloud.control),
    ("POST /v2/oauth2/token", Cloud.token),
    ("POST /v2/oauth2/token/revoke", lambda cloud, body: {"active": False}),
    ("GET /.well-known/openid-configuration", Cloud.openid),
    ("GET /jwk.json", Cloud.jwk),
    ("POST /v3/functions", Cloud.register),
    (f"GET /v2/endpoints/{ONE}/status", Cloud.endpoint),
    (f"POST /v3/endpoints/{ONE}/submit", Cloud.submit),
    ("POST /v2/batch_status", Cloud.batch),
    ("GET /v0.10/submission_id", Cloud.submission),
    ("POST /v0.10/transfer", Cloud.transfer),
    (f"GET /v0.10/task/{ONE}", Cloud.task),
    (f"GET /v0.10/task/{ONE}/event_list", Cloud.events),
    (f"POST /v0.10/task/{ONE}/cancel", Cloud.cancel_transfer),
    ("POST /flows", Cloud.create_flow),
    (f"PUT /flows/{ONE}", Cloud.update_flow),
    (f"POST /flows/{ONE}/run", Cloud.run_flow),
    (f"GET /runs/{ONE}", Cloud.run_told),
    (f"GET /runs/{ONE}/log", Cloud.run_log),
    (f"POST /runs/{ONE}/cancel", Cloud.cancel_run),
]


def server(cloud: Cloud) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            size = int(self.headers.get("Content-Length", 0))
            text = self.rfile.read(size).decode()
            form = "form" in self.headers.get("Content-Type", "")
            body = {k: v[0] for k, v in parse_qs(text).items()} if form else json.loads(text or "null")
            try:
                status, answer = 200, cloud.answer(self.command, self.path.partition("?")[0], body)
            except Refusal as refusal:
                status, answer = refusal.status, refusal.body
            data = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            if status == 429:
                self.send_header("Retry-After", "0")
            self.end_headers()
            self.wfile.write(data)

        do_POST = do_PUT = do_GET

        def log_message(self, *args: Any) -> None:
            pass

    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    cloud.url = f"http://127.0.0.1:{made.server_port}/"
    return made


@contextlib.contextmanager
def in_this_process(roots: dict[str, Path]) -> Iterator[tuple[str, Cloud]]:
    """Serve a cloud from a thread; yields its address and its state."""
    cloud, folder = Cloud(roots), Path.cwd()
    served = server(cloud)
    thread = threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield cloud.url, cloud
    finally:
        served.shutdown()
        served.server_close()
        thread.join()
        cloud.engine.shutdown()
        os.chdir(folder)  # tasks change it


def control(url: str, **faults: Any) -> Any:
    """Set faults of a cloud in another process, and return what it was asked so far."""
    return requests.post(f"{url}control", json=faults, timeout=10).json()


if __name__ == "__main__":  # python globus_cloud.py ROOT_HERE ROOT_THERE: the facility's environment is this process's
    running = server(Cloud({HERE: Path(sys.argv[1]), THERE: Path(sys.argv[2])}))
    sys.stdout.write(f"http://127.0.0.1:{running.server_port}/\n")
    sys.stdout.flush()
    running.serve_forever(poll_interval=0.05)
