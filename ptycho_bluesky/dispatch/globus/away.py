"""The runner at a facility: ``python -m ptycho_bluesky.dispatch.globus.away JOBFOLDER SLOTS``."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from ptycho_bluesky.config import settings
from ptycho_bluesky.dispatch.runner import _Runner, main

__all__ = ["AwayRunner"]


class AwayRunner(_Runner):
    """Does the work; registering, the gate and what follows are left to where the job comes from."""

    def _finish(self, spec: Any) -> None:
        stopped = self.job.stop_file.exists()
        self.ledger.record(self.job, "done", stopped=stopped, progress=self.job.status().progress)


def _alone() -> None:
    """Show no partial images where that would start a Tiled server of the facility's own, which nobody looks at."""
    if settings().tiled_uri is None:
        os.environ["PTYCHO_BLUESKY_PARTIAL_IMAGES_S"] = "0"
        settings.cache_clear()


if __name__ == "__main__":
    _alone()
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]), AwayRunner))
