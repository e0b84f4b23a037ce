"""The documentation as a site, built with every warning an error; what it shows of code is run."""

from __future__ import annotations

import doctest
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PYTHON = [page for page in sorted((ROOT / "docs").rglob("*.md")) if ">>> " in page.read_text()]
CONSOLE = re.compile(r"<!-- tested -->\n+```console\n(.*?)```", re.DOTALL)
COMMANDS = [page for page in sorted((ROOT / "docs").rglob("*.md")) if CONSOLE.search(page.read_text())]


@pytest.mark.timeout(300)
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "WARNING" not in done.stderr
    site = tmp_path / "site"
    commands = (site / "reference" / "command-line.html").read_text()
    assert "ptycho-bluesky jobs cancel" in commands
    assert "--position-correction" in commands
    assert "shape" in (site / "reference" / "api" / "experiment.html").read_text()
    assert not re.search(r'(src|href)="https?://(?!squidfunk|www\.mkdocs)', (site / "index.html").read_text())


@pytest.mark.parametrize("page", PYTHON, ids=lambda page: page.stem)
def test_what_python_prints_is_what_the_page_says(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = re.sub(r"^```.*$", "", page.read_text(), flags=re.MULTILINE)
    found = doctest.DocTestParser().get_doctest(text, {}, page.stem, str(page), 0)
    said: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    runner.run(found, out=said.append)
    assert not runner.failures, "".join(said)


@pytest.mark.parametrize("page", COMMANDS, ids=lambda page: page.stem)
def test_what_commands_print_is_what_the_page_says(page: Path, tmp_path: Path) -> None:
    checker = doctest.OutputChecker()
    for block in CONSOLE.findall(page.read_text()):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            line, _, wanted = part.partition("\n")
            program = line.replace("ptycho-bluesky", f"{sys.executable} -m ptycho_bluesky.cli").replace(
                "python -c", f"{sys.executable} -c"
            )
            done = subprocess.run(
                ["bash", "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False
            )
            assert done.returncode == 0, f"{line}\n{done.stderr}"
            flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
            assert checker.check_output(wanted, done.stdout, flags), f"{line}\n{done.stdout}"
