"""A report as one HTML page by itself: no script, nothing from elsewhere, light or dark as the reader has it."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass

from ptycho_bluesky.reconstruction.judgement._verdict import Judgement

__all__ = ["DARK", "Picture", "html_page"]

Rows = Sequence[tuple[str, str]]

DARK = {
    "figure.facecolor": "#15181d",
    "axes.facecolor": "#15181d",
    "savefig.facecolor": "#15181d",
    "axes.edgecolor": "#8a929e",
    "axes.labelcolor": "#d7dbe0",
    "axes.titlecolor": "#d7dbe0",
    "text.color": "#d7dbe0",
    "xtick.color": "#aab1bb",
    "ytick.color": "#aab1bb",
    "grid.color": "#4a515c",
    "legend.facecolor": "#22262d",
}
"""Colours of matplotlib for the dark pictures."""

STYLE = """
:root { color-scheme: light dark; --text: #222; --soft: #555; --line: #ddd; --back: #fff; --box: #f7f7f7;
  --good: #1b7f4b; --look: #b35c00; }
@media (prefers-color-scheme: dark) { :root { --text: #d7dbe0; --soft: #9aa2ad; --line: #30353d; --back: #15181d;
  --box: #1d2127; --good: #4cc38a; --look: #f0a14a; } }
body { font: 15px/1.45 system-ui, sans-serif; color: var(--text); background: var(--back); max-width: 1180px;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.35rem; margin: 0; } h2 { font-size: 1.05rem; margin: 1.6rem 0 .4rem; }
.verdict { border-left: 6px solid; padding: .5rem 1rem; margin: 1rem 0; background: var(--box); }
.verdict strong { font-size: 1.15rem; } ul { margin: .4rem 0; padding-left: 1.2rem; }
.good { color: var(--good); } .look { color: var(--look); } .verdict li { color: var(--text); }
.verdict li.look { font-weight: 600; color: var(--look); }
.panels { display: grid; grid-template-columns: repeat(auto-fill, minmax(270px, 1fr)); gap: 12px; }
.panels img { width: 100%; } .tables { display: grid; grid-template-columns: 1fr 1fr; gap: 0 24px; }
table { border-collapse: collapse; width: 100%; } td { padding: .2rem .5rem; border-bottom: 1px solid var(--line); }
td { vertical-align: top; } td:last-child { overflow-wrap: anywhere; }
td:first-child { color: var(--soft); white-space: nowrap; }
@media print { body { margin: 0; font-size: 11px; max-width: none; } .panels { grid-template-columns: repeat(4, 1fr); }}
@media (max-width: 700px) { .tables { grid-template-columns: 1fr; } }
"""


@dataclass(frozen=True)
class Picture:
    """A panel as PNG, for either ground."""

    title: str
    light: bytes
    dark: bytes


def html_page(title: str, judgement: Judgement, pictures: Sequence[Picture], tables: Sequence[tuple[str, Rows]]) -> str:
    """Return the page: verdict and findings, pictures, tables of (label, value)."""
    kind = "good" if judgement.good else "look"
    findings = "".join(
        f'<li class="{"good" if f.good else "look"}">{html.escape(f.text)}</li>' for f in judgement.findings
    )
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        '<meta name="viewport" content="width=device-width">'
        f"<style>{STYLE}</style></head><body><h1>{html.escape(title)}</h1>"
        f'<div class="verdict {kind}"><strong>{html.escape(judgement.headline)}</strong><ul>{findings}</ul></div>'
        f'<div class="panels">{"".join(map(_picture, pictures))}</div>'
        f'<div class="tables">{"".join(_table(name, rows) for name, rows in tables)}</div></body></html>\n'
    )


def _picture(picture: Picture) -> str:
    light, dark = (f"data:image/png;base64,{base64.b64encode(png).decode()}" for png in (picture.light, picture.dark))
    alt = html.escape(picture.title)
    source = f'<source media="(prefers-color-scheme: dark)" srcset="{dark}">'
    return f'<picture>{source}<img alt="{alt}" src="{light}"></picture>'


def _table(name: str, rows: Rows) -> str:
    lines = "".join(f"<tr><td>{html.escape(label)}</td><td>{html.escape(value)}</td></tr>" for label, value in rows)
    return f"<div><h2>{html.escape(name)}</h2><table>{lines}</table></div>"
