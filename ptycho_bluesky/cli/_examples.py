"""An example for each command: shown under its help, and run, or at least read by the command, in the tests."""

from __future__ import annotations

import typer
from rich.markup import escape

__all__ = ["EXAMPLES", "teach"]

EXAMPLES: dict[str, str] = {
    "demo": "demo -o pictures --specimen cells",
    "replay": "replay scan.npz -o pictures",
    "reconstruct": "reconstruct scan.npz -o result.h5 --picture result.png",
    "report": "report result.h5 --data scan.npz -o report.html",
    "check": "check scan.npz",
    "validate": "validate scan.npz",
    "infer": "infer scan.npz --probe result.h5 -o mosaic.npz --picture live.png",
    "edge": "edge --source eiger://detector:9999 --positions planned.csv --probe result.h5 --session b16",
    "train": "train --probe result.h5 -o beamline.safetensors --max-seconds 600",
    "convert": "convert scan.npz scan.cxi",
    "export": "export 3f2a91c0 -o scan.cxi",
    "doctor": "doctor --profile bl16",
    "bench": "bench reconstruction",
    "receive": "receive eiger://127.0.0.1:9999 --frames 100",
    "dispatcher": "dispatcher",
    "ioc": "ioc --prefix SIM: --protocol ca",
    "watch": "watch --port 8060",
    "globus login": "globus login",
    "globus logout": "globus logout",
    "globus check": "globus check facility",
    "globus flow deploy": "globus flow deploy facility",
    "globus flow run": "globus flow run facility spec.json",
    "jobs list": "jobs list",
    "jobs show": "jobs show 3f2a",
    "jobs wait": "jobs wait 3f2a --timeout 600",
    "jobs cancel": "jobs cancel 3f2a",
    "jobs stop": "jobs stop 3f2a",
    "jobs retry": "jobs retry 3f2a",
    "jobs register": "jobs register",
    "jobs history": "jobs history 3f2a",
    "jobs clean": "jobs clean --older-than-days 30 --dry-run",
    "jobs logs": "jobs logs 3f2a --lines 20",
    "jobs array list": "jobs array list",
    "jobs array show": "jobs array show 9c1d",
    "jobs array retry": "jobs array retry 9c1d",
    "jobs array cancel": "jobs array cancel 9c1d",
    "models train": "models train 3f2a --name bl16",
    "models trial": "models trial bl16 scan.npz result.h5",
    "models promote": 'models promote bl16 --why "better on the star"',
    "models rollback": 'models rollback --why "wrong beam"',
    "models history": "models history",
    "models list": "models list",
    "models show": "models show default",
    "models add": "models add beamline.safetensors --name bl16 --licence BSD-3-Clause",
    "models fetch": "models fetch bl16",
    "models download": "models download bl16 -o bl16.safetensors",
    "profile new": "profile new bl16 --devices epics --prefix 16id:",
    "simulate ring": "simulate ring frames --frames 1000 --rate 100",
    "simulate hdf5": "simulate hdf5 frames.h5 --frames 10 --rate 1000",
    "simulate pva": "simulate pva SIM:Pva1:Image --frames 1000",
    "simulate eiger": "simulate eiger 9999 --input scan.npz --fault drop-every=100",
}
"""Command, and what is typed after ``ptycho-bluesky``."""


def teach(app: typer.Typer, path: tuple[str, ...] = ()) -> None:
    """Put its example under the help of each command of `app`, and of the groups in it."""
    for command in app.registered_commands:
        name = command.name or str(getattr(command.callback, "__name__", "")).replace("_", "-")
        if (example := EXAMPLES.get(" ".join((*path, name)))) is not None:
            command.epilog = f"Example:  [cyan]ptycho-bluesky {escape(example)}[/cyan]"
    for group in app.registered_groups:
        if group.typer_instance is not None:
            teach(group.typer_instance, (*path, group.name or ""))
