from __future__ import annotations

import pytest
import torch
from threadpoolctl import threadpool_info

from resq_onnx.calibration.threads import limited_threads
from resq_onnx.errors import ResqError


def used() -> tuple[int, set[int]]:
    """Threads of PyTorch, and of the libraries that numpy multiplies with."""
    blas = {one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas"}
    return torch.get_num_threads(), blas


def test_pytorch_and_blas_use_so_many_threads_and_afterwards_what_they_used_before() -> None:
    before = used()
    with limited_threads(1):
        assert used() == (1, {1})
        with limited_threads(2):
            assert used()[0] == 2
        with limited_threads(None):
            assert used() == (1, {1})
    assert used() == before


def test_after_a_failure_too() -> None:
    before = used()
    with pytest.raises(ZeroDivisionError), limited_threads(2):
        _ = 1 / 0
    assert used() == before


@pytest.mark.parametrize("threads", [0, 100_000])
def test_a_number_that_no_machine_can_use_is_refused(threads: int) -> None:
    with pytest.raises(ResqError, match=f"threads is {threads}; this machine takes from 1"):
        limited_threads(threads).__enter__()
