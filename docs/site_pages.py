"""What the site adds to the pages: the index as its menu, the notebooks, and references made from the code itself."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import typer
from mkdocs.structure.files import File, Files

DOCS = Path(__file__).parent
ROOT = DOCS.parent
SECTION = re.compile(r"^## (.+)$")
ENTRY = re.compile(r"^- \[(.+)\]\((.+)\)$")
LINK = re.compile(r"\[([^\]]+)\]\((?!https?:|mailto:|#)([^)#\s]+)(#[^)]*)?\)")
API = {
    "experiment": "what is measured",
    "optics": "the physics",
    "formats": "files",
    "devices": "devices",
    "plans": "plans",
    "stream": "frames in order",
    "callbacks": "callbacks",
    "inference": "networks",
    "reconstruction": "reconstruction",
    "dispatch": "jobs",
    "catalog": "the catalogue",
    "jupyter": "widgets",
    "errors": "errors",
}
"""Packages in the order in which data travels through them."""


def menu(index: str) -> list[dict[str, Any]]:
    """Return the menu that an index page tells: its headings, and the links under them."""
    found: list[dict[str, Any]] = [{"Start": "README.md"}]
    for line in index.splitlines():
        if heading := SECTION.match(line):
            found.append({heading[1]: []})
        elif entry := ENTRY.match(line):
            next(iter(found[-1].values())).append({entry[1]: entry[2]})
    return found


def api_pages() -> Iterator[tuple[str, str, str]]:
    """Yield title, path and text of a page for each package."""
    for name, what in API.items():
        module = importlib.import_module(f"ptycho_bluesky.{name}")
        names = sorted(module.__all__)
        parts = [f"# `ptycho_bluesky.{name}`: {what}\n"]
        parts += [f"## {one}\n\n::: {_home(module, one)}\n" for one in names]
        yield f"{name}: {what}", f"reference/api/{name}.md", "\n".join(parts)


def _home(module: Any, name: str) -> str:
    """Return where a public name is defined; of what is neither function nor class, where it is found."""
    thing = getattr(module, name)
    own = getattr(thing, "__qualname__", "") == name and thing.__module__.startswith("ptycho_bluesky")
    return f"{thing.__module__ if own else module.__name__}.{name}"


def notebook_pages() -> Iterator[tuple[str, str, str]]:
    """Yield title, path and text of a page for each notebook: its words and its code, without outputs."""
    for file in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = [(cell["cell_type"], "".join(cell["source"])) for cell in json.loads(file.read_text())["cells"]]
        parts = [text if kind == "markdown" else f"```python\n{text}\n```" for kind, text in cells]
        text = "\n\n".join(parts).replace(".ipynb)", ".md)").replace("](../docs/", "](../")
        title = parts[0].splitlines()[0].removeprefix("# ")
        yield title, f"tutorials/{file.stem}.md", text


def commands(command: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    """Yield full names and commands of a command line, depth first."""
    inner = getattr(command, "commands", {})
    if not inner:
        yield name, command
    for key in sorted(inner):
        yield from commands(inner[key], f"{name} {key}")


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", r"\|")


def command_page() -> str:
    """Return the page of all commands, from what they say of themselves."""
    from ptycho_bluesky.cli import app

    parts = ["# Command line\n", "Exit status: 0 done, 1 failed with one line that says why, 2 wrong usage.\n"]
    for name, command in commands(typer.main.get_command(app), "ptycho-bluesky"):
        context = click.Context(command, info_name=name)
        parts += [f"## `{name}`\n", f"```\n{command.get_usage(context)}\n```\n", f"{command.help or ''}\n"]
        options = [one.get_help_record(context) for one in command.params]
        shown = [pair for pair in options if pair]
        if shown:
            parts.append("| option | what it does |\n|---|---|")
            parts += [f"| `{_cell(option)}` | {_cell(text).replace('<', '&lt;')} |" for option, text in shown]
            parts.append("")
    return "\n".join(parts)


def on_config(config: Any) -> Any:
    """Take the menu from the index, so that there is one list of pages."""
    found = menu((DOCS / "README.md").read_text())
    for section in found:
        if "Tutorials" in section:
            section["Tutorials"] += [{title: path} for title, path, _ in notebook_pages()]
        if "Reference" in section:
            section["Reference"] += [
                {"Command line": "reference/command-line.md"},
                {"Python": [{title: path} for title, path, _ in api_pages()]},
            ]
    config.nav = found
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are made from the code."""
    made = {path: text for pages in (api_pages(), notebook_pages()) for _, path, text in pages}
    made["reference/command-line.md"] = command_page()
    for path, text in made.items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Show links to files beside the documentation as their names: the site does not hold them."""

    def shown(link: re.Match[str]) -> str:
        target = (DOCS / page.file.src_uri).parent / link[2]
        if target.suffix == ".ipynb":
            return f"[{link[1]}]({target.stem}.md)"
        outside = not target.resolve().is_relative_to(DOCS)
        return f"{link[1]} (`{target.resolve().relative_to(ROOT)}`)" if outside else link[0]

    return LINK.sub(shown, markdown)
