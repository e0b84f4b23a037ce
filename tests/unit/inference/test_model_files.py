"""Model files: what is written comes back, and what is damaged or foreign is refused in words."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from ptycho_bluesky.errors import FormatError, InferenceError
from ptycho_bluesky.inference import (
    ProbeViTSizes,
    PtychoNNPhase,
    load_model,
)
from ptycho_bluesky.optics import disc_probe


def test_round_trip(tmp_path, small):
    digest = small.save(tmp_path / "m.safetensors")
    again = load_model(tmp_path / "m.safetensors")
    assert again.content_hash == digest
    assert again.notes == {"seed": 1}
    assert again.name == "m"
    assert again.save(tmp_path / "n.safetensors") == digest
    frames = np.random.default_rng(0).poisson(20, (2, 32, 32)).astype(np.float32)
    probe = disc_probe(32, 1.0, diameter_m=12.0)[None]
    a, b = (m.for_probe(probe, None, 32)(frames) for m in (small, again))
    np.testing.assert_allclose(a.amplitude, b.amplitude, atol=0.02)  # float16 in the file


def test_round_trip_reads_as_plain_safetensors(tmp_path, small):
    small.save(tmp_path / "m.safetensors")
    raw = (tmp_path / "m.safetensors").read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    assert all(isinstance(v, str) for v in header.pop("__metadata__").values())
    assert max(entry["data_offsets"][1] for entry in header.values()) == len(raw) - 8 - length


def altered(path: Path, change) -> Path:
    raw = bytearray(path.read_bytes())
    path.write_bytes(bytes(change(raw)))
    return path


def flip_last(raw: bytearray) -> bytearray:
    raw[-1] ^= 1
    return raw


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (flip_last, "altered or damaged"),
        (lambda raw: raw.replace(b'"version": "1"', b'"version": "7"'), "version 7"),
        (lambda raw: raw.replace(b"ptycho-bluesky-network", b"some-other-thing-xxxxx"), "some-other-thing"),
        (lambda raw: raw.replace(b"probe-vit", b"probe-dot"), "altered or damaged"),
        (lambda raw: raw[:-100], "is not a model file"),
        (lambda raw: raw[:5], "is not a model file"),
        (lambda raw: b"\xff" * 64, "is not a model file"),
    ],
)
def test_bad_file_is_refused(tmp_path, small, change, message):
    small.save(tmp_path / "m.safetensors")
    with pytest.raises(FormatError, match=message):
        load_model(altered(tmp_path / "m.safetensors", change))


class Trap:
    def __reduce__(self):
        return os.mkdir, ("trapped",)


def test_nothing_in_a_file_can_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(Trap(), "trap.pth")
    with pytest.raises(FormatError, match="loaded safely"):
        load_model("trap.pth")
    assert not Path("trapped").exists()


@pytest.mark.parametrize("content", [b"hello\n", b"", b"\x89PNG\r\n", b"PK\x03\x04 no zip"])
def test_a_file_of_another_kind_is_refused_in_one_sentence(tmp_path, content):
    (tmp_path / "notes.txt").write_bytes(content)
    with pytest.raises(FormatError, match=r"notes.txt is no state dict .*; give a model file") as caught:
        load_model(tmp_path / "notes.txt")
    assert "weights_only" not in str(caught.value)  # torch's advice: to turn the guard off


def test_foreign_weights_are_refused(tmp_path):
    torch.save({"layer.weight": torch.zeros(2)}, tmp_path / "a.pth")
    with pytest.raises(FormatError, match=r"no 'encoder.0.weight'"):
        load_model(tmp_path / "a.pth")
    state = PtychoNNPhase(4).state_dict()
    state.pop("decoder2.20.bias")
    torch.save(state, tmp_path / "b.pth")
    with pytest.raises(FormatError, match=r"decoder2.20.bias"):
        load_model(tmp_path / "b.pth")


def test_unknown_name_lists_what_there_is():
    with pytest.raises(InferenceError, match=r"no model or model file 'nobody'; there are .*default"):
        load_model("nobody")


@pytest.mark.parametrize("sizes", [{"width": 0}, {"size": 30}, {"width": 18, "heads": 4}, {"depth": 1.5}])
def test_bad_sizes(sizes):
    with pytest.raises(InferenceError, match="sizes of a ProbeViT"):
        ProbeViTSizes(**sizes)


def test_model_in_service_is_the_promoted_one_or_the_default(tmp_path, small, use_home):
    models = use_home(tmp_path) / "models"
    assert load_model("in-service").name == "default"
    digest = small.save(models / "mine.safetensors")
    pointer = models / "in-service.json"
    pointer.write_text(json.dumps({"model": str(models / "mine.safetensors"), "content_hash": digest}))
    assert load_model("in-service").content_hash == digest
    pointer.write_text("{}")
    with pytest.raises(FormatError, match="which model is in service"):
        load_model("in-service")
