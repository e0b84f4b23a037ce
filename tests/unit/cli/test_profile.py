"""A beamline's profile is made, and the doctor says what is wrong with it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ptycho_bluesky.cli import app
from ptycho_bluesky.cli._doctor_profile import examine_profile
from ptycho_bluesky.cli._profile import make_profile
from ptycho_bluesky.errors import ConfigurationError


def levels(folder: Path) -> dict[str, tuple[str, str]]:
    return {finding.what: (finding.level, finding.text) for finding in examine_profile(folder)}


def replace(file: Path, startup: str) -> None:
    """Leave one startup file, so that nothing is started in earnest."""
    for other in file.parent.glob("*.py"):
        other.unlink()
    file.write_text(startup)


def test_what_is_made(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["profile", "new", "id26", "--folder", str(tmp_path), "--json"])
    assert done.exit_code == 0, done.output
    made = Path(json.loads(done.stdout)["profile"])
    names = {str(path.relative_to(made)) for path in made.rglob("*") if path.is_file()}
    assert {"profile_ptycho/startup/00-runengine.py", "queueserver/re-manager.yml", "tiled/users.yml"} <= names
    assert "instrument_ptycho/startup.py" in names and "profile_ptycho/beamline-epics.py" not in names
    assert '"beamline_id": "id26"' in (made / "profile_ptycho/startup/00-runengine.py").read_text()
    assert "beamline_id: id26" in (made / "instrument_ptycho/configs/iconfig.yml").read_text()
    assert "redis_name_prefix: id26" in (made / "queueserver/re-manager.yml").read_text()


def test_epics_devices_have_the_prefix(tmp_path: Path) -> None:
    make_profile("id26", tmp_path, "epics", "26idc:")
    text = (tmp_path / "id26/profile_ptycho/startup/10-beamline.py").read_text()
    assert 'EpicsStage("26idc:"' in text and 'EpicsDetector("26idc:det1:"' in text
    compile(text, "10-beamline.py", "exec")


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("../up", {}, "allowed are letters"),
        ("id26", {"devices": "epics"}, "needs the prefix"),
        ("there", {}, "exists already"),
    ],
)
def test_what_is_refused(tmp_path: Path, name: str, options: dict[str, str], words: str) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(ConfigurationError, match=words):
        make_profile(name, tmp_path, **options)  # type: ignore[arg-type]


def test_the_doctor_finds_a_healthy_profile(tmp_path: Path) -> None:
    make_profile("id26", tmp_path)
    replace(tmp_path / "id26/profile_ptycho/startup/00.py", "RE = catalog = stage = detector = metadata = 1\n")
    found = levels(tmp_path / "id26")
    assert {level for level, _ in found.values()} == {"OK"}, found
    assert "at the prompt after" in found["startup files"][1]


def test_the_doctor_finds_what_is_wrong(tmp_path: Path) -> None:
    make_profile("id26", tmp_path)
    folder = tmp_path / "id26"
    replace(folder / "profile_ptycho/startup/00.py", "raise TimeoutError('26idc:m1 does not answer')\n")
    (folder / "tiled/tags.yml").write_text("roles: [a\n")
    manager = folder / "queueserver/re-manager.yml"
    manager.write_text(manager.read_text().replace("127.0.0.1", "*"))
    (folder / "profile_ptycho/startup/settings.toml").write_text('tiled_api_key = "0123456789"\n')
    found = levels(folder)
    assert found["startup files"] == ("FAIL", "00.py: TimeoutError: 26idc:m1 does not answer")
    assert found["tiled/tags.yml"][0] == "FAIL"
    assert found["queue server"][0] == "WARN" and "open to the network" in found["queue server"][1]
    assert found["secrets"][0] == "WARN" and "settings.toml" in found["secrets"][1]


def test_names_that_are_missing_are_named(tmp_path: Path) -> None:
    make_profile("id26", tmp_path)
    replace(tmp_path / "id26/profile_ptycho/startup/00.py", "RE = 1\n")
    level, text = levels(tmp_path / "id26")["startup files"]
    assert level == "FAIL" and "catalog, stage, detector, metadata undefined" in text


def test_a_folder_that_is_no_profile(tmp_path: Path, use_home: Callable[[Path], Path]) -> None:
    (finding,) = examine_profile(tmp_path)
    assert finding.level == "FAIL" and "profile new" in finding.text
