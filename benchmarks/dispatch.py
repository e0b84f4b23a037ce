"""Dispatch under load: many small jobs in a storm of kills, and what a look at them costs.

``ptycho-bluesky bench dispatch`` prints one JSON object: who was killed how often, the time of all, of a submission
(median and 99th percentile) and of ``jobs list``, and ``faults``, which must be empty: each job done once, and ledger,
folders and, with ``--tiled``, the catalogue in agreement. With ``--latency FILE`` it tells instead how long a
reconstruction of that file takes to begin, to be in Tiled and to be cancelled, cold and warm.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from storms.latency import latency
from storms.storm import Storm

from ptycho_bluesky.config import settings
from ptycho_bluesky.dispatch import Ledger

TILED = """
from ptycho_bluesky.catalog import connect
client = connect()
print(client.uri.split("/api/v1")[0])
client.context.close()
"""


def in_ledger_alone(ledger: Ledger) -> list[str]:
    """What the ledger says otherwise than the folders."""
    with closing(sqlite3.connect(ledger.path)) as database:
        rows = dict(database.execute("SELECT job_id, state FROM jobs").fetchall())
    found = []
    for path in ledger.folder.glob("*/spec.json"):
        job = ledger.job(path.parent.name)
        if (state := job.status().state) != (known := rows.pop(job.job_id, "nothing")):
            found.append(f"{job.job_id}: the ledger says {known}, the folder {state}")
    return found + [f"{job_id}: in the ledger alone" for job_id in rows]


def in_tiled(ledger: Ledger, patience_s: float) -> list[str]:
    """What the catalogue has otherwise than the folders, after waiting for what still waits."""
    from ptycho_bluesky.catalog import connect
    from ptycho_bluesky.dispatch import register_pending

    client = connect()
    deadline = time.monotonic() + patience_s
    while ledger.pending() and time.monotonic() < deadline:
        register_pending(client, ledger)
    parent = client["processed/ptychography"]
    nodes = {key: bool(parent[key].metadata.get("complete")) for key in parent}
    jobs = {path.parent.name for path in ledger.folder.glob("*/spec.json")}
    wrong = [f"{job}: not in Tiled" for job in jobs - nodes.keys()] + [f"{job}: unknown" for job in nodes.keys() - jobs]
    return wrong + [f"{job}: incomplete in Tiled" for job, complete in nodes.items() if not complete]


def latencies(path: Path, max_seconds: float | None) -> dict[str, Any]:
    """What ``latency`` returns, with an embedded server that runs already."""
    from ptycho_bluesky.catalog import connect, stop_server

    connect().context.close()
    try:
        return latency(path.absolute(), max_seconds=max_seconds)
    finally:
        stop_server()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--timeout", type=float, default=3600.0, help="seconds")
    parser.add_argument("--tiled", action="store_true", help="register all results in an embedded server")
    parser.add_argument("--latency", type=Path, metavar="FILE", help="a measurement")
    parser.add_argument("--max-seconds", type=float, help="of each of its reconstructions")
    parser.add_argument("--json", action="store_true", help="as all benchmarks: JSON is printed in any case")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PTYCHO_BLUESKY_HOME"] = folder
        settings.cache_clear()
        machine = {"platform": platform.platform(), "cores": os.cpu_count(), "load": os.getloadavg()[0]}
        if given.latency is not None:
            print(
                json.dumps({"benchmark": "dispatch", "machine": machine, **latencies(given.latency, given.max_seconds)})
            )
            return
        away = {} if given.tiled else {"PTYCHO_BLUESKY_TILED_URI": "http://127.0.0.1:9"}
        patience = {"PTYCHO_BLUESKY_TILED_PATIENCE_S": "20" if given.tiled else "0.01"}
        storm = Storm(Path(folder), given.jobs, given.kills, given.seed, environment={**away, **patience})
        sys.path.insert(0, str(storm.site))  # this process looks at specifications of that recipe, too
        try:
            seen: dict[str, Any] = storm.run(given.timeout)
            begin = time.perf_counter()
            command = [sys.executable, "-m", "ptycho_bluesky.cli", "jobs", "list", "--json"]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=storm.environment)
            listed = time.perf_counter() - begin
            faults = storm.faults() + in_ledger_alone(Ledger())
            faults += in_tiled(Ledger(), 600) if given.tiled else []
        finally:
            if given.tiled:
                from ptycho_bluesky.catalog import stop_server

                stop_server()
        report = {
            "benchmark": "dispatch",
            "machine": machine,
            "jobs": given.jobs,
            "seed": given.seed,
            **seen,
            "jobs_list_s": round(listed, 2),
            "faults": faults,
        }
        print(json.dumps(report))


if __name__ == "__main__":
    main()
