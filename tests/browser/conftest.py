"""JupyterLab and Chromium, started for each file of tests: while Playwright is open, a loop runs in its thread."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

pytest.importorskip("playwright", reason="needs playwright (extra 'test')")
pytest.importorskip("jupyterlab", reason="needs jupyterlab (extra 'notebook')")

import jupyter_lab


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[jupyter_lab.Lab]:
    if jupyter_lab.CHROMIUM is None:
        missing = "needs Chromium: apt-get install chromium"
        pytest.fail(missing) if os.environ.get("CI") else pytest.skip(missing)
    with jupyter_lab.lab(tmp_path_factory.mktemp("lab")) as running:
        yield running
