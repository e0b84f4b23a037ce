"""``python -m ptycho_bluesky.inference``: the edge process, as a live session starts it."""

import sys

from ptycho_bluesky.inference._nursery import main

if __name__ == "__main__":
    sys.exit(main())
