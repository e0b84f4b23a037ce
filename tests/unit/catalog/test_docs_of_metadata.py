"""docs/how-to/metadata.md names every key of the block, and its mapping is one that can be read."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from pydantic import BaseModel

from ptycho_bluesky.catalog import Lookup, mapping_from
from ptycho_bluesky.experiment import BeamInfo, Geometry, PtychographyMetadata, SourceInfo

PAGE = (Path(__file__).parents[3] / "docs/how-to/metadata.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("model", "prefix"),
    [(PtychographyMetadata, ""), (Geometry, "geometry."), (BeamInfo, "beam."), (SourceInfo, "source.")],
)
def test_every_key_is_explained(model: type[BaseModel], prefix: str) -> None:
    nested = {"geometry", "beam", "source"}
    missing = [key for key in model.model_fields if key not in nested and f"`{prefix}{key}`" not in PAGE]
    assert missing == []


def test_every_key_of_a_lookup_is_explained() -> None:
    assert [key for key in Lookup.model_fields if f"`{key}`" not in PAGE] == []


def test_the_mapping_can_be_read(tmp_path: Path) -> None:
    (text,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "mapping.toml").write_text(text)
    block = mapping_from(tmp_path / "mapping.toml")
    values = [*block.values(), *block["geometry"].values()]
    lookups = [v for v in values if isinstance(v, dict) and v != block["geometry"]]
    assert len(lookups) == 4 and all(Lookup.model_validate(lookup) for lookup in lookups)
    plain = {**block, "exposure_s": 0.1, "rotation_deg": 0.0}
    plain["geometry"] = {**block["geometry"], "energy_kev": 9.0, "distance_m": 2.0}
    assert PtychographyMetadata.model_validate(plain).missing() == []
    assert tomllib.loads(text).keys() == {"ptychography"}
