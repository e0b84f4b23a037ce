"""What tests of plans share: a small beamline without errors, a RunEngine, and its documents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from bluesky import RunEngine

from ptycho_bluesky.devices import Beamline, simulated_beamline


class Recorded(list[tuple[str, dict[str, Any]]]):
    """Documents in their order."""

    def of(self, wanted: str) -> list[dict[str, Any]]:
        return [doc for name, doc in self if name == wanted]

    @property
    def blocks(self) -> list[dict[str, Any]]:
        return [doc["ptychography"] for doc in self.of("start")]


@pytest.fixture
def engine() -> RunEngine:
    return RunEngine({}, context_managers=[])


@pytest.fixture
def recorded(engine: RunEngine) -> Recorded:
    documents = Recorded()
    engine.subscribe(lambda name, doc: documents.append((name, doc)))
    return documents


@pytest.fixture(scope="session")
def flying_beamline(tmp_path_factory: pytest.TempPathFactory) -> Beamline:
    """One that flies too; its devices are at rest between tests."""
    folder: Path = tmp_path_factory.mktemp("beamline")
    return simulated_beamline(frame_size=64, field_m=(1.5e-6, 1.5e-6), stage_errors=None, speedup=1e6, folder=folder)
