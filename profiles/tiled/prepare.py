"""Make the containers that all users share: ``python prepare.py http://127.0.0.1:8000``.

Once, by an administrator whose key is in the environment, before the first scan: what a user makes without a tag is his alone.
"""

import sys
from typing import Any

from tiled.client import from_uri
from tiled.structures.core import Spec

TAGS = ["everyone"]
SHARED = ["raw", "processed", "processed/ptychography", "processed/ptychography-partial", "processed/models"]


def prepare(root: Any) -> None:
    """Make those that are missing."""
    for path in SHARED:
        *parents, name = path.split("/")
        place = root["/".join(parents)] if parents else root
        if name not in place:
            specs = [Spec("CatalogOfBlueskyRuns", version="3.0")] if path == "raw" else None
            place.create_container(name, specs=specs, access_tags=TAGS)


if __name__ == "__main__":
    prepare(from_uri(sys.argv[1]))
