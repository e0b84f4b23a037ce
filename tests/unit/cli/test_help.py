"""Help that teaches: every command has an example, and the example runs; the shell completes."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from ptycho_bluesky.cli import app
from ptycho_bluesky.cli._examples import EXAMPLES
from ptycho_bluesky.dispatch import FileSource, JobSpec, Ledger
from ptycho_bluesky.stream import LiveBoard

runner = CliRunner()


def leaves(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Every command that does something, by what is typed for it."""
    inner = getattr(command, "commands", None)
    if inner is None:
        yield " ".join(path), command
        return
    for name, part in inner.items():
        yield from leaves(part, (*path, name))


COMMANDS = dict(leaves(get_command(app)))

QUICK = ("validate", "convert", "reconstruct", "jobs list", "jobs show", "jobs history", "jobs logs")
QUICK += ("profile new", "simulate hdf5")
"""Those that need no more than a file and a job; others run in tests of their own."""


def test_every_command_has_an_example_under_its_help() -> None:
    lacking = sorted(COMMANDS.keys() - EXAMPLES.keys())
    assert not lacking, f"add a line for each of them to cli/_examples.py: {lacking}"
    assert not EXAMPLES.keys() - COMMANDS.keys()
    assert all(example.startswith(name) for name, example in EXAMPLES.items())
    shown = runner.invoke(app, ["jobs", "wait", "--help"], env={"COLUMNS": "100"}).output
    assert "ptycho-bluesky jobs wait 3f2a --timeout 600" in shown


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_each_example_is_understood(name: str) -> None:
    arguments = shlex.split(EXAMPLES[name])[len(name.split()) :]
    context = COMMANDS[name].make_context(name, arguments)
    assert COMMANDS[name].help
    assert not [parameter.name for parameter in COMMANDS[name].params if not getattr(parameter, "help", "x")]
    context.close()


@pytest.mark.timeout(240)
def test_examples_run(known_files: Path, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scan.npz").write_bytes((known_files / "scan.npz").read_bytes())
    job, _ = Ledger().create(JobSpec(source=FileSource(path="scan.npz")))
    job.log_file.write_text("all is well\n")
    job.record("running")
    job.record("done", registered=True)
    for name in QUICK:
        arguments = shlex.split(EXAMPLES[name].replace("3f2a", job.job_id[:8]))
        if name == "reconstruct":
            arguments += ["--epochs", "2", "--engine", "fast", "--no-check"]
        done = runner.invoke(app, arguments, catch_exceptions=False)
        assert done.exit_code == 0, f"{name}: {done.output}"
    for file in ("result.h5", "result.png", "scan.cxi", "frames.h5", "bl16"):
        assert (tmp_path / file).exists()


# completion -----------------------------------------------------------------------------------------------------------


def offered(line: str, shell: str = "bash") -> list[str]:
    """What TAB offers at the end of a line."""
    words = line.split(" ")
    asked = {
        "_PTYCHO_BLUESKY_COMPLETE": f"complete_{shell}",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
        "_TYPER_COMPLETE_ARGS": line,
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }
    done = runner.invoke(app, [], env=asked, prog_name="ptycho-bluesky")
    return [text.strip() for text in done.stdout.splitlines() if text.strip()]


def test_the_shell_completes_commands_and_options() -> None:
    assert {"reconstruct", "report", "receive", "replay"} == set(offered("ptycho-bluesky re"))
    assert "wait" in offered("ptycho-bluesky jobs w")
    assert {"--halves", "--no-halves"} <= set(offered("ptycho-bluesky report --"))
    assert any("reconstruct" in line for line in offered("ptycho-bluesky rec", "fish"))
    assert any("reconstruct" in line for line in offered("ptycho-bluesky rec", "zsh"))


def test_it_completes_jobs_sessions_and_models(tmp_path: Path, use_home: Callable[[Path], Path]) -> None:
    use_home(tmp_path)
    assert offered("ptycho-bluesky jobs show ") == []
    job, _ = Ledger().create(JobSpec(source=FileSource(path="scan.npz")))
    job.status_file.write_text(job.status_file.read_text() + '{"torn')
    assert offered(f"ptycho-bluesky jobs show {job.job_id[:3]}") == [job.job_id]
    assert offered("ptycho-bluesky jobs show zz") == []
    assert offered("ptycho-bluesky models show def") == ["default"]
    board = LiveBoard.create("completed-session")
    try:
        assert offered("ptycho-bluesky watch compl") == ["completed-session"]
    finally:
        board.close()
        board.segment.unlink()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_for_the_shell(shell: str) -> None:
    asked = {"_PTYCHO_BLUESKY_COMPLETE": f"source_{shell}"}
    done = runner.invoke(app, [], env=asked, prog_name="ptycho-bluesky")
    assert "_PTYCHO_BLUESKY_COMPLETE" in done.stdout
    assert json.dumps(done.stdout)
