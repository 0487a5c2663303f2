"""Many threads and many sessions at once, and for a long time."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import pytest

from tests.custom_ops import attention_cases, hadamard_cases, matmul_cases
from tests.custom_ops.kernels import Node, assert_identical, run_module
from tests.functions.attention_cases import Shape

WORKERS: Final = 8
ROUNDS: Final = 12

STEPS: Final = 10_000
GROWTH: Final = 4 << 20
"""Bytes that the memory of a process may grow by in 8,000 decode steps: the allocators of ONNX
Runtime and Python are settled after the first 2,000. A leak of 600 bytes a step would be more."""

SMOLLM2_QKV: Final = matmul_cases.FORMS["as SmolLM2's q/k/v"]
WIDE: Final = attention_cases.form_of(heads=9, shared=3, dim=64)


def calls(operator: str) -> list[Node]:
    """Calls of one node, each of another size and with other inputs."""
    if operator == "MixedPrecisionAttention":
        shapes = [
            Shape(1 + i % 2, 1 + 9 * (i % 3), 40 + 10 * i, 45 + 10 * i) for i in range(WORKERS)
        ]
        first = attention_cases.node_of(WIDE, shapes[0], exact=False)
        others = [
            attention_cases.node_of(WIDE, s, exact=False, seed=i) for i, s in enumerate(shapes)
        ]
    elif operator == "GatedHadamard":
        first = hadamard_cases.node_of("as SmolLM2", 1)
        others = [hadamard_cases.node_of("as SmolLM2", 1 + 5 * i, seed=i) for i in range(WORKERS)]
    else:
        first = matmul_cases.node_of(SMOLLM2_QKV, 1, outputs=70)
        others = [
            matmul_cases.node_of(SMOLLM2_QKV, 1 + 9 * i, outputs=70, seed=i) for i in range(WORKERS)
        ]
    return [first.with_arrays(**other.feeds()) for other in others]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("sessions", [1, WORKERS], ids=["one session", "a session each"])
@pytest.mark.parametrize(
    "operator", ["MixedPrecisionMatMul", "GatedHadamard", "MixedPrecisionAttention"]
)
def test_calls_at_the_same_time_give_what_they_give_one_by_one(
    operator: str, sessions: int, threads: int
) -> None:
    nodes = calls(operator)
    expected = [node.run() for node in nodes]
    opened = [nodes[0].open(threads=threads) for _ in range(sessions)]
    start = threading.Barrier(WORKERS)

    def work(worker: int) -> None:
        start.wait()
        for i in range(ROUNDS):
            k = (worker + i) % WORKERS
            found = opened[worker % sessions].run(None, nodes[k].feeds())
            assert_identical(list(found), expected[k])

    with ThreadPoolExecutor(WORKERS) as pool:
        list(pool.map(work, range(WORKERS)))


def test_sessions_are_made_and_dropped_while_others_run() -> None:
    nodes = calls("MixedPrecisionMatMul")
    expected = [node.run() for node in nodes]

    def work(worker: int) -> None:
        for i in range(ROUNDS):
            k = (worker + i) % WORKERS
            assert_identical(nodes[k].run(threads=2), expected[k])

    with ThreadPoolExecutor(WORKERS) as pool:
        list(pool.map(work, range(WORKERS)))


def test_ten_thousand_decode_steps_leak_nothing(tiny: Path) -> None:
    result = run_module("decoding", tiny, STEPS)
    assert result.returncode == 0, result.stderr
    settled, last = (int(line) for line in result.stdout.split())
    assert last - settled < GROWTH
