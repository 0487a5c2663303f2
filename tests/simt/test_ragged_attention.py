"""Texts of unequal lengths in one call: only the CPU has a kernel for them."""

from __future__ import annotations

import pytest

from tests.custom_ops.attention_cases import form_of, ragged_node_of
from tests.functions.ragged_cases import SHAPES


def test_they_are_refused_when_the_session_is_made() -> None:
    node = ragged_node_of(form_of(ragged=True), SHAPES["rows of others between"])
    with pytest.raises(Exception, match="which only the kernel for CPUs takes") as refusal:
        node.open()
    assert node.name in str(refusal.value)
