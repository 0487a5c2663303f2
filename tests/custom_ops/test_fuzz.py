"""Random attributes, shapes, types and values: an exception or a result, never a crash."""

from __future__ import annotations

import os
import signal

import pytest

from tests.custom_ops.kernels import run_module
from tests.custom_ops.refusal_cases import NODES

COUNT = int(os.environ.get("RESQ_FUZZ_CASES", "400"))
"""Cases for each operator; RESQ_FUZZ_CASES sets another number."""


@pytest.mark.parametrize("isa", [None, "scalar"])
@pytest.mark.parametrize("operator", NODES)
def test_no_mistake_ends_the_process(operator: str, isa: str | None) -> None:
    first = 0 if isa is None else COUNT
    result = run_module("fuzzing", operator, first, COUNT, isa=isa)
    lines = result.stdout.splitlines() or [""]
    ended = f"by {signal.Signals(-result.returncode).name}" if result.returncode < 0 else "badly"
    assert result.returncode == 0, f"{lines[-1]} ended {ended}: {result.stderr[-2000:]}"
    # A fuzzer that is refused always, or never, tries nothing.
    for outcome in ("accepted", "refused when opened", "refused when run"):
        assert outcome in lines[-1], lines[-1]
