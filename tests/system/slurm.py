"""A real Slurm, private to a test: on free ports of loopback, in a folder of its own, its nodes daemons here."""

from __future__ import annotations

import contextlib
import getpass
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
from services import need, running
from waiting import free_port, until

CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CredType=cred/munge
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmctldPort={port}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
ReturnToService=2
SlurmdTimeout={timeout_s}
KillWait=2
MinJobAge=600
InactiveLimit=0
SlurmdParameters=config_overrides
{nodes}
PartitionName=test Nodes=ALL Default=YES MaxTime=02:00:00 State=UP OverSubscribe=NO
"""


class Slurm:
    """Munge, slurmctld, and a slurmd for each node; the daemons can be killed and started again."""

    def __init__(self, folder: Path, nodes: int = 1, *, cpus: int = 2, timeout_s: int = 60) -> None:
        programs = {name: need(name, package) for name, package in (
            ("munged", "munge"), ("slurmctld", "slurmctld"), ("slurmd", "slurmd"), ("sbatch", "slurm-client"),
        )}  # fmt: skip
        self._programs, self._folder = programs, folder
        self.nodes = [f"n{number}" for number in range(1, nodes + 1)]
        for name in ("munge", "state", *(f"spool-{node}" for node in self.nodes)):
            (folder / name).mkdir(parents=True, mode=0o755)
        (folder / "munge" / "key").touch(0o600)
        (folder / "munge" / "key").write_bytes(os.urandom(128))
        host = os.uname().nodename.split(".")[0]
        described = "\n".join(
            f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={free_port()} CPUs={cpus} State=UNKNOWN"
            for node in self.nodes
        )
        values = {"host": host, "user": getpass.getuser(), "folder": folder, "port": free_port(), "nodes": described}
        self.conf = folder / "slurm.conf"
        self.conf.write_text(CONF.format(**values, timeout_s=timeout_s))
        self._open: dict[str, contextlib.ExitStack] = {}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        try:
            options = (
                ("key-file", "key"),
                ("socket", "socket"),
                ("pid-file", "pid"),
                ("log-file", "log"),
                ("seed-file", "seed"),
            )
            files = [f"--{option}={folder}/munge/{name}" for option, name in options]
            self._start("munged", programs["munged"], *files, "--foreground")
            until((folder / "munge" / "socket").exists, 10, "munged's socket")
            self.start_controller()
            for node in self.nodes:
                self._start(node, programs["slurmd"], "-D", "-N", node)
            until(lambda: self.states() == ["idle"] * nodes, 20, "idle nodes")
        except BaseException:
            self.stop()
            raise

    def _start(self, name: str, *command: str) -> None:
        self._open[name] = contextlib.ExitStack()
        log = self._folder / f"{name}.out"
        self._processes[name] = self._open[name].enter_context(running([*command], log, SLURM_CONF=str(self.conf)))

    def start_controller(self) -> None:
        self._start("slurmctld", self._programs["slurmctld"], "-D")

    def kill_controller(self) -> None:
        self._kill("slurmctld")

    def _kill(self, name: str) -> None:
        self._processes[name].send_signal(signal.SIGKILL)
        self._open.pop(name).close()

    def lose_node(self, node: str) -> None:
        """Kill a node's daemon and everything that runs under it, as a power cut does."""
        self._kill(node)
        under = [p for p in psutil.process_iter() if self._of(p, "SLURM_CONF") and self._of(p, "SLURMD_NODENAME", node)]
        above = [parent for p in under if (parent := p.parent()) is not None and parent.name().startswith("slurmstepd")]
        for process in [*above, *under]:  # the steps' daemons first: they would tell the controller of the others' end
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    def _of(self, process: psutil.Process, variable: str, value: str = "") -> bool:
        with contextlib.suppress(psutil.Error):
            return process.environ().get(variable) == (value or str(self.conf))
        return False

    def start_node(self, node: str) -> None:
        self._start(node, self._programs["slurmd"], "-D", "-N", node)

    def ask(self, *command: str) -> str:
        environment = {**os.environ, "SLURM_CONF": str(self.conf)}
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=20, check=False).stdout

    def states(self) -> list[str]:
        return self.ask("sinfo", "--noheader", "--Node", "--format=%T").split()

    def jobs(self) -> dict[str, str]:
        """States of all jobs by number."""
        lines = self.ask("squeue", "--noheader", "--states=all", "--format=%i|%T").splitlines()
        return dict(line.split("|") for line in lines)

    def stop(self) -> None:
        if "slurmctld" in self._open:
            self.ask("scancel", "--user", getpass.getuser())
            with contextlib.suppress(AssertionError):
                until(lambda: not {"RUNNING", "COMPLETING", "PENDING"} & set(self.jobs().values()), 10, "their end")
        for opened in reversed(list(self._open.values())):
            opened.close()


@contextlib.contextmanager
def slurm(nodes: int = 1, *, cpus: int = 2, timeout_s: int = 60) -> Iterator[Slurm]:
    """Give a Slurm, in a folder that its daemons may enter (a test's own is closed to them)."""
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder:
        Path(folder).chmod(0o755)
        cluster = Slurm(Path(folder), nodes, cpus=cpus, timeout_s=timeout_s)
        try:
            yield cluster
        finally:
            cluster.stop()
