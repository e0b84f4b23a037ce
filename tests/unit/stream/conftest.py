"""Fixtures that sources and outputs share."""

from __future__ import annotations

import os
import socket

import pytest


@pytest.fixture(scope="module")
def loopback() -> dict[str, str]:
    """EPICS variables for one server and its clients, which no other test worker uses."""
    with socket.socket() as tcp, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        tcp.bind(("127.0.0.1", 0))
        udp.bind(("127.0.0.1", 0))
        ports = str(tcp.getsockname()[1]), str(udp.getsockname()[1])
    chosen = {"EPICS_PVA_ADDR_LIST": "127.0.0.1", "EPICS_PVA_AUTO_ADDR_LIST": "NO"}
    chosen |= {"EPICS_PVAS_INTF_ADDR_LIST": "127.0.0.1", "EPICS_PVAS_BEACON_ADDR_LIST": "127.0.0.1"}
    chosen |= {"EPICS_PVAS_AUTO_BEACON_ADDR_LIST": "NO"}
    for side in ("PVA", "PVAS"):
        chosen |= {f"EPICS_{side}_SERVER_PORT": ports[0], f"EPICS_{side}_BROADCAST_PORT": ports[1]}
    return os.environ | chosen
