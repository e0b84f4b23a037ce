"""What is wrong with a beamline's profile: it is read, and started once in a process of its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from ptycho_bluesky.cli._finding import Finding

__all__ = ["examine_profile"]

START_S = 120.0
"""Longest time that a start may take."""

SLOW_S = 4.0
"""A console that takes longer to its prompt is said to be slow."""

NEEDED = ("RE", "catalog", "stage", "detector", "metadata")
"""Names that the plans, the live view and the queue server of the profile count on."""

SECRET = re.compile(r"(password|secret|api_?key|token)\w*\s*[:=]\s*['\"]?(?!\$\{)[^\s'\"{]{4,}", re.IGNORECASE)

RUN = """
import json, pathlib, sys, time
began, space = time.perf_counter(), {"__name__": "__main__"}
for file in sorted(pathlib.Path(sys.argv[1]).glob("*.py")):
    try:
        exec(compile(file.read_text(), str(file), "exec"), space)
    except Exception as error:
        print(json.dumps({"failed": f"{file.name}: {type(error).__name__}: {error}"}), flush=True)
        break
else:
    seconds, missing = time.perf_counter() - began, [n for n in json.loads(sys.argv[2]) if n not in space]
    print(json.dumps({"seconds": seconds, "missing": missing}), flush=True)
for name in ("live", "dispatch"):
    if hasattr(space.get(name), "close"):
        space[name].close()
"""


def examine_profile(folder: Path) -> list[Finding]:
    """Return one finding for each part of a profile that ``profile new`` made; parts that were removed are left out."""
    startup = folder / "profile_ptycho" / "startup"
    if not startup.is_dir():
        return [
            Finding(
                "profile", "FAIL", f"{folder} has no profile_ptycho/startup; make one by `ptycho-bluesky profile new`"
            )
        ]
    findings = [_secrets(folder), _started(startup)]
    findings += [_yaml(file, folder) for file in sorted(folder.rglob("*.y*ml"))]
    if (manager := folder / "queueserver" / "re-manager.yml").exists():
        findings.append(_queue_server(manager))
    return findings


def _started(startup: Path) -> Finding:
    began = time.perf_counter()
    try:
        done = subprocess.run(
            [sys.executable, "-c", RUN, str(startup), json.dumps(NEEDED)],
            capture_output=True, text=True, timeout=START_S, stdin=subprocess.DEVNULL, env={**os.environ},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return Finding("startup files", "FAIL", f"no prompt after {START_S:.0f} s; run them one by one in IPython")
    answers = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if not answers:
        last = (done.stderr.strip().splitlines() or ["no word"])[-1]
        return Finding("startup files", "FAIL", f"the process ended with status {done.returncode}: {last}")
    answer: dict[str, Any] = json.loads(answers[-1])
    if "failed" in answer:
        return Finding("startup files", "FAIL", answer["failed"])
    if answer["missing"]:
        return Finding("startup files", "FAIL", f"they leave {', '.join(answer['missing'])} undefined; define them")
    seconds = time.perf_counter() - began
    text = f"at the prompt after {answer['seconds']:.1f} s (with Python's own start and the end {seconds:.1f} s)"
    slow = answer["seconds"] > SLOW_S
    return Finding(
        "startup files", "WARN" if slow else "OK", text + (": slow; is a device not answering?" if slow else "")
    )


def _yaml(file: Path, folder: Path) -> Finding:
    try:
        content = yaml.safe_load(file.read_text())
    except (OSError, yaml.YAMLError) as error:
        return Finding(str(file.relative_to(folder)), "FAIL", " ".join(str(error).split()))
    good = isinstance(content, dict)
    return Finding(str(file.relative_to(folder)), "OK" if good else "FAIL", "readable" if good else "holds no mapping")


def _queue_server(manager: Path) -> Finding:
    """Look that the queue server listens on loopback alone and that its files are where it looks for them."""
    try:
        content = yaml.safe_load(manager.read_text())
        network, startup = content["network"], content["startup"]
        addresses = [network["zmq_control_addr"], network["zmq_info_addr"]]
        paths = [startup["startup_dir"], startup["user_group_permissions_path"]]
    except (yaml.YAMLError, KeyError, TypeError) as error:
        return Finding("queue server", "FAIL", f"{manager.name} lacks {error}; compare it with a new profile's")
    base = manager.parents[1]
    if lost := [path for path in paths if not (base / path).exists()]:
        return Finding("queue server", "FAIL", f"{', '.join(lost)} is not there, seen from {base}")
    if wide := [address for address in addresses if "127.0.0.1" not in address and "localhost" not in address]:
        return Finding("queue server", "WARN", f"{', '.join(wide)} is open to the network; bind 127.0.0.1")
    return Finding("queue server", "OK", f"start it in {base}, with REDIS_ADDRESS in the environment")


def _secrets(folder: Path) -> Finding:
    """Look for secrets written into files; they belong into the environment."""
    found = []
    for file in sorted(folder.rglob("*")):
        if file.suffix in (".py", ".yml", ".yaml", ".toml") and SECRET.search(file.read_text(errors="replace")):
            found.append(str(file.relative_to(folder)))
    if found:
        return Finding("secrets", "WARN", f"{', '.join(found)} seem to hold one; take it from the environment")
    return Finding("secrets", "OK", "none in the files")
