"""The physics: propagators, the forward model, probes, specimens, detector noise and whole simulated measurements.

Waves go as ``exp(+1j k z)``: matter advances the phase, ``exp(-1j * phase_rad * thickness)``. The middle of a
simulated object, its pixel ``[Y // 2, X // 2]``, is at position (0, 0).
"""

from ptycho_bluesky.optics._cells import cells
from ptycho_bluesky.optics._circuit import integrated_circuit
from ptycho_bluesky.optics._detector import DetectorModel
from ptycho_bluesky.optics._disc import diffused, disc_probe, probe_diameter_m
from ptycho_bluesky.optics._forward import diffraction, fourier_shift, object_patches
from ptycho_bluesky.optics._material import power_law_field, transmission
from ptycho_bluesky.optics._modes import coherent_modes
from ptycho_bluesky.optics._probe_info import probe_from_info
from ptycho_bluesky.optics._probes import kb_probe, zone_plate_probe
from ptycho_bluesky.optics._propagators import FarField, NearField, NearFieldMethod, Propagator, propagator_for
from ptycho_bluesky.optics._random_specimen import random_specimen
from ptycho_bluesky.optics._simulate import object_corners, simulate_dataset, truth_on_grid
from ptycho_bluesky.optics._specimens import random_foam, siemens_star
from ptycho_bluesky.optics._stage import PositionErrors

__all__ = [
    "DetectorModel",
    "FarField",
    "NearField",
    "NearFieldMethod",
    "PositionErrors",
    "Propagator",
    "cells",
    "coherent_modes",
    "diffraction",
    "diffused",
    "disc_probe",
    "fourier_shift",
    "integrated_circuit",
    "kb_probe",
    "object_corners",
    "object_patches",
    "power_law_field",
    "probe_diameter_m",
    "probe_from_info",
    "propagator_for",
    "random_foam",
    "random_specimen",
    "siemens_star",
    "simulate_dataset",
    "transmission",
    "truth_on_grid",
    "zone_plate_probe",
]
