"""The image in shared memory: what viewers see of a mosaic, whole or only where it has changed."""

import uuid

import numpy as np
import pytest

from ptycho_bluesky.inference._canvas import SharedCanvas
from ptycho_bluesky.stream import LiveBoard, LiveView
from ptycho_bluesky.stream._live import unlink_session

SIZE = 48
WEIGHT = np.outer(np.hanning(SIZE + 2)[1:-1], np.hanning(SIZE + 2)[1:-1]).astype(np.float32)


@pytest.fixture
def shown():
    """A canvas, a function that publishes it, and a view of it."""
    name = f"test-{uuid.uuid4().hex}"
    board = LiveBoard.create(name)
    canvas, view = SharedCanvas(f"{name}-1"), LiveView(name)

    def publish(now=False):
        canvas.touched()
        canvas._next = 0.0
        done = canvas.publish({"run_uid": "run", "frames": 1}, 1.0, now)
        board.write({"image_segment": canvas.name})
        canvas.retire()
        return done

    yield canvas, publish, view
    view.close()
    canvas.close()
    board.close()
    unlink_session(name)


def add(canvas, y, x, phase=0.5, **more):
    k = np.arange(SIZE)
    value = phase * np.sin((y + k[:, None]) / 9) * np.cos((x + k[None]) / 7)
    canvas.mosaic.add(value.astype(np.float32), None, WEIGHT, (y, x), **more)


def patch_up(image, changes):
    """What a viewer does: put the tiles that have changed into its copy."""
    if image is None or image["shape"] != changes.shape or image["origin"] != changes.origin:
        image = {"shape": changes.shape, "origin": changes.origin}
        image |= {name: np.full(changes.shape, np.nan, np.float32) for name in ("phase", "confidence", "coverage")}
    for tile in changes.tiles:
        for name in ("phase", "confidence", "coverage"):
            image[name][tile.rows, tile.columns] = getattr(tile, name)
    return image


def test_a_viewer_that_takes_changes_alone_has_the_whole_image(shown):
    canvas, publish, view = shown
    assert canvas.mosaic.reserve((0, 0), (400, 500))
    rng, mine, number, sizes = np.random.default_rng(0), None, 0, []
    for k in range(40):
        add(canvas, *rng.uniform(0, [350, 450]), confidence=rng.uniform(0.2, 1))
        if k == 30:
            add(canvas, 420, -60)  # the field grows
        assert publish()
        if k % 3:  # the viewer misses every third publication
            changes = view.changes(number)
            mine, number = patch_up(mine, changes), changes.number
            sizes.append(len(changes.tiles))
            image = view.image()
            assert image.number == number
            for name in ("phase", "confidence", "coverage"):
                np.testing.assert_array_equal(mine[name], getattr(image, name))
    assert min(sizes) <= 9 < max(sizes), "some answers are a few tiles, the first one is all of them"
    number = view.changes(number).number
    assert view.changes(number).tiles == ()
    publish(now=True)
    np.testing.assert_allclose(view.image().phase, canvas.mosaic.maps(level=True)[0], atol=1e-6)


def test_numbers_grow_when_the_image_moves_to_larger_memory(shown):
    canvas, publish, view = shown
    numbers, names = [], set()
    for k in range(6):
        add(canvas, 120.0 * k, 0)
        publish()
        numbers.append(view.image().number)
        names.add(canvas.name)
    assert len(names) > 1 and numbers == sorted(set(numbers))


def test_confidence_is_mapped_and_weighs(shown):
    canvas, publish, view = shown
    flat = np.ones((SIZE, SIZE), np.float32)
    canvas.mosaic.add(0.0 * flat, flat, flat, (0, 0), confidence=1.0)
    canvas.mosaic.add(0.0 * flat, 0 * flat, flat, (0, 0), confidence=0.25)
    canvas.mosaic.add(0.0 * flat, flat, flat, (0, 100), confidence=0.0)
    publish(now=True)
    image = view.image()
    assert image.amplitude[9, 9] == pytest.approx(0.8)
    assert image.confidence[9, 9] == pytest.approx((1 + 0.25 * 0.25) / 1.25)
    assert image.confidence[9, 120] == 0 and np.isfinite(image.phase[9, 120]), "shown, and marked"
    assert np.isnan(image.confidence[9, 70]) and np.isnan(image.phase[9, 70])


def test_an_image_larger_than_its_memory_is_refused_in_words(shown, monkeypatch):
    canvas, publish, view = shown
    add(canvas, 0, 0)
    canvas.mosaic.max_pixels = 10**5
    assert not canvas.mosaic.reserve((5000, 5000), (SIZE, SIZE))
    assert "allowed are 0.1 million" in canvas.mosaic.refusal and "check the positions" in canvas.mosaic.refusal
    canvas.mosaic.max_pixels = 10**12
    assert not canvas.mosaic.reserve((2e5, 2e5), (SIZE, SIZE)), "no machine has 900 GB of shared memory"
    assert "cannot be made" in canvas.mosaic.refusal
    add(canvas, 3, 3)
    assert publish() and view.image().frames == 1
