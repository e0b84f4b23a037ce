"""Out of memory: the same again with less of it, as far as that goes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ptycho_bluesky.dispatch import JobSpec, Ledger, _recipes, _train_recipe, runner
from ptycho_bluesky.dispatch._faults import out_of_memory
from ptycho_bluesky.dispatch._sparing import less_for_engine, less_for_training, sparing
from ptycho_bluesky.experiment import Reconstruction
from ptycho_bluesky.reconstruction import ENGINES


class OutOfMemoryError(RuntimeError):
    """As torch and CuPy call theirs."""


def behind() -> Exception:
    try:
        try:
            raise OutOfMemoryError("CUDA out of memory")
        except OutOfMemoryError as cause:
            raise RuntimeError("the engine failed") from cause
    except RuntimeError as error:
        return error


def test_what_lacks_memory_is_told_from_what_does_not() -> None:
    assert out_of_memory(MemoryError()) and out_of_memory(behind())
    assert not out_of_memory(RuntimeError("memory is fine"))


@pytest.mark.parametrize("engine", sorted(ENGINES))
def test_each_engine_accepts_the_options_that_need_less(engine: str) -> None:
    options: dict[str, Any] = {"epochs": 3}
    for _ in range(3):
        less = less_for_engine(engine, options)
        assert less is not None and less["memory_gb"] < options.get("memory_gb", 1e9)
        ENGINES[engine].options_type.model_validate(less)
        options = less
    assert options["epochs"] == 3
    if "batch_size" in options:
        assert options["batch_size"] == 8


def test_it_is_tried_with_less_until_it_fits_or_nothing_is_left() -> None:
    seen: list[int] = []

    def run(options: dict[str, Any]) -> int:
        seen.append(options["batch"])
        if options["batch"] > 8:
            raise MemoryError
        return options["batch"]

    assert sparing(run, {"batch": 32}, less_for_training) == 8 and seen == [32, 16, 8]
    with pytest.raises(MemoryError):
        sparing(run, {"batch": 1000}, less_for_training)
    with pytest.raises(MemoryError):
        sparing(lambda _: (_ for _ in ()).throw(MemoryError()), {"batch": 1}, less_for_training)

    def broken(_: dict[str, Any]) -> int:
        seen.append(-1)
        raise ValueError("no matter of memory")

    with pytest.raises(ValueError, match="no matter"):
        sparing(broken, {"batch": 32}, less_for_training)
    assert seen.count(-1) == 1


def test_a_reconstruction_that_runs_out_of_memory_is_done_with_less(
    home: Path,
    make_spec: Callable[..., JobSpec],
    make_result: Callable[..., Reconstruction],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[Any] = []

    def reconstruct(dataset: Any, engine: str, options: Any, **_: Any) -> Reconstruction:
        seen.append(options)
        if len(seen) < 3:
            raise OutOfMemoryError("CUDA out of memory")
        return make_result(parameters=options)

    monkeypatch.setattr(_recipes, "reconstruct", reconstruct)
    job, _ = Ledger().create(make_spec(engine="lsqml"))
    assert runner.main(job.path, 1) == 0 and job.status().state == "done"
    assert [o.get("batch_size") for o in seen] == [None, 32, 16]
    assert [o.get("memory_gb") for o in seen] == [None, 2.0, 1.0]


def test_a_training_that_runs_out_of_memory_begins_again_with_smaller_batches(
    tmp_path: Path, known_files: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ptycho_bluesky.dispatch import FileSource

    seen: list[tuple[int, bool]] = []

    class Model:
        notes = {"steps": 0}  # noqa: RUF012

    def train(output: Path, options: Any, *_: Any, checkpoint: Path, **__: Any) -> Model:
        seen.append((options.batch, checkpoint.exists()))
        checkpoint.touch()
        if len(seen) == 1:
            raise OutOfMemoryError("CUDA out of memory")
        return Model()

    monkeypatch.setattr(_train_recipe, "train", train)
    spec = JobSpec(
        recipe="train",
        source=FileSource(path=str(known_files / "result.h5")),
        options={"training": {"steps": 2, "batch": 16}},
    )
    assert _train_recipe.train_model(spec, lambda: False, lambda _: None, tmp_path) is None
    assert seen == [(16, False), (8, False)]
    assert '"batch":8' in (tmp_path / "options.json").read_text()
