"""How many threads PyTorch and numpy's BLAS use for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from resq_onnx.runtime.session import check_threads


@contextmanager
def limited_threads(threads: int | None) -> Iterator[None]:
    """Let PyTorch and numpy's BLAS use so many; None leaves them as they are.

    Sums are split among threads, so the last bits of what they compute may depend on the number.

    Raises:
        ResqError: No machine like this one can use so many.
    """
    if threads is None:
        yield
        return
    from threadpoolctl import threadpool_limits

    check_threads(threads)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with threadpool_limits(threads, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(before)
