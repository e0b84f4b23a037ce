"""Several scans in one reconstruction: of one object, or with one probe."""

from dataclasses import replace

import numpy as np
import pytest

from ptycho_bluesky.errors import ReconstructionError
from ptycho_bluesky.experiment import phase_correlation
from ptycho_bluesky.optics import cells, siemens_star, truth_on_grid
from ptycho_bluesky.reconstruction import reconstruct, reconstruct_scans

OPTIONS = {"modes": 1, "threads": 1, "epochs": 30}


def agreement(result, obj, dataset) -> float:
    """Correlation with the true object on the result's own grid."""
    grid = replace(dataset.object_grid(), origin=result.origin, shape=result.object.shape[1:])
    truth = truth_on_grid(obj, grid, 64)
    return phase_correlation(result.phase, np.where(result.field_of_view, np.angle(truth), np.nan))


def test_two_scans_of_one_object_share_it_and_keep_their_own_probes(make_scan):
    obj = siemens_star((200, 200), spokes=20, rings=2)
    first, second = make_scan(obj, 150e-6, 160e-6), make_scan(obj, 230e-6, 240e-6, (25, 20))
    results = reconstruct_scans([first, second], "object", options=OPTIONS)
    assert [len(r.positions) for r in results] == [len(first), len(second)]
    assert results[0].object.shape == results[1].object.shape
    assert all(r.r_factor < 0.12 for r in results)
    assert all(agreement(r, obj, d) > 0.93 for r, d in zip(results, (first, second), strict=True))
    powers = [np.abs(r.probe[0]) ** 2 for r in results]
    assert np.corrcoef(*(p.ravel() for p in powers))[0, 1] < 0.9
    # A pixel of the shared object that only the other scan lit is outside this one's field.
    assert (results[0].field_of_view ^ results[1].field_of_view).any()


def test_two_objects_with_one_probe(make_scan):
    star, tissue = siemens_star((200, 200), spokes=20, rings=2), cells((200, 200), seed=3)
    scans = [make_scan(star, 150e-6, 165e-6), make_scan(tissue, 150e-6, 165e-6)]
    results = reconstruct_scans(scans, "probe", options=OPTIONS)
    np.testing.assert_allclose(
        np.abs(results[0].probe) / np.abs(results[0].probe).max(),
        np.abs(results[1].probe) / np.abs(results[1].probe).max(),
        atol=1e-3,
    )
    assert results[0].object.shape[1:] == scans[0].object_grid().shape
    assert agreement(results[0], star, scans[0]) > 0.93
    alone = reconstruct(scans[1], "fast", OPTIONS)
    together, single = (agreement(r, tissue, scans[1]) for r in (results[1], alone))
    assert together > single - 0.02


def test_scans_that_do_not_fit_are_refused_with_every_fault(make_scan):
    scan = make_scan(siemens_star((200, 200)), 150e-6, 150e-6)
    other = replace(scan, pixel_size_m=2 * scan.pixel_size_m, mask=np.eye(64, dtype=bool), name="b")
    with pytest.raises(ReconstructionError, match=r"2 faults.*scan 2 \(b\) has object pixels.*another mask"):
        reconstruct_scans([scan, other], "object", options=OPTIONS)
    with pytest.raises(ReconstructionError, match="1 scan given; two or more"):
        reconstruct_scans([scan], "probe", options=OPTIONS)
