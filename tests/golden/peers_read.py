"""Let cdtools and ptychodus read what this package writes, and compare with the truth.

``python tests/golden/peers_read.py`` with both at hand (versions in ``make.py``); it ends silently when all is right.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
import truth

from ptycho_bluesky.experiment import Geometry, PtychoDataset, Reconstruction
from ptycho_bluesky.formats import save_dataset, write_reconstruction

GEOMETRY = Geometry(energy_kev=truth.ENERGY_KEV, distance_m=truth.DISTANCE, detector_pixel_m=truth.DETECTOR_PIXEL)
DATASET = PtychoDataset(
    truth.FRAMES, truth.POSITIONS, GEOMETRY, pixel_size_m=truth.PIXEL, mask=truth.MASK, name="golden"
)
RESULT = Reconstruction(
    object=truth.OBJECT,
    probe=truth.COHERENT[0],
    positions=truth.POSITIONS,
    coverage=np.ones(truth.OBJECT.shape[1:], np.float32),
    origin=(float(truth.ORIGIN[0]), float(truth.ORIGIN[1])),
    pixel_size_m=truth.PIXEL,
    errors=truth.LOSSES,
    r_factor=0.1,
    phase_contrast_rad=1.0,
    engine="fast",
    provenance={"geometry": GEOMETRY.model_dump()},
    opr_modes=truth.COHERENT[1:, 0],
    opr_weights=truth.WEIGHTS[:, 1:].astype(np.float32),
)


def cdtools(folder: Path) -> None:
    import torch
    from cdtools.datasets import Ptycho2DDataset
    from cdtools.tools.initializers import exit_wave_geometry
    from cdtools.tools.interactions import translations_to_pixel

    for name, layout in (("a.cxi", None), ("a.nxs", "nxcxi")):
        save_dataset(folder / name, DATASET, layout)
        read = Ptycho2DDataset.from_cxi(str(folder / name))
        assert (read.patterns.numpy() == truth.FRAMES).all()
        assert (read.mask.numpy() == ~truth.MASK).all()
        assert np.isclose(read.detector_geometry["distance"], truth.DISTANCE)
        assert np.isclose(float(read.wavelength), truth.WAVELENGTH)
        basis = exit_wave_geometry(
            torch.as_tensor(read.detector_geometry["basis"], dtype=torch.float32),
            torch.Size([truth.SIZE, truth.SIZE]),
            truth.WAVELENGTH,
            truth.DISTANCE,
            oversampling=1,
        )
        pixels = translations_to_pixel(basis, read.translations).numpy()
        np.testing.assert_allclose(pixels - pixels[0], truth.CORNERS - truth.CORNERS[0], atol=1e-3)


def ptychodus(folder: Path) -> None:
    from ptychodus.plugins.cxi_file import CXIProductFileIO
    from ptychodus.plugins.h5_product_file import H5ProductFileIO
    from ptychodus.plugins.npz_product_file import NPZProductFileIO

    for name, layout, peer in (
        ("a.h5", "product", H5ProductFileIO),
        ("a.npz", "product-npz", NPZProductFileIO),
        ("a.cxi", "cxi", CXIProductFileIO),
    ):
        write_reconstruction(folder / name, RESULT, layout)
        product = peer().read(folder / name)
        geometry = product.object_.get_geometry()
        row = geometry.map_probe_positions_to_object_y_px(product.probe_positions)
        column = geometry.map_probe_positions_to_object_x_px(product.probe_positions)
        corners = np.stack([row, column], axis=1) - (truth.SIZE - 1) / 2  # of the middle of a patch
        np.testing.assert_allclose(corners, truth.CORNERS, atol=1e-6)
        np.testing.assert_array_equal(product.object_.get_array(), truth.OBJECT)
        for number in range(truth.COUNT):
            expected = truth.COHERENT[0].astype(complex)
            expected[0] = np.tensordot(truth.WEIGHTS[number], truth.COHERENT[:, 0], axes=1)
            np.testing.assert_allclose(product.probes[number].get_array(), expected, atol=1e-5)
        assert np.isclose(product.metadata.photon_energy_eV, truth.ENERGY_KEV * 1e3)
        assert [loss.value for loss in product.losses] == truth.LOSSES.tolist()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        cdtools(Path(scratch))
        ptychodus(Path(scratch))
