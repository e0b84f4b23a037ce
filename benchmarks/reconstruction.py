"""Ours beside the floor (the Fourier transforms alone) and beside its peers, in one run.

``python benchmarks/reconstruction.py --json`` prints one JSON object, and lines for people on standard error. The
data are a simulated star and, where ``PTYCHO_BLUESKY_DATA`` names its folder, a measured one of the same size. Every
reconstruction has a process, the cores and the time for itself, starts from the same probe, a flat object and the same
positions, and is judged by the same code outside of the timed part. With 60 s, a dataset takes half an hour.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from side_by_side.datasets import Task, datasets
from side_by_side.entries import ENTRIES
from side_by_side.environment import NoPeersError, environment
from side_by_side.judge import flat_phase
from side_by_side.picture import Panels, picture
from side_by_side.race import FailedError, compile_seconds, floor, race
from side_by_side.verdict import verdict


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench reconstruction", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="a far-field file with a probe, instead of the stars")
    parser.add_argument("--seconds", type=float, default=60.0, help="wall time of each reconstruction (default 60)")
    parser.add_argument(
        "--peers",
        default=os.environ.get("PTYCHO_BLUESKY_PEER_PYTHON", "auto"),
        help="auto: an environment in the cache folder, made if missing; none; or an interpreter that has them",
    )
    parser.add_argument("--picture", type=Path, help="PNG with all reconstructions")
    parser.add_argument(
        "--only", action="append", metavar="TEXT", help="contestants whose name holds this text; may be repeated"
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", action="store_true", help="print exactly one JSON object on standard output")
    return parser.parse_args()


def peers_python(wanted: str) -> tuple[Path | None, str]:
    """Return the peers' interpreter, or None and the reason."""
    if wanted == "none":
        return None, "not asked for: --peers none"
    if wanted != "auto":
        return Path(wanted), ""
    try:
        return environment(), ""
    except NoPeersError as error:
        return None, str(error)


def measure(task: Task, given: argparse.Namespace, peers: Path | None, reason: str) -> tuple[dict[str, Any], Panels]:
    """Return the report of one dataset and the pictures of its reconstructions."""
    count, size = len(task.frames), task.frames.shape[-1]
    pythons = [Path(sys.executable), *([peers] if peers else [])]
    before = floor(pythons, count, size, given.threads)
    reports: dict[str, dict[str, Any]] = {}
    panels: Panels = {}
    for entry in (e for e in ENTRIES if any(text in e.name for text in given.only or [""])):
        python = Path(sys.executable) if entry.engine == "ours" else peers
        if python is None:
            reports[entry.name] = {"engine": entry.engine, "skipped": reason}
            continue
        say(f"{task.name}: {entry.name}...")
        try:
            report, result = race(entry, python, task, given.seconds, given.threads)
        except FailedError as error:
            reports[entry.name] = {"engine": entry.engine, "skipped": str(error)}
            say(f"  failed: {error}")
            continue
        reports[entry.name] = report
        r, contrast = report["r_factor"], report["phase_contrast_rad"]
        panels[f"{entry.name}\nR {r:.4f}, contrast {contrast:.2f} rad"] = flat_phase(result)
        correlation = report["half_data_correlation"]["mean"]
        say(
            f"  R {r:.4f}, contrast {contrast:.2f} rad, half-data correlation {correlation:.3f}, "
            f"{report['s_per_epoch']:.3f} s/epoch, {report['epochs']} epochs, peak {report['peak_mb']:.0f} MB"
        )
    after = floor(pythons, count, size, given.threads)
    least = min([*before.values(), *after.values()])
    for report in reports.values():
        if "s_per_epoch" in report:
            modes = report["settings"].get("modes") or report["settings"].get("options", {}).get("modes")
            report["times_floor"] = round(report["s_per_epoch"] / (least * modes), 2) if modes else None
    found = {
        "frames": list(task.frames.shape),
        "floor_s": least,
        "floor_before": before,
        "floor_after": after,
        "contestants": reports,
        "verdict": verdict(reports, least),
    }
    return found, panels


def main() -> int:
    given = arguments()
    peers, reason = peers_python(given.peers)
    if peers is None:
        say(f"peers skipped: {reason}")
    report: dict[str, Any] = {
        "benchmark": "reconstruction",
        "machine": {
            "platform": platform.platform(),
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "load_average": [round(v, 2) for v in os.getloadavg()],
        },
        "versions": {name: version(name) for name in ("ptycho-bluesky", "numba", "rocket-fft", "torch", "numpy")},
        "threads": given.threads,
        "seconds": given.seconds,
        "compile": compile_seconds(),
        "data": {},
    }
    rows: dict[str, Panels] = {}
    with tempfile.TemporaryDirectory() as folder:
        for dataset in datasets(given.data):
            task = Task.of(dataset, Path(folder))
            report["data"][task.name], panels = measure(task, given, peers, reason)
            rows |= {task.name: panels} if panels else {}
    if given.picture and rows:
        picture(given.picture, rows)
    print(
        json.dumps(report) if given.json else json.dumps({n: d["verdict"] for n, d in report["data"].items()}, indent=1)
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
