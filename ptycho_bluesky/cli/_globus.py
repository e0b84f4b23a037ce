"""``ptycho-bluesky globus``: login, logout, check of a facility, and the flow in the Globus cloud."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ptycho_bluesky.cli._output import Json, emit, say, start_logging
from ptycho_bluesky.config import settings
from ptycho_bluesky.errors import ConfigurationError, DispatchError

if TYPE_CHECKING:
    from ptycho_bluesky._resources import GlobusResource

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="A facility through Globus: login, logout, check, flow.")
flow = typer.Typer(no_args_is_help=True, help="The way there and back as a flow in the Globus cloud: deploy, run.")
app.add_typer(flow, name="flow")

Place = Annotated[str, typer.Argument(metavar="NAME", help="Resource of the settings, of kind globus.")]


@app.callback()
def _root() -> None:
    start_logging()
    try:
        import globus_compute_sdk  # noqa: F401
        import globus_sdk  # noqa: F401
    except ImportError as error:
        raise DispatchError(f"{error.name} is missing; pip install 'ptycho-bluesky[globus]'") from None


def _resources() -> dict[str, GlobusResource]:
    from ptycho_bluesky._resources import GlobusResource

    return {name: found for name, found in settings().resources.items() if isinstance(found, GlobusResource)}


def _resource(name: str) -> GlobusResource:
    known = _resources()
    if name not in known:
        raise ConfigurationError(
            f"no resource {name!r} of kind globus; there are {', '.join(known) or 'none'}: add [resources.{name}] to "
            "settings.toml"
        )
    return known[name]


@app.command()
def login(
    again: Annotated[bool, typer.Option("--again", help="Also where a login looks valid, e.g. for a consent.")] = False,
    json_output: Json = False,
) -> None:
    """Log in to Globus: open the address that is shown in any browser, and enter the code that it gives."""
    from ptycho_bluesky.dispatch.globus._login import globus_folder, log_in

    log_in(list(_resources().values()), again=again)
    emit({"logged_in": True, "tokens": str(globus_folder())}, json_output)


@app.command()
def logout(json_output: Json = False) -> None:
    """Revoke all tokens and delete them."""
    from ptycho_bluesky.dispatch.globus._login import log_out

    emit({"revoked": log_out()}, json_output)


@app.command()
def check(name: Place, json_output: Json = False) -> None:
    """Check the way to a facility: login, endpoint, the package there, its home, and the function's UUID."""
    from ptycho_bluesky.dispatch.globus._compute import Compute
    from ptycho_bluesky.dispatch.globus._login import globus_app

    resource = _resource(name)
    compute = Compute(globus_app([resource]), resource)
    found: dict[str, Any] = {"place": name, "function": compute.function}
    compute.check_online()
    begin = time.perf_counter()
    for role, watching in (("work", False), ("control", True)):
        answer = compute.ask({"do": "check"}, resource.answer_s, watching=watching) or {}
        found[role] = {**answer, "round_trip_s": round(time.perf_counter() - begin, 2)}
        begin = time.perf_counter()
    if found["work"]["home"] != found["control"]["home"]:
        say("the two endpoints have different homes: looks and cancellations will not find the jobs")
    emit(found, json_output)


@flow.command()
def deploy(name: Place, json_output: Json = False) -> None:
    """Deploy the flow, or bring the resource's one up to date; its UUID goes into the resource as ``flow``."""
    from ptycho_bluesky.dispatch.globus._definition import deploy as deploy_flow
    from ptycho_bluesky.dispatch.globus._login import globus_app

    resource = _resource(name)
    known = None if resource.flow is None else str(resource.flow)
    emit({"flow": deploy_flow(globus_app([resource]), known)}, json_output)


@flow.command()
def run(
    name: Place,
    spec: Annotated[Path, typer.Argument(metavar="SPEC", help="JSON file of a job specification.")],
    json_output: Json = False,
) -> None:
    """Submit a job that goes by the deployed flow."""
    from ptycho_bluesky.dispatch import JobSpec, submit

    if _resource(name).flow is None:
        raise ConfigurationError(
            f"resource {name} has no flow; run `ptycho-bluesky globus flow deploy {name}` and put its UUID there"
        )
    try:
        text = spec.read_bytes()
    except OSError as error:
        raise DispatchError(f"{spec} cannot be read: {error.strerror}; give a JSON file") from None
    emit({"job_id": submit(JobSpec.parse(text, str(spec)).model_copy(update={"place": name}))}, json_output)
