"""EPICS devices where EPICS is not: what is said then. Over the wire they are tested in tests/system/test_epics.py."""

import importlib.util

import pytest

from ptycho_bluesky.devices.epics import AsyncEpicsDetector, AsyncEpicsStage, EpicsDetector, EpicsStage
from ptycho_bluesky.errors import ConfigurationError


def test_classic_devices_need_a_client(tmp_path):
    with pytest.raises(ConfigurationError, match="set OPHYD_CONTROL_LAYER to caproto or pyepics"):
        EpicsDetector("X:", folder=tmp_path)
    with pytest.raises(ConfigurationError, match="its layer is 'dummy'"):
        EpicsStage("X:")


def test_the_extra_is_named_where_a_library_is_missing(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match=r"p4p is not installed.*ptycho-bluesky\[epics\]"):
        AsyncEpicsStage("pva://X:")
    with pytest.raises(ConfigurationError, match="aioca is not installed"):
        AsyncEpicsDetector("ca://X:", folder=tmp_path)
    with pytest.raises(ConfigurationError, match="allowed are ca:// and pva://"):
        AsyncEpicsStage("tango://X:")
