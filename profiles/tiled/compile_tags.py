"""Put tags.yml into the catalogue's database: ``CATALOG_URI=postgresql://... python compile_tags.py [tags.yml]``."""

import asyncio
import os
import sys
from pathlib import Path

from tiled.access_control.access_tags import AccessTagsCompiler
from tiled.access_control.scopes import ALL_SCOPES
from tiled.server.settings import DatabaseSettings
from tiled.utils import ensure_specified_sql_driver


def members(group: str) -> list[str]:
    """Return a group's users; a facility asks its directory here."""
    return []


async def main(file: Path) -> None:
    """Read, check and store."""
    database = DatabaseSettings(
        uri=ensure_specified_sql_driver(os.environ["CATALOG_URI"]), pool_size=2, max_overflow=2, pool_pre_ping=True
    )
    compiler = AccessTagsCompiler(ALL_SCOPES, str(file), database, members)
    compiler.load_tag_config()
    await compiler.compile()


asyncio.run(main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("tags.yml")))
