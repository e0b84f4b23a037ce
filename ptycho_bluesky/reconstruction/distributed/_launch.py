"""Ranks on this machine: started by torchrun, watched, started again from the last checkpoint when one is lost."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psutil
from pydantic import BaseModel

from ptycho_bluesky import errors
from ptycho_bluesky.errors import PtychoError, ReconstructionError
from ptycho_bluesky.experiment import PtychoDataset, Reconstruction
from ptycho_bluesky.formats import identify, load_dataset, read_reconstruction, save_dataset
from ptycho_bluesky.reconstruction.diagnosis import refuse_if_wrong
from ptycho_bluesky.reconstruction.distributed._options import PROGRESS, STOP, RankOptions, spec_of

__all__ = ["Progress", "reconstruct_ranks"]

logger = logging.getLogger(__name__)

LOOK_S = 0.1
"""Between two looks at the ranks."""

GRACE_S = 5.0
"""For the others to end once a rank has failed."""

LOG, SPEC = "ranks.log", "spec.json"


@dataclass(frozen=True)
class Progress:
    """How far ranks are."""

    epoch: int
    epochs: int
    r_factor: float
    """Seen by all frames of the last epoch."""

    seconds: float
    """In epochs, since the ranks began."""

    ranks: int
    processes: dict[int, int]
    """Process of each rank."""


def reconstruct_ranks(
    dataset: PtychoDataset | str | Path,
    ranks: int,
    engine: str = "auto",
    options: BaseModel | Mapping[str, Any] | None = None,
    *,
    nodes: int = 1,
    together: RankOptions | Mapping[str, Any] | None = None,
    load: Mapping[str, Any] | None = None,
    check: bool = True,
    device: Literal["cpu", "cuda"] = "cpu",
    start: str | Path | None = None,
    folder: str | Path | None = None,
    retries: int = 2,
    should_stop: Callable[[], bool] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    max_seconds: float | None = None,
    picture: str | Path | None = None,
) -> Reconstruction:
    """Reconstruct on several processes of this machine, each with some of the frames and of the object.

    Parameters
    ----------
    dataset:
        A file, of which each rank reads its own frames (HDF5; others are written to such a file first), or a dataset
        in memory.
    ranks:
        Processes, one for each core or GPU.
    engine:
        ``"fast"``, which is what ``"auto"`` takes, or ``"lsqml"``.
    options:
        The engine's, as for :func:`reconstruct`; one thread a rank unless they say otherwise.
    nodes:
        Nodes to start them on, as many on each, inside an allocation of Slurm that has these nodes; `folder` must be
        one that all nodes see.
    together:
        How ranks work together.
    load:
        Options of ``load_dataset`` for a file.
    check:
        Whether to refuse a dataset whose units, shape or mask look wrong, at once.
    device:
        ``"cpu"``, or ``"cuda"`` for one GPU a rank.
    start:
        File to begin at (:func:`read_start`); None for an empty object.
    folder:
        For checkpoints: a reconstruction that was cut off goes on from there, with any number of ranks. None for a
        temporary one.
    retries:
        Times that ranks are started again, from the last checkpoint, when one of them is lost; then half as many are
        tried.
    should_stop:
        Asked every tenth of a second; True ends the reconstruction at the next segment with what there is.
    on_progress:
        Called after each epoch.
    max_seconds:
        No epoch begins that would probably end later than this after the ranks began.
    picture:
        PNG to write of who has which frames, beside stripes and random shares.

    Returns
    -------
    Reconstruction
        ``provenance["distributed"]`` tells what each rank held, computed and sent.

    Raises
    ------
    DatasetError, FormatError
        When the dataset cannot be used.
    ReconstructionError
        When options are not known or suit no ranks, the reconstruction diverges, or ranks are lost again and again.
    """
    if engine not in ("auto", "fast", "lsqml"):
        raise ReconstructionError(
            f"engine {engine!r} does not work on several ranks; take 'fast' or 'lsqml', or one process without ranks"
        )
    if ranks < 1:
        raise ReconstructionError(f"{ranks} ranks; give 1 or more, as many as there are cores or GPUs")
    if nodes < 1 or ranks % nodes:
        raise ReconstructionError(f"{ranks} ranks on {nodes} nodes; give a multiple of the number of nodes")
    given = options.model_dump(mode="json", exclude_unset=True) if isinstance(options, BaseModel) else options
    with contextlib.ExitStack() as stack:
        where = Path(folder or stack.enter_context(tempfile.TemporaryDirectory(prefix="ptycho-ranks-"))).absolute()
        where.mkdir(parents=True, exist_ok=True)
        path, name, options_of_file = _file(dataset, where, load or {}, check)
        spec = spec_of(
            dataset=path,
            load=options_of_file,
            name=name,
            engine="fast" if engine == "auto" else engine,
            options=dict(given or {}),
            start=None if start is None else Path(start).expanduser().absolute(),
            ranks=together or {},
            device=device,
            folder=where,
            output=where / "reconstruction.h5",
            picture=None if picture is None else Path(picture).expanduser().absolute(),
            max_seconds=max_seconds,
        )
        spec.engine_options(frames=1)  # faults are told before anything is started
        (where / SPEC).write_text(spec.model_dump_json())
        _persist(where, ranks, nodes, retries, should_stop or (lambda: False), on_progress or (lambda progress: None))
        return read_reconstruction(spec.output)


def _file(
    dataset: PtychoDataset | str | Path, folder: Path, load: Mapping[str, Any], check: bool
) -> tuple[Path, str, dict[str, Any]]:
    """Return a file that ranks can read their frames from, the dataset's name, and options to load the file."""
    given = None if isinstance(dataset, PtychoDataset) else Path(dataset).expanduser().absolute()
    dataset = dataset if isinstance(dataset, PtychoDataset) else load_dataset(str(given), **load)
    if check:
        refuse_if_wrong(dataset.validate(), trials=False)
    if given is not None and identify(given).layout != "npz":
        return given, dataset.name, dict(load)
    path = folder / ("dataset.npz" if dataset.pixel_size_m is None else "dataset.cxi")
    save_dataset(path, dataset)
    return path, dataset.name, {}


