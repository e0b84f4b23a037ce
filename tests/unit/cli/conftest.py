"""Commands run in this process: what they set for their own process must not reach the other tests."""

import logging
from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def own_process_settings() -> Iterator[None]:
    logger, threads = logging.getLogger("ptycho_bluesky"), torch.get_num_threads()
    level, handlers = logger.level, list(logger.handlers)
    yield
    logger.setLevel(level)
    logger.handlers[:] = handlers
    torch.set_num_threads(threads)
