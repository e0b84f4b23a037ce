"""What is installed is what the repository holds, although two packages stand at its top and are linked into place."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LINKED = ("callbacks", "plans", "profiles")
MAPPED = {"ptycho_bluesky": "ptycho_bluesky"} | {name: f"ptycho_bluesky/{name}" for name in LINKED}
LONGEST = 400


def shipped(root: Path) -> dict[str, Path]:
    """Return every file of the packages in `root`, by the path it must have in a wheel."""
    found = {}
    for folder, place in MAPPED.items():
        for path in (root / folder).rglob("*"):
            inner = path.relative_to(root / folder)
            linked = folder == "ptycho_bluesky" and inner.parts[0] in MAPPED
            if path.is_file() and not linked and "__pycache__" not in inner.parts:
                found[f"{place}/{inner.as_posix()}"] = path
    return found


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what a build needs: building writes beside its sources, and nobody may edit them meanwhile."""
    copy = tmp_path_factory.mktemp("packaging") / "tree"
    copy.mkdir()
    for name in MAPPED:
        shutil.copytree(
            ROOT / name, copy / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__", "*.tmp", "*.pyc")
        )
    for name in ("pyproject.toml", "LICENSE", "README.md"):
        if (ROOT / name).is_file():
            shutil.copy2(ROOT / name, copy)
    return copy


@pytest.fixture(scope="session")
def built(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The sdist, the wheel made from it, and the wheel made from the tree."""
    pytest.importorskip("build", reason="needs the 'build' front end, which the extra 'test' installs")
    pytest.importorskip("setuptools", "77", reason="needs setuptools 77 or later, as the build does")
    out = tmp_path_factory.mktemp("dist")
    for arguments, folder in (([], "by-sdist"), (["--wheel"], "direct")):
        command = [
            sys.executable,
            "-m",
            "build",
            "--no-isolation",
            *arguments,
            "--outdir",
            str(out / folder),
            str(tree),
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=100)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return {
        "sdist": next((out / "by-sdist").glob("*.tar.gz")),
        "by-sdist": next((out / "by-sdist").glob("*.whl")),
        "direct": next((out / "direct").glob("*.whl")),
    }


def test_every_package_is_listed() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {str(Path(p).parent).replace("/", ".") for p in shipped(ROOT) if p.endswith("/__init__.py")}
    assert found == set(listed)
    assert len(listed) == len(set(listed))


def test_every_module_stands_in_a_package() -> None:
    files = shipped(ROOT)
    modules = [p for p in files if p.endswith(".py") and "/profiles/" not in p]  # those are templates, not modules
    lonely = [p for p in modules if f"{Path(p).parent.as_posix()}/__init__.py" not in files]
    assert not lonely


@pytest.mark.parametrize("name", LINKED)
def test_top_level_packages_are_linked_by_a_relative_path(name: str) -> None:
    link = ROOT / "ptycho_bluesky" / name
    assert link.is_symlink()
    assert link.readlink() == Path("..") / name
    assert not (ROOT / name).is_symlink()


@pytest.mark.parametrize("kind", ["by-sdist", "direct"])
def test_a_wheel_holds_every_file(built: dict[str, Path], tree: Path, kind: str) -> None:
    with zipfile.ZipFile(built[kind]) as wheel:
        held = {name for name in wheel.namelist() if ".dist-info/" not in name}
        assert held == set(shipped(tree))
        for name, path in shipped(tree).items():
            assert wheel.read(name) == path.read_bytes(), name
        assert "ptycho_bluesky/py.typed" in held


@pytest.mark.parametrize("kind", ["by-sdist", "direct"])
def test_a_wheel_says_what_it_is(built: dict[str, Path], kind: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    with zipfile.ZipFile(built[kind]) as wheel:
        info = {
            name.rsplit("/", 1)[-1]: wheel.read(name).decode() for name in wheel.namelist() if ".dist-info/" in name
        }
    assert f"Version: {project['version']}\n" in info["METADATA"]
    assert "Root-Is-Purelib: true" in info["WHEEL"]
    assert info["top_level.txt"].split() == ["ptycho_bluesky"]
    for command, target in project["scripts"].items():
        assert f"{command} = {target}" in info["entry_points.txt"]
    assert "LICENSE" in info


def test_the_sdist_holds_the_sources_once(built: dict[str, Path]) -> None:
    with tarfile.open(built["sdist"]) as sdist:
        names = [name.split("/", 1)[1] for name in sdist.getnames() if "/" in name]
    assert "plans/__init__.py" in names
    assert "callbacks/__init__.py" in names
    assert "LICENSE" in names
    assert len(names) == len(set(names))


def test_an_unpacked_wheel_finds_the_mapped_packages(built: dict[str, Path], tmp_path: Path) -> None:
    with zipfile.ZipFile(built["by-sdist"]) as wheel:
        wheel.extractall(tmp_path)
    code = (
        "import importlib.util\n"
        "for name in ('plans', 'callbacks', 'formats'):\n"
        "    print(importlib.util.find_spec(f'ptycho_bluesky.{name}').origin)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [
        str(tmp_path / "ptycho_bluesky" / name / "__init__.py") for name in ("plans", "callbacks", "formats")
    ]


@pytest.mark.parametrize("name", LINKED)
def test_importing_from_the_top_is_refused_with_the_right_name(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"import {name}"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert done.stderr.rstrip().endswith(f"ImportError: import 'ptycho_bluesky.{name}', not '{name}'")


def test_no_source_file_is_too_long() -> None:
    folders = [*MAPPED, "tests", "benchmarks", "profiles"]
    lengths = {
        path.relative_to(ROOT).as_posix(): len(path.read_text(encoding="utf-8").splitlines())
        for folder in folders
        for path in (ROOT / folder).rglob("*.py")
    }
    too_long = {name: lines for name, lines in lengths.items() if lines > LONGEST}
    assert not too_long, f"longer than {LONGEST} lines: {too_long}; divide them by what they do"
