"""JupyterLab and Chromium, started once for all tests of this folder; without either the tests are skipped."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.importorskip("playwright", reason="needs playwright (extra 'test')")
pytest.importorskip("jupyterlab", reason="needs jupyterlab (extra 'notebook')")

import jupyter_lab


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[jupyter_lab.Lab]:
    if jupyter_lab.CHROMIUM is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    with jupyter_lab.lab(tmp_path_factory.mktemp("lab")) as running:
        yield running
