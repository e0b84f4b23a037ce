"""The command line's root: verbs, version, and one place where errors become one line."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from ptycho_bluesky import __version__
from ptycho_bluesky.cli._bench import bench
from ptycho_bluesky.cli._check import check_command
from ptycho_bluesky.cli._convert import convert
from ptycho_bluesky.cli._demo import demo
from ptycho_bluesky.cli._dispatcher import dispatcher_command
from ptycho_bluesky.cli._doctor import doctor
from ptycho_bluesky.cli._edge import edge
from ptycho_bluesky.cli._examples import teach
from ptycho_bluesky.cli._export import export
from ptycho_bluesky.cli._globus import app as globus
from ptycho_bluesky.cli._infer import infer_command
from ptycho_bluesky.cli._ioc import ioc_command
from ptycho_bluesky.cli._jobs import app as jobs
from ptycho_bluesky.cli._models import app as models
from ptycho_bluesky.cli._profile import app as profile
from ptycho_bluesky.cli._receive import receive
from ptycho_bluesky.cli._reconstruct import reconstruct_command
from ptycho_bluesky.cli._replay import replay
from ptycho_bluesky.cli._report import report_command
from ptycho_bluesky.cli._simulate import app as simulate
from ptycho_bluesky.cli._train import train_command
from ptycho_bluesky.cli._validate import validate_command
from ptycho_bluesky.cli._watch import watch
from ptycho_bluesky.errors import PtychoError

__all__ = ["app", "main"]

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Ptychography inside Bluesky: scans, live inference, dispatched reconstruction and catalogue.",
)
app.command("demo")(demo)
app.command("replay")(replay)
app.command("reconstruct")(reconstruct_command)
app.command("report")(report_command)
app.command("check")(check_command)
app.command("validate")(validate_command)
app.command("infer")(infer_command)
app.command("edge")(edge)
app.command("train")(train_command)
app.command("convert")(convert)
app.command("export")(export)
app.command("doctor")(doctor)
app.command("bench", context_settings={"allow_extra_args": True, "allow_interspersed_args": False})(bench)
app.command("receive")(receive)
app.command("dispatcher")(dispatcher_command)
app.command("ioc")(ioc_command)
app.command("watch")(watch)
app.add_typer(globus, name="globus")
app.add_typer(jobs, name="jobs")
app.add_typer(models, name="models")
app.add_typer(profile, name="profile")
app.add_typer(simulate, name="simulate")
teach(app)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Ptychography inside Bluesky: scans, live inference, dispatched reconstruction and catalogue."""


def main() -> None:
    """Run the command line: exit status 0 done, 1 failed with one line that says why, 2 wrong usage."""
    try:
        app()
    except PtychoError as error:
        sys.stderr.write(f"ptycho-bluesky: {error}\n")
        sys.exit(1)
