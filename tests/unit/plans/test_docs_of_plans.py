"""The examples of docs/how-to/plans.md, in their order."""

import re
from pathlib import Path

import pytest

import ptycho_bluesky.plans as plans

PAGE = Path(__file__).parents[3] / "docs/how-to/plans.md"


def test_the_examples_run():
    space: dict[str, object] = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) > 10
    for number, block in enumerate(blocks):
        exec(compile(block, f"{PAGE.name}, example {number}", "exec"), space)
    assert (Path(str(space["folder"])) / "mosaic.png").is_file() and len(space["tiles"]) == 2  # type: ignore[arg-type]


@pytest.mark.parametrize("name", sorted(n for n in plans.__all__ if n.startswith("ptycho_")))
def test_every_plan_has_an_example(name):
    assert f"{name}(" in PAGE.read_text(encoding="utf-8")
