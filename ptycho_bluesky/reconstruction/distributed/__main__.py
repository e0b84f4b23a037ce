"""``python -m ptycho_bluesky.reconstruction.distributed SPEC.json``: one rank, as torchrun or srun starts it."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from pathlib import Path

from ptycho_bluesky._with_parent import end_with_parent
from ptycho_bluesky.errors import PtychoError
from ptycho_bluesky.reconstruction.distributed._options import RankSpec
from ptycho_bluesky.reconstruction.distributed._worker import work


def main() -> int:
    """Do the work of one rank; a failure is left in the ranks' folder for the launcher to read."""
    parser = argparse.ArgumentParser(prog="python -m ptycho_bluesky.reconstruction.distributed", description=__doc__)
    parser.add_argument("spec", type=Path, help="JSON file that tells all ranks what to do")
    path = parser.parse_args().spec
    if "TORCHELASTIC_RUN_ID" in os.environ:  # torchrun, which may be killed, leaves no rank behind
        end_with_parent(os.getppid())
    rank = int(os.environ.get("RANK", 0))
    logging.basicConfig(level=logging.INFO, format=f"rank {rank}: %(message)s")
    try:
        folder = RankSpec.read(path).folder
        (folder / f"rank-{rank}.pid").write_text(str(os.getpid()))
        try:
            work(path)
        except PtychoError as error:
            # An error with a cause is torch's, of a connection: another rank is lost, and a new start may help.
            failure = {"kind": type(error).__name__, "text": str(error), "lost": error.__cause__ is not None}
            (folder / f"rank-{rank}.failure").write_text(json.dumps(failure))
            raise
    except PtychoError as error:
        logging.getLogger(__name__).error("%s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
