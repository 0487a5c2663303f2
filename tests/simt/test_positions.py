"""Positions lie on the GPU, where looking at them would mean to wait for it."""

from __future__ import annotations

import numpy as np

from tests.custom_ops.attention_cases import POSITIONS, form_of, node_of
from tests.functions.attention_cases import Shape


def test_a_position_beyond_the_tables_gives_no_numbers_and_reads_nothing() -> None:
    node = node_of(form_of(), Shape(1, 4, 9, 5))
    node.arrays["position_ids"][:] = [[5, POSITIONS, -1, 2**40]]
    y, *_ = node.run()
    assert np.all(np.isfinite(y[0, 0]))
    assert np.all(np.isnan(y[0, 1:]))
