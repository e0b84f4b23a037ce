"""Every codec gives back what went in, and no damaged input does worse than be refused."""

from __future__ import annotations

import sys
from pathlib import Path

import h5py
import hdf5plugin
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ptycho_bluesky.stream.simulators import compress
from ptycho_bluesky.stream.sources import DamagedFrame, _codec, decompress

FRAME = np.random.default_rng(0).poisson(1.5, (31, 65))


@pytest.fixture(params=["dectris-compression", "numpy"])
def either(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways to undo bslz4."""
    if request.param == "numpy":
        monkeypatch.setattr(_codec, "_dectris", lambda: None)
    else:
        pytest.importorskip("dectris.compression", reason="needs dectris-compression (extra edge)")


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32"])
@pytest.mark.parametrize("codec", ["none", "bslz4", "lz4", "blosc"])
@pytest.mark.usefixtures("either")
def test_what_was_compressed_comes_back(codec: str, dtype: str) -> None:
    frame = FRAME.astype(dtype)
    body = compress(frame, codec)  # type: ignore[arg-type]
    found = decompress(memoryview(body), codec, dtype, frame.shape)
    assert found.dtype == frame.dtype
    np.testing.assert_array_equal(found, frame)


@pytest.mark.usefixtures("either")
def test_headers_may_be_there_or_not() -> None:
    frame = FRAME.astype(np.uint16)
    bare = compress(frame, "bslz4")[12:]  # as areaDetector sends it
    np.testing.assert_array_equal(decompress(bare, "bslz4", "uint16", frame.shape), frame)


def test_lz4_with_the_header_of_hdf5(tmp_path: Path) -> None:
    frame = FRAME.astype(np.uint16)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        data = file.create_dataset("a", data=frame, chunks=frame.shape, **hdf5plugin.LZ4(nbytes=1024))
        body = data.id.read_direct_chunk((0, 0))[1]
    np.testing.assert_array_equal(decompress(body, "lz4", "uint16", frame.shape), frame)


@pytest.mark.parametrize("codec", ["none", "bslz4", "lz4", "blosc"])
@pytest.mark.usefixtures("either")
def test_cut_short_is_named_damaged(codec: str) -> None:
    body = compress(FRAME.astype(np.uint16), codec)  # type: ignore[arg-type]
    for cut in (0, 3, 11, 15, len(body) // 2, len(body) - 1):
        with pytest.raises(DamagedFrame):
            decompress(body[:cut], codec, "uint16", FRAME.shape)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    at=st.integers(0, 2000), junk=st.binary(min_size=1, max_size=40), codec=st.sampled_from(["bslz4", "lz4", "blosc"])
)
@pytest.mark.usefixtures("either")
def test_no_rubbish_ends_the_process(at: int, junk: bytes, codec: str) -> None:
    body = compress(FRAME.astype(np.uint16), codec)  # type: ignore[arg-type]
    at %= len(body)
    try:
        found = decompress(body[:at] + junk + body[at + len(junk) :], codec, "uint16", FRAME.shape)
    except DamagedFrame:
        return
    assert found.shape == FRAME.shape  # LZ4 has no checksum: changed literals give changed counts


def test_another_codec_is_named() -> None:
    with pytest.raises(DamagedFrame, match=r"'jpeg' is not known.*bslz4, lz4, blosc"):
        decompress(b"", "jpeg", "uint16", (1, 1))


def test_a_missing_package_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    from ptycho_bluesky.errors import SourceError
    from ptycho_bluesky.stream.sources import open_source

    monkeypatch.setitem(sys.modules, "pvaccess", None)
    with pytest.raises(SourceError, match=r"ptycho-bluesky\[epics\]"):
        open_source("pva://a:b")
