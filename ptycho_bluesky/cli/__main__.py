"""``python -m ptycho_bluesky.cli`` is the command ``ptycho-bluesky``."""

from ptycho_bluesky.cli import main

main()
