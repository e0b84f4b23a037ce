"""``python -m ptycho_bluesky.inference``: the edge process, as the live inference callback starts it."""

import sys

from ptycho_bluesky.inference._edge import main

if __name__ == "__main__":
    sys.exit(main())
