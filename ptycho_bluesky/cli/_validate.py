"""``ptycho-bluesky validate``: what a run or a file lacks to be reconstructed, and how to add it afterwards."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.tree import Tree

from ptycho_bluesky.cli._input import check_writable
from ptycho_bluesky.cli._output import Json, emit, say, start_logging
from ptycho_bluesky.errors import FormatError, PtychoError

__all__ = ["validate_command"]


def validate_command(
    source: Annotated[str, typer.Argument(metavar="RUN_UID|FILE", help="Uid of a run in Tiled, or a data file.")],
    mapping: Annotated[
        Path | None, typer.Option(help="TOML that says what the run's keys mean: tried, not stored.", exists=True)
    ] = None,
    amend: Annotated[
        Path | None, typer.Option(help="The same, and stored beside the run for every reader.", exists=True)
    ] = None,
    reason: Annotated[str, typer.Option(help="Why the run is amended, for those who come later.")] = "",
    template: Annotated[Path | None, typer.Option(help="Write a mapping for this run, to fill in, and leave.")] = None,
    json_output: Json = False,
) -> None:
    """Tell what a run, or a file, lacks to be reconstructed; exit status 1 where that is something needed.

    What is missing is added by a mapping, stored beside the run: the raw run is never touched.
    """
    start_logging(logging.WARNING)
    if Path(source).exists() or Path(source).suffix:
        if mapping or amend or template:
            raise FormatError(f"{source} is a file; --mapping, --amend and --template are for runs in the catalogue")
        _show(_of_file(Path(source)), json_output)
        return
    from ptycho_bluesky.catalog import connect

    client = connect()
    try:
        try:
            run = client["raw"][source]
        except (KeyError, ValueError):
            raise FormatError(
                f"{source!r} is neither a file nor the uid of a run in the catalogue; give a path or a uid"
            ) from None
        result = _of_run(run, source, mapping, amend, reason, template)
    finally:
        client.context.close()
    if result is not None:
        again = f"ptycho-bluesky validate {source}"
        _show(result, json_output, f"{again} --template mapping.toml; fill it in; {again} --amend mapping.toml")


def _of_run(
    run: Any, source: str, mapping: Path | None, amend: Path | None, reason: str, template: Path | None
) -> dict[str, Any] | None:
    """Return what a run lacks, amended first where that was asked for; None where only a template was."""
    from ptycho_bluesky.catalog import amend_run, mapping_template, validate_run

    if template is not None:
        check_writable(template)
        template.write_text(mapping_template(run), encoding="utf-8")
        say(f"a mapping to fill in is in {template}")
        return None
    if amend is not None:
        number = amend_run(run, amend, reason)["number"]
        say(f"amendment {number} of run {source} is stored; datasets are made with it from now on")
    check = validate_run(run, mapping)
    return {
        "source": source,
        "kind": "run",
        "ok": check.ok,
        "needed": check.needed,
        "wished": check.wished,
        "amendments": check.amendments,
        "frames": check.frames,
        "frame_shape": check.frame_shape,
    }


def _of_file(path: Path) -> dict[str, Any]:
    """Return what a data file lacks."""
    from ptycho_bluesky.formats import load_dataset

    result: dict[str, Any] = {"source": str(path), "kind": "file", "ok": True, "needed": [], "wished": []}
    try:
        dataset = load_dataset(path).validate()
    except PtychoError as error:
        return result | {"ok": False, "needed": [str(error)], "frames": 0, "frame_shape": None}
    wishes = {
        "geometry: without it the object has no lengths": dataset.geometry,
        "probe: with one the reconstruction starts from the right probe": dataset.probe,
        "mask: bad pixels count as measured": dataset.mask,
    }
    return result | {
        "wished": [text for text, value in wishes.items() if value is None],
        "frames": len(dataset),
        "frame_shape": dataset.frame_shape,
    }


def _show(result: dict[str, Any], as_json: bool, how: str = "") -> None:
    if as_json:
        emit(result, True)
    else:
        frames = f"{result['frames']} frames of {result['frame_shape']}" if result["ok"] else "no dataset"
        tree = Tree(f"[bold]{escape(result['source'])}[/bold]  {escape(frames)}")
        for text in result["needed"]:
            tree.add(f"[red]needed[/]  {escape(text)}")
        for text in result["wished"]:
            tree.add(f"[yellow]good to know[/]  {escape(text)}")
        if not result["needed"] and not result["wished"]:
            tree.add("[green]nothing is missing[/green]")
        elif how:
            tree.add(f"how to add it: {escape(how)}")
        Console().print(tree)
    if not result["ok"]:
        raise typer.Exit(1)
