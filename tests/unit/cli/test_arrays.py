"""``jobs array`` and a campaign given to ``reconstruct``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ptycho_bluesky.cli import _reconstruct
from ptycho_bluesky.cli._app import app
from ptycho_bluesky.dispatch import JobSpec, Ledger, TiledSource, arrays, enter_in_array
from ptycho_bluesky.errors import FormatError

CAMPAIGN = {"uid": "views-of-a-cell", "axis": "rotation_deg", "count": 4}


def told(*arguments: str) -> dict[str, Any]:
    done = CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_arrays_are_listed_shown_and_cancelled(home: Path) -> None:
    assert "no arrays yet" in CliRunner().invoke(app, ["jobs", "array", "list"]).output
    for index in range(2):
        spec = JobSpec(source=TiledSource(uid=f"run-{index}"))
        enter_in_array({**CAMPAIGN, "index": index, "value": 90.0 * index}, spec)
    ledger = Ledger()
    job, _ = ledger.create(JobSpec(source=TiledSource(uid="run-0")))
    ledger.record(job, "running")
    ledger.record(job, "done", registered=True, progress={"r_factor": 0.125})
    (array,) = told("jobs", "array", "list")["arrays"]
    assert (array["done"], array["left"], array["expected"]) == (1, 3, 4)
    shown = told("jobs", "array", "show", "views")
    assert [(m["value"], m["state"], m["r_factor"]) for m in shown["members"]] == [
        (0.0, "done", 0.125), (90.0, "missing", None),
    ]  # fmt: skip
    table = CliRunner().invoke(app, ["jobs", "array", "show", array["array_id"][:8]]).output
    assert "0.1250" in table and "missing" in table
    assert "1 of 4" in CliRunner().invoke(app, ["jobs", "array", "list"]).output
    assert told("jobs", "array", "cancel", "views")["cancelled"] and arrays()[0].done == 1


def test_a_campaign_is_submitted_with_the_options_given(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(_reconstruct, "is_campaign", lambda source: source == "views-of-a-cell")
    monkeypatch.setattr(_reconstruct, "submitted", lambda *given, **named: asked.append((given, named)) or {"done": 0})
    assert told("reconstruct", "views-of-a-cell", "--engine", "fast", "--epochs", "5", "--max-seconds", "60") == {
        "done": 0
    }
    options = {"engine": "fast", "options": {"epochs": 5}, "device": "cpu", "max_seconds": 60.0}
    assert asked == [(("views-of-a-cell",), options)]
    with pytest.raises(FormatError, match=r"refine_distance.*for one scan, but views-of-a-cell is a campaign"):
        CliRunner().invoke(app, ["reconstruct", "views-of-a-cell", "--refine-distance"], catch_exceptions=False)
