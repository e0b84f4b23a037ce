"""PBS by stand-ins for its commands, which run the script in the background; a real PBS has never been tried."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from waiting import until

from ptycho_bluesky.config import settings
from ptycho_bluesky.dispatch import JobSpec, Ledger, cancel, status, stop, submit, wait
from ptycho_bluesky.dispatch.clusters import PbsLauncher, SchedulerLauncher, Seen
from ptycho_bluesky.errors import DispatchError
from ptycho_bluesky.formats import read_reconstruction

STAND_IN = """#!{python} -SE
import json, os, signal, subprocess, sys
from pathlib import Path
state, name, words = Path({folder!r}), Path(sys.argv[0]).name, sys.argv[1:]
(state / "said.txt").open("a").write(" ".join([name, *words]) + "\\n")
def value(option): return words[words.index(option) + 1]
def job(number): return json.loads((state / number).read_text())
if name == "qsub":
    if "-q" in words and value("-q") == "closed":
        sys.exit("qsub: Queue is not enabled")
    number = f"{{len(list(state.glob('*.pbs')))}}.pbs"
    waits = [w for w in words if w.startswith("depend=afterany:")]
    if not waits:
        pid = subprocess.Popen(["sh", words[-1]], start_new_session=True, stdout=-3, stderr=-3, stdin=-3).pid
    (state / number).write_text(json.dumps([value("-N"), 0 if waits else pid]))
    print(number)
if name == "qselect":
    print("\\n".join(path.name for path in state.glob("*.pbs")))
if name == "qstat":
    jobs = {{}}
    for number in (word for word in words if word.endswith(".pbs")):
        label, pid = job(number)
        runs = pid > 0 and Path(f"/proc/{{pid}}/stat").exists() and " Z " not in Path(f"/proc/{{pid}}/stat").read_text()
        jobs[number] = {{"Job_Name": label, "job_state": "R" if runs else "Q" if pid == 0 else "F"}}
    print(json.dumps({{"Jobs": jobs}}))
if name == "qdel":
    label, pid = job(words[0])
    if pid > 0:
        os.killpg(pid, signal.SIGKILL)
    (state / words[0]).write_text(json.dumps([label, -1]))
"""

RESOURCES = """
[resources.hpc]
kind = "pbs"
partition = "workq"
account = "beamline"
max_jobs = 1
walltime_s = 5400
[resources.closed]
kind = "pbs"
partition = "closed"
"""


@pytest.fixture
def pbs(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of the stand-ins' state; ``said.txt`` there has the commands."""
    commands, state = tmp_path / "bin", tmp_path / "pbs"
    commands.mkdir()
    state.mkdir()
    for name in ("qsub", "qstat", "qselect", "qdel"):
        (commands / name).write_text(STAND_IN.format(python=sys.executable, folder=str(state)))
        (commands / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}:{os.environ['PATH']}")
    (tmp_path / "settings.toml").write_text(RESOURCES)
    monkeypatch.setenv("PTYCHO_BLUESKY_CONFIG", str(tmp_path / "settings.toml"))
    settings.cache_clear()
    SchedulerLauncher._answers.clear()
    return state


def test_a_job_runs_is_stopped_and_the_one_behind_it_is_cancelled(pbs: Path, make_spec: Callable[..., JobSpec]) -> None:
    first = submit(make_spec(100_000, place="hpc", raw_uid="1", priority=7))
    second = submit(make_spec(100_000, place="hpc", raw_uid="2"))
    assert (Ledger().job(first).runner() or {})["id"] == "0.pbs"
    said = (pbs / "said.txt").read_text()
    assert f"qsub -N ptycho-{first[:8]} -V -r n" in said and "-l walltime=01:30:00 -p 7 -q workq -A beamline" in said
    assert "-W depend=afterany:0.pbs" in said  # max_jobs is 1
    assert status(second).state == "queued"
    assert cancel(second).state == "cancelled" and "qdel 1.pbs" in (pbs / "said.txt").read_text()
    until(lambda: bool(status(first).progress))
    stop(first)
    assert wait(first, 60).state == "done"
    told = read_reconstruction(Ledger().job(first).result_file).provenance["job"]
    assert (told["place"], told["kind"], told["scheduler_job"]) == ("hpc", "pbs", "0.pbs")
    until(lambda: not PbsLauncher("hpc", settings().resources["hpc"]).ask()["0.pbs"].active)


def test_what_pbs_refuses_is_a_failure_in_its_words(pbs: Path, make_spec: Callable[..., JobSpec]) -> None:
    spec = make_spec(place="closed")
    with pytest.raises(DispatchError, match="'closed': qsub says: qsub: Queue is not enabled"):
        submit(spec)
    assert (status(spec.job_id).state, status(spec.job_id).kind) == ("failed", "user")


def test_how_pbs_says_that_a_job_ended(pbs: Path, make_spec: Callable[..., JobSpec]) -> None:
    launcher = PbsLauncher("hpc", settings().resources["hpc"])
    job, _ = Ledger().create(make_spec(place="hpc"))
    for code, kind in (("-29", "time"), ("-27", "memory"), ("127", "machine")):
        ending = launcher.told(Seen("F", False, reason=code), job)
        assert ending is not None and (ending.state, ending.kind) == ("failed", kind)
    job.beat()
    assert launcher.told(Seen("F", False, reason="1"), job) is None  # its log tells more
