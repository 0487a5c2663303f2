"""Linear algebra on square matrices that fill much of a memory: in place, by blocks, on any device.

A Hessian of Llama-3-70B is (28672, 28672): 6.6 GB in float64. No function here makes a second one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

Array = NDArray[Any]

ELEMENTS_AT_A_TIME: Final = 1 << 22
"""Elements of the blocks of rows that are copied: 32 MB in float64."""

PANEL: Final = 512
"""Columns that are factorised at a time: wide enough for products to take nearly all of the time,
narrow enough for a panel of 28672 rows to have 120 MB."""


def float64_on(
    device: torch.device | str, array: Array | torch.Tensor, *, own: bool = True
) -> torch.Tensor:
    """An array as float64 on a device; with `own`, never the memory of the argument."""
    if isinstance(array, np.ndarray):
        array = torch.from_numpy(np.require(array, requirements="W"))  # PyTorch has no read-only
    # Moved before it is widened: half the bytes.
    return array.to(device).to(torch.float64, copy=own)


def float32_on(device: torch.device | str, array: Array) -> torch.Tensor:
    """A copy of an array, which may be read-only, as float32 on a device."""
    return torch.from_numpy(np.array(array, np.float32)).to(device)


def blocks(matrix: torch.Tensor, dim: int = 0) -> Sequence[torch.Tensor]:
    """Views of a square matrix: some of its rows, or of its columns (`dim` 1), at a time."""
    return torch.split(matrix, max(1, ELEMENTS_AT_A_TIME // max(len(matrix), 1)), dim)


def is_finite(matrix: torch.Tensor) -> bool:
    """Whether no element is infinite or NaN."""
    return all(bool(torch.isfinite(rows).all()) for rows in blocks(matrix))


def turn_both_sides(
    matrix: torch.Tensor, turn: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """Replace M (n, n) by Uᵀ M U in place, and return it.

    Args:
        matrix: M, symmetric.
        turn: Computes x @ U of some rows x, (rows, n).
    """
    for rows in blocks(matrix):
        rows.copy_(turn(rows))
    for columns in blocks(matrix, dim=1):
        # Copied as they lie before they are transposed: a step to the next row often is a multiple
        # of 4096 bytes, at which a cache keeps few elements.
        turned = turn(columns.contiguous().mT.contiguous())
        columns.copy_(turned.mT.contiguous())
    return matrix


def cholesky(matrix: torch.Tensor) -> bool:
    """Replace the lower triangle of a symmetric matrix by L of L Lᵀ, in place.

    What is above the diagonal stays, so that `restore` can undo all but the diagonal.

    Returns:
        Whether the matrix is positive definite. If not, the lower triangle is not usable.
    """
    for start in range(0, len(matrix), PANEL):
        panel = matrix[start:, start : start + PANEL]
        width = panel.shape[1]
        top, rest = panel[:width], panel[width:]
        above = top.triu(1)
        done = matrix[start:, :start]
        panel.addmm_(done, done[:width].mT, alpha=-1)
        factor, failed = torch.linalg.cholesky_ex(top)
        top.copy_(factor + above)
        if failed:
            return False
        rest.copy_(torch.linalg.solve_triangular(factor.mT, rest, upper=True, left=False))
    return True


def restore(matrix: torch.Tensor) -> None:
    """Copy what is above the diagonal to below it, in place."""
    for start in range(0, len(matrix), PANEL):
        rows = matrix[start : start + PANEL]
        top = rows[:, start : start + PANEL]
        top.copy_(top.triu() + top.triu(1).mT)
        matrix[start + PANEL :, start : start + PANEL] = rows[:, start + PANEL :].mT


def exact_products() -> AbstractContextManager[None]:
    """Multiply float32 in float32 for a while: neither in TF32 on a GPU nor in BF16 on a CPU."""
    return products("highest")


@contextmanager
def products(precision: str) -> Iterator[None]:
    """Multiply float32 for a while as `torch.set_float32_matmul_precision` says."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextmanager
def one_thread() -> Iterator[None]:
    """Let PyTorch use one thread of the CPU for a while: for many operations on few elements.

    More threads would gain little, and where other work has a core, each operation waits for it.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
