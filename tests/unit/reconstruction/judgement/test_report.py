"""The report: one page by itself, with a panel for all that is known."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ptycho_bluesky.errors import FormatError
from ptycho_bluesky.experiment import Geometry, PtychoDataset, Reconstruction
from ptycho_bluesky.reconstruction.judgement import (
    Uncertainty,
    fourier_ring_correlation,
    report_figure,
    write_report,
)


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.alts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.tags.append(tag)
        self.links += [given[key] for key in ("src", "href") if key in given]
        self.alts += [given["alt"]] if "alt" in given else []


@pytest.fixture
def known(judged) -> dict:
    sigma = np.full(judged.result.coverage.shape, 0.01, np.float32)
    return {
        "dataset": replace(judged.dataset, positions=judged.dataset.positions + 1e-9 * np.arange(2)),
        "uncertainty": Uncertainty(sigma, sigma, "half-data", (judged.result,) * 2),
    }


def test_the_page_stands_by_itself(judged, known, tmp_path: Path):
    file = tmp_path / "report.html"
    found = write_report(file, judged.result, **known, title="star <1> & 2")
    text = file.read_text("utf-8")
    page = Page(text)
    assert page.links and all(link.startswith("data:image/png;base64,") for link in page.links)
    assert "script" not in page.tags and "http" not in re.sub(r"base64,[^\"]*", "", text)
    assert "star &lt;1&gt; &amp; 2" in text and found.headline in text
    assert {"Phase (rad)", "Phase uncertainty, 1 sigma (rad)", "Fourier ring correlation"} <= set(page.alts)
    assert "Positions, given to refined" not in page.alts  # a common shift is no refinement


def test_the_picture_is_one_page(judged, known, tmp_path: Path):
    write_report(tmp_path / "report.png", judged.result, **known)
    with Image.open(tmp_path / "report.png") as picture:
        assert 1500 < picture.width < 2000 and picture.width * 0.5 < picture.height < picture.width * 1.5
        shades = np.asarray(picture.convert("L"))
    assert 0.4 < (shades > 250).mean() < 0.95  # neither empty nor covered


def test_there_is_a_panel_for_what_is_known_and_none_for_what_is_not(judged, known):
    def titles(*given, **more) -> set[str]:
        return {axis.get_title(loc="left") for axis in report_figure(*given, **more).axes} - {""}

    bare = {"Phase (rad)", "Amplitude", "Coverage and positions", "Scan path"}
    bare |= {"Probe modes, modulus", "Error by epoch"}
    assert titles(judged.result) == bare
    rng = np.random.default_rng(0)
    moved = replace(judged.dataset, positions=judged.dataset.positions + rng.normal(0, 1e-8, (len(judged.dataset), 2)))
    full = titles(judged.result, moved, known["uncertainty"], fourier_ring_correlation(judged.result, judged.result))
    assert full - bare == {
        "Phase uncertainty, 1 sigma (rad)", "Measured | modelled (log10 counts)", "Measured and modelled",
        "Fourier ring correlation", "Phase retrieval transfer", "Positions, given to refined",
    }  # fmt: skip


def test_pixel_units_and_many_modes(judged):
    pixel = judged.result.pixel_size_m
    plain = replace(
        judged.result, pixel_size_m=None, origin=(0.0, 0.0), probe=np.repeat(judged.result.probe, 6, axis=0),
        positions=(judged.result.positions - np.asarray(judged.result.origin)) / pixel,
    )  # fmt: skip
    texts = [text.get_text() for axis in report_figure(plain).axes for text in axis.texts]
    assert any(text.endswith(" px") for text in texts) and not any(" nm" in text for text in texts)
    assert any(axis.get_xlabel() == "and 2 more, 33.3%" for axis in report_figure(plain).axes)


def test_near_field_has_no_spatial_frequencies():
    rng, size = np.random.default_rng(0), 64
    geometry = Geometry(
        energy_kev=12.0, distance_m=1.1, detector_pixel_m=55e-6, focus_to_sample_m=4e-3, modality="near-field"
    )
    pixel = geometry.pixel_size_m(size)
    positions = rng.uniform(0, 20 * pixel, (6, 2))
    dataset = PtychoDataset(
        frames=rng.poisson(50, (6, size, size)), positions=positions, geometry=geometry, modality="near-field",
        pixel_size_m=pixel,
    )  # fmt: skip
    grid = dataset.object_grid()
    rec = Reconstruction(
        object=np.ones((1, *grid.shape), np.complex64), probe=np.full((1, size, size), 7, np.complex64),
        positions=positions, coverage=np.ones(grid.shape, np.float32), origin=grid.origin, pixel_size_m=pixel,
        errors=np.ones(3), r_factor=0.1, phase_contrast_rad=0.0, engine="fast", modality="near-field",
    )  # fmt: skip
    titles = {axis.get_title(loc="left") for axis in report_figure(rec, dataset).axes}
    assert "Measured | modelled (log10 counts)" in titles and "Measured and modelled" not in titles


def test_a_result_of_another_program_tells_a_loss_or_nothing(judged):
    foreign = replace(judged.result, r_factor=float("nan"), errors=np.linspace(3, -2, 12))
    labels = {axis.get_ylabel() for axis in report_figure(foreign).axes}
    assert "loss" in labels and "R-factor" not in labels
    titles = {axis.get_title(loc="left") for axis in report_figure(replace(foreign, errors=np.empty(0))).axes}
    assert "Error by epoch" not in titles


@pytest.mark.parametrize(("name", "text"), [("a.pdf", "allowed are .png and .html"), ("no/a.png", "cannot be written")])
def test_what_cannot_be_written_is_refused(judged, tmp_path: Path, name, text):
    with pytest.raises(FormatError, match=text):
        write_report(tmp_path / name, judged.result)
