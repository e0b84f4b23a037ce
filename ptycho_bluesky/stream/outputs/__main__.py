"""``python -m ptycho_bluesky.stream.outputs SESSION URI...``: started by a live session, ends with its input."""

import logging
import os
import sys

from ptycho_bluesky.stream.outputs import serve

if __name__ == "__main__":
    os.nice(10)
    os.environ.setdefault("TILED_RETRY_ATTEMPTS", "2")  # a server that is away is tried again with the next image
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    serve(sys.argv[1], sys.argv[2:], sys.stdin.buffer.read)
    logging.shutdown()
    os._exit(0)  # a server's threads, or one that hangs in an output, must not keep it
