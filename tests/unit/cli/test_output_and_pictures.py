"""What commands print, and the pictures they write."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from ptycho_bluesky.cli._output import emit, say
from ptycho_bluesky.cli._pictures import Panel, save_panels
from ptycho_bluesky.errors import FormatError
from ptycho_bluesky.reconstruction.judgement import scale_bar_m


def test_json_is_one_object_with_plain_values(capsys: pytest.CaptureFixture[str]) -> None:
    emit({"n": np.int64(3), "r": np.float32(0.5), "x": float("nan"), "time": 1795464361.78, "path": Path("a.h5")}, True)
    out = capsys.readouterr().out
    assert json.loads(out) == {"n": 3, "r": 0.5, "x": None, "time": 1795464361.78, "path": "a.h5"}
    assert out.count("\n") == 1


def test_table_for_people_names_every_key(capsys: pytest.CaptureFixture[str]) -> None:
    emit({"r_factor": 0.1234, "object_shape": [1, 5, 6]}, False)
    out = capsys.readouterr().out
    assert "r_factor" in out
    assert "0.1234" in out
    assert "[1, 5, 6]" in out


def test_an_address_is_told_to_its_end(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ptycho_bluesky.cli._output._console", Console(stderr=True, width=40))
    monkeypatch.setenv("COLUMNS", "40")
    uri = "hdf5:///data/[a]/scan.h5?" + "x" * 60 + "#/entry/data/data"
    say(f"read it from {uri}")
    emit({"uri": uri}, False)
    told = capsys.readouterr()
    assert told.err == f"read it from {uri}\n"
    assert uri in "".join(told.out.removeprefix("uri").split())


@pytest.mark.parametrize(("width", "length"), [(4e-6, 1e-6), (8.1e-6, 2e-6), (1e-6, 2e-7), (332.0, 50.0)])
def test_scale_bar_is_a_round_quarter(width: float, length: float) -> None:
    assert scale_bar_m(width) == pytest.approx(length)


def test_a_picture_of_images_with_unknown_parts(tmp_path: Path) -> None:
    image = np.full((40, 60), np.nan)
    image[5:30, 10:50] = np.random.default_rng(0).normal(size=(25, 40))
    path = save_panels(tmp_path / "new" / "two.png", [Panel("a", image, 1e-8), Panel("b", image * np.nan)], "title")
    with Image.open(path) as picture:
        assert picture.size[0] > 500


def test_a_picture_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FormatError, match="cannot be written"):
        save_panels(tmp_path / "file" / "p.png", [Panel("a", np.zeros((4, 4)))])
