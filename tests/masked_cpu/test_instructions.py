"""Samples of instructions, as counted and as printed."""

from __future__ import annotations

from tests.benchmarks.masked_cpu.counts import COUNTS, Counts
from tests.benchmarks.peer_instructions import shares


def test_shares_are_those_of_vector_instructions() -> None:
    counts = Counts.read(COUNTS.pack(7, 1000, 150, 50, 20))
    assert shares(counts) == ("200", "25.0 %", "10.0 %")


def test_zero_is_printed_for_none_alone() -> None:
    assert shares(Counts(0, 100_000, 99_999, 1, 0)) == ("100000", "0.0 %", "0")
