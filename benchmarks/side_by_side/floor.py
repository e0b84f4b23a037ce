"""The floor under every engine: one forward and one backward transform of each frame, and nothing else.

``python -m side_by_side.floor COUNT SIZE THREADS`` prints one JSON object: for each library of this environment the
median of the seconds for all frames, complex64, at the batches that suit its caches.
"""

from __future__ import annotations

import json
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

Work = Callable[[], object]
Timed = Iterator[tuple[str, Work, int]]
"""Name, one forward and backward transform of a batch of frames, frames in the batch."""


def frames(batch: int, size: int) -> npt.NDArray[np.complex64]:
    rng = np.random.default_rng(0)
    return (rng.normal(size=(batch, size, size)) + 1j * rng.normal(size=(batch, size, size))).astype(np.complex64)


def pocketfft(size: int, threads: int) -> Timed:
    """Frame by frame in compiled code: a share of the frames for each thread, as the engine has it."""
    import numba
    from rocket_fft import c2c

    @numba.njit(nogil=True)
    def pairs(buffer, axes, count):
        for _ in range(count):
            c2c(buffer, buffer, axes, True, np.float32(1 / buffer.shape[0]), 1)
            c2c(buffer, buffer, axes, False, np.float32(1 / buffer.shape[0]), 1)

    axes, share = np.array([0, 1]), 32

    def work() -> None:
        workers = [threading.Thread(target=pairs, args=(frames(1, size)[0], axes, share)) for _ in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()

    yield "pocketfft (numba, rocket-fft), batch 1", work, share * threads


def mkl(size: int, threads: int) -> Timed:
    import torch

    torch.set_num_threads(threads)
    for batch in (1, 16, 50):
        data = torch.from_numpy(frames(batch, size))
        yield f"torch, batch {batch}", lambda data=data: torch.fft.ifft2(torch.fft.fft2(data)), batch


def scipy_pocketfft(size: int, threads: int) -> Timed:
    import scipy.fft

    for batch in (1, 16):
        data, how = frames(batch, size), {"workers": threads, "overwrite_x": True}
        yield f"scipy, batch {batch}", lambda data=data, how=how: scipy.fft.ifft2(scipy.fft.fft2(data), **how), batch


def fftw(size: int, threads: int) -> Timed:
    import pyfftw

    for batch in (1, 16):
        buffer = pyfftw.empty_aligned((batch, size, size), "complex64")
        forward, backward = (
            pyfftw.FFTW(buffer, buffer, (1, 2), direction=d, threads=threads, flags=("FFTW_MEASURE",))
            for d in ("FFTW_FORWARD", "FFTW_BACKWARD")
        )
        buffer[:] = frames(batch, size)
        yield f"pyfftw in place, batch {batch}", lambda f=forward, b=backward: (f.execute(), b.execute()), batch
    if threads > 1:  # frame by frame, a plan and a buffer for each thread
        yield f"pyfftw in place, batch 1, {threads} threads of their own", *fftw_shares(size, threads)


def fftw_shares(size: int, threads: int) -> tuple[Work, int]:
    import pyfftw

    share, plans = 32, []
    for _ in range(threads):
        buffer = pyfftw.empty_aligned((size, size), "complex64")
        both = [
            pyfftw.FFTW(buffer, buffer, (0, 1), direction=d, flags=("FFTW_MEASURE",))
            for d in ("FFTW_FORWARD", "FFTW_BACKWARD")
        ]
        buffer[:] = frames(1, size)[0]
        plans.append(both)

    def pairs(forward: Work, backward: Work) -> None:
        for _ in range(share):
            forward()
            backward()

    def work() -> None:
        workers = [threading.Thread(target=pairs, args=(f.execute, b.execute)) for f, b in plans]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()

    return work, share * threads


def seconds(work: Work, batch: int, count: int, repetitions: int = 7) -> float:
    """Return the median time of enough batches for `count` frames, scaled to `count`."""
    work()
    times, rounds = [], max(1, round(count / batch))
    for _ in range(repetitions):
        began = time.perf_counter()
        for _ in range(rounds):
            work()
        times.append((time.perf_counter() - began) * count / (rounds * batch))
    return round(statistics.median(times), 5)


def main() -> None:
    count, size, threads = (int(v) for v in sys.argv[1:4])
    found: dict[str, float] = {}
    for library in (pocketfft, mkl, scipy_pocketfft, fftw):
        try:
            for name, work, batch in library(size, threads):
                found[name] = seconds(work, batch, count)
        except ImportError:
            continue  # not in this environment
    print(json.dumps(found))


if __name__ == "__main__":
    main()
