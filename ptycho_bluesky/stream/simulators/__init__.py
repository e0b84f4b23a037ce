"""Detectors without hardware: one simulator for each kind of source, with faults on request."""

from ptycho_bluesky.stream.simulators._compress import Compression, compress
from ptycho_bluesky.stream.simulators._detector import (
    Exposure,
    Faults,
    SimulatorOptions,
    SimulatorReport,
    Transmitter,
    run_simulator,
)
from ptycho_bluesky.stream.simulators._eiger import EigerTransmitter, StreamForm
from ptycho_bluesky.stream.simulators._hdf5 import Hdf5Transmitter
from ptycho_bluesky.stream.simulators._patterns import simulated_patterns
from ptycho_bluesky.stream.simulators._pva import PvaTransmitter
from ptycho_bluesky.stream.simulators._ring import RingTransmitter

__all__ = [
    "Compression",
    "EigerTransmitter",
    "Exposure",
    "Faults",
    "Hdf5Transmitter",
    "PvaTransmitter",
    "RingTransmitter",
    "SimulatorOptions",
    "SimulatorReport",
    "StreamForm",
    "Transmitter",
    "compress",
    "run_simulator",
    "simulated_patterns",
]
