"""The browser's side: one ES module and one style sheet, joined from the files in ``assets``; no build step."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files

from ptycho_bluesky.jupyter._colours import colours

__all__ = ["page", "script", "style"]

PARTS = ("pixels.js", "view.js", "panels.js", "pane.js", "mosaic.js", "socket.js", "dashboard.js")

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>{style}</style>
</head>
<body class="pb-page">
<main id="dashboard"></main>
<script type="module">
{script}
mount(document.getElementById("dashboard"), socketLink({socket}));
</script>
</body>
</html>
"""


def _read(name: str) -> str:
    return files("ptycho_bluesky.jupyter").joinpath("assets", name).read_text()


@cache
def script() -> str:
    """Return the ES module: its default export is anywidget's, ``mount`` and ``socketLink`` serve other pages."""
    table = f"const COLOURS = {json.dumps(colours())};\n"
    return table + "\n".join(_read(name) for name in PARTS)


@cache
def style() -> str:
    """Return the style sheet."""
    return _read("dashboard.css")


def page(socket: str, title: str = "Ptychography") -> str:
    """Return a page that shows what a WebSocket sends: each message made by :func:`ptycho_bluesky.jupyter.pack`.

    Parameters
    ----------
    socket:
        Path of the WebSocket on the same server, such as ``"/feed"``; what the page was asked with (``?key=...``) goes
        along.
    title:
        Of the window.
    """
    where = json.dumps(socket).replace("<", "\\u003c")
    name = title.replace("&", "&amp;").replace("<", "&lt;")
    return PAGE.format(title=name, style=style(), script=script(), socket=where)