def _persist(
    folder: Path,
    ranks: int,
    nodes: int,
    retries: int,
    should_stop: Callable[[], bool],
    on_progress: Callable[[Progress], None],
) -> None:
    """Start ranks until they come to the end."""
    tries = 0
    while True:
        for left in (STOP, PROGRESS, *(file.name for file in folder.glob("rank-*"))):
            (folder / left).unlink(missing_ok=True)
        with _Group(folder, ranks, min(nodes, ranks)) as group:
            ended = group.watch(should_stop, on_progress)
        if ended:
            return
        if failure := group.final_failure():
            raise failure
        tries += 1
        if tries > retries and ranks == 1:
            raise ReconstructionError(
                f"ranks were lost {tries} times, at last with 1 rank: {group.last_words()}; free memory, or look at "
                f"what ends them. Give a folder for checkpoints to keep what is done"
            )
        if tries > retries:
            ranks, tries = max(1, ranks // 2), 0
        logger.warning("a rank was lost; starting %d ranks from the last checkpoint", ranks)


def _start(nodes: int) -> list[str]:
    """Return the command that starts torchrun, once a node; on several nodes they meet at a free port of this one."""
    torchrun = [sys.executable, "-m", "torch.distributed.run"]
    if nodes == 1:
        return [*torchrun, "--standalone"]
    with socket.create_server(("", 0)) as listener:
        port = listener.getsockname()[1]
    each = ["srun", "--overlap", "--kill-on-bad-exit=1", "--cpu-bind=none", "--ntasks-per-node=1"]
    meeting = ["--rdzv-backend", "c10d", "--rdzv-id", str(port), "--rdzv-endpoint", f"{socket.gethostname()}:{port}"]
    return [*each, "--nodes", str(nodes), "--ntasks", str(nodes), *torchrun, "--nnodes", str(nodes), *meeting]


class _Group:
    """The processes of one start, of which none is left behind."""

    def __init__(self, folder: Path, ranks: int, nodes: int) -> None:
        self._folder, self._ranks, self._seen = folder, ranks, 0
        shim = [sys.executable, "-m", "ptycho_bluesky._with_parent", str(os.getpid())]
        command = [*shim, *_start(nodes), "--max-restarts", "0", "--nproc-per-node", str(ranks // nodes)]
        command += ["-m", "ptycho_bluesky.reconstruction.distributed"]
        self._log = (folder / LOG).open("ab")
        self._process = subprocess.Popen(
            [*command, str(folder / SPEC)],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            start_new_session=True,  # Ctrl-C is for this process, which asks ranks to stop
        )

    def __enter__(self) -> _Group:
        return self

    def __exit__(self, *exception: object) -> None:
        for process in self._alive():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._log.close()

    def watch(self, should_stop: Callable[[], bool], on_progress: Callable[[Progress], None]) -> bool:
        """Wait until all ranks have ended; return whether they came to the end."""
        failed: float | None = None
        while self._process.poll() is None:
            time.sleep(LOOK_S)
            self._tell(on_progress)
            if should_stop():
                (self._folder / STOP).touch()
            if failed is None and any(self._folder.glob("rank-*.failure")):
                failed = time.monotonic()
            if failed is not None and time.monotonic() > failed + GRACE_S:
                return False
        self._tell(on_progress)
        return self._process.returncode == 0

    def _tell(self, on_progress: Callable[[Progress], None]) -> None:
        path = self._folder / PROGRESS
        if not path.exists():
            return
        whole = path.read_text().split("\n")[:-1]  # what is being written has no end yet
        for line in whole[self._seen :]:
            on_progress(Progress(**json.loads(line), ranks=self._ranks, processes=self._processes()))
        self._seen = len(whole)

    def _processes(self) -> dict[int, int]:
        found = {}
        for file in self._folder.glob("rank-*.pid"):
            if text := file.read_text():
                found[int(file.stem.removeprefix("rank-"))] = int(text)
        return dict(sorted(found.items()))

    def _alive(self) -> list[psutil.Process]:
        """Return ranks that still run, told by their file: a number may be another process by now."""
        found = []
        for pid in self._processes().values():
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                process = psutil.Process(pid)
                if str(self._folder / SPEC) in process.cmdline():
                    found.append(process)
        return found

    def final_failure(self) -> PtychoError | None:
        """Return the error that another start would not mend, if a rank left one."""
        for file in sorted(self._folder.glob("rank-*.failure")):
            with contextlib.suppress(ValueError):
                failure = json.loads(file.read_text())
                if not failure["lost"]:
                    kind: type[PtychoError] = getattr(errors, failure["kind"], ReconstructionError)
                    return kind(failure["text"])
        return None

    def last_words(self) -> str:
        """Return what the ranks said last, in one line."""
        lines = (self._folder / LOG).read_text(errors="replace").strip().split("\n")
        said = [line for line in lines if line.startswith("rank ") or "Error" in line]
        return (said or lines)[-1]
