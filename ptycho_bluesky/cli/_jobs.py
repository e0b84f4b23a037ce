"""``ptycho-bluesky jobs``: list, show, wait for, cancel, stop and retry reconstructions and trainings."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from ptycho_bluesky.cli._arrays import app as arrays
from ptycho_bluesky.cli._complete import complete_job
from ptycho_bluesky.cli._output import Json, emit, progress, start_logging
from ptycho_bluesky.config import settings
from ptycho_bluesky.dispatch import JobStatus, Ledger, register_pending, spec_of
from ptycho_bluesky.dispatch import cancel as cancel_job
from ptycho_bluesky.dispatch import clean as clean_jobs
from ptycho_bluesky.dispatch import history as job_history
from ptycho_bluesky.dispatch import jobs as all_jobs
from ptycho_bluesky.dispatch import logs as job_logs
from ptycho_bluesky.dispatch import retry as retry_job
from ptycho_bluesky.dispatch import status as job_status
from ptycho_bluesky.dispatch import stop as stop_job
from ptycho_bluesky.dispatch import wait as wait_for_job
from ptycho_bluesky.errors import DispatchError

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True, help="Jobs: list, show, wait, cancel, stop, retry, register, history, logs, clean."
)

app.add_typer(arrays, name="array")

JobId = Annotated[
    str, typer.Argument(metavar="JOB", help="Job id, or the beginning of one.", autocompletion=complete_job)
]
COLOURS = {"done": "green", "failed": "red", "lost": "red", "running": "cyan", "cancelled": "yellow"}


@app.callback()
def _root() -> None:
    start_logging()


def _described(status: JobStatus) -> dict[str, Any]:
    """Return a status together with what was asked for."""
    try:
        spec = spec_of(status.job_id)
    except DispatchError:  # written by a newer version, or for a recipe of a package that is not here
        return {**asdict(status), "recipe": "?", "raw_uid": None, "engine": "?", "device": "?", "folder": None}
    asked = {
        "recipe": spec.recipe,
        "raw_uid": spec.raw_uid,
        "engine": spec.engine if spec.recipe == "reconstruct" else spec.recipe,
        "device": spec.device,
        "folder": None if settings().dispatcher_uri else str(Ledger().folder / status.job_id),
    }
    return {**asdict(status), **asked}


def _quality(news: dict[str, Any]) -> str:
    """Return the last figure of merit of an engine or a training in a few letters."""
    if "r_factor" in news:
        return f"R {news['r_factor']:.4f}"
    known = news.get("validation_correlation")
    return "" if known is None else f"corr. {known:.3f}"


def _done(news: dict[str, Any]) -> tuple[int, str, int | None]:
    """Return what a bar shows of an engine's or a training's news."""
    return news.get("epoch", news.get("step", 0)), _quality(news), news.get("epochs", news.get("steps"))


@app.command("list")
def list_jobs(json_output: Json = False) -> None:
    """List all jobs, newest first."""
    found = [_described(status) for status in all_jobs()]
    if json_output:
        emit({"jobs": found}, True)
        return
    table = Table("job", "state", "run", "engine", "epoch", "quality", "left", "in Tiled", "created", box=None)
    for job in found:
        news = job["progress"]
        table.add_row(
            job["job_id"][:8],
            f"[{COLOURS.get(job['state'], 'white')}]{job['state']}[/]",
            (job["raw_uid"] or "file")[:8],
            job["engine"],
            f"{news.get('epoch', news.get('step', ''))}",
            _quality(news),
            f"{news['seconds_left']:.0f} s" if job["state"] == "running" and news.get("seconds_left") else "",
            {None: "", True: "yes", False: "not yet"}[job["registered"]],
            time.strftime("%Y-%m-%d %H:%M", time.localtime(job["created"])),
        )
    Console().print(table if found else "no jobs yet")


@app.command()
def show(job: JobId, json_output: Json = False) -> None:
    """Show all that is known of a job."""
    emit(_described(job_status(job)), json_output)


@app.command()
def wait(
    job: JobId,
    timeout: Annotated[float, typer.Option(min=0, help="Longest time to wait, seconds.")] = 3600.0,
    json_output: Json = False,
) -> None:
    """Wait until a job has ended; exit status 1 where it did not end as done."""
    with progress("waiting", None) as update:
        ended = wait_for_job(job, timeout, on_progress=lambda p: update(*_done(p)))
    emit(_described(ended), json_output)
    if ended.state != "done":
        raise typer.Exit(1)


@app.command()
def cancel(job: JobId, json_output: Json = False) -> None:
    """End a job and drop what it has."""
    emit(_described(cancel_job(job)), json_output)


@app.command()
def stop(job: JobId, json_output: Json = False) -> None:
    """Ask a running job to end now and keep its result."""
    emit(_described(stop_job(job)), json_output)


@app.command()
def retry(
    job: JobId,
    place: Annotated[
        str | None, typer.Option(help="Run it there: local, a resource of the settings, or auto, which chooses.")
    ] = None,
    json_output: Json = False,
) -> None:
    """Start a failed, lost or cancelled job again."""
    emit(_described(retry_job(job, place)), json_output)


@app.command()
def register(json_output: Json = False) -> None:
    """Put into Tiled what could not be put there before: runs of dead consoles, results and models that wait."""
    from ptycho_bluesky.catalog import connect, register_waiting_models, resend_backups

    client = connect()
    runs, done = resend_backups(client), register_pending(client)
    emit({"runs": runs, "jobs": done, "models": register_waiting_models(client)}, json_output)


@app.command()
def history(job: JobId, json_output: Json = False) -> None:
    """Show who did what with a job when."""
    events = job_history(job)
    if json_output:
        emit({"history": events}, True)
        return
    table = Table("when", "state", "who", "what", box=None)
    for event in events:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event["t"]))
        said = [f"asked: {event['asked']}" if "asked" in event else "", event.get("step", ""), event.get("reason", "")]
        table.add_row(when, event["state"], event.get("by", ""), "; ".join(filter(None, said)))
    Console().print(table)


@app.command()
def clean(
    older_than_days: Annotated[float, typer.Option(min=0, help="Since their end.")] = 30.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would be deleted.")] = False,
    json_output: Json = False,
) -> None:
    """Delete the large files of old jobs whose results are in Tiled; specification, history and log stay."""
    found = clean_jobs(older_than_days, dry_run=dry_run)
    size = sum(each.bytes for each in found)
    emit({"jobs": [asdict(each) for each in found], "bytes": size, "deleted": not dry_run}, json_output)


@app.command()
def logs(job: JobId, lines: Annotated[int, typer.Option(min=1, help="How many, from the end.")] = 50) -> None:
    """Print the end of a job's log."""
    typer.echo(job_logs(job, lines))
