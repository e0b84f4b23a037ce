"""Run by a test in a process of its own: waits for a record with so many frames, and saves its picture."""

import sys
import time

import numpy as np
import pvaccess


def main(name: str, frames: int, path: str) -> None:
    channel, end = pvaccess.Channel(name), time.monotonic() + 30
    while True:
        try:
            record = channel.get("field()")
            if record["uniqueId"] >= frames:
                break
        except pvaccess.PvaException:
            pass
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(0.05)
    width, height = (d["size"] for d in record["dimension"])
    np.save(path, np.asarray(record["value"][0]["floatValue"]).reshape(height, width))


main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
