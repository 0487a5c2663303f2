"""Runs nodes with random mistakes: `python -m tests.custom_ops.fuzzing OPERATOR FIRST COUNT`.

Every case is a valid node to which one to three random things were done. It may give any result or
be refused with an exception; whatever else happens ends the process, and the last line says in
which case. The seed of a case is its number, so that one can run it alone.
"""

from __future__ import annotations

import dataclasses
import os
import resource
import sys
from collections import Counter
from typing import Any, Final

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from tests.custom_ops import attention_cases, hadamard_cases, matmul_cases
from tests.custom_ops.kernels import Node
from tests.functions import ragged_cases
from tests.functions.attention_cases import SHAPES

Array = NDArray[Any]

MEMORY: Final = 4 << 30
"""Bytes of address space: a size taken from a wrong attribute is refused and does not swap."""

RAGGED: Final = 0.25
"""Share of attention nodes with texts of unequal lengths."""

INTEGERS: Final = (-(2**63), -(2**31), -17, -2, -1, 0, 1, 2, 3, 5, 7, 8, 16, 18, 2**31, 2**63 - 1)
FLOATS: Final = (0.0, -1.0, 1e-45, 1e38, -1e38, float("inf"), float("-inf"), float("nan"))
TYPES: Final = (
    *(np.float32, np.float16, np.float64, np.int64, np.int32, np.int8, np.uint8),
    *(ml_dtypes.int4, ml_dtypes.uint4, ml_dtypes.bfloat16),
)


def valid(operator: str, rng: np.random.Generator) -> Node:
    """A node to begin with."""
    if operator == "MixedPrecisionMatMul":
        form = pick(rng, list(matmul_cases.FORMS.values()))
        leading = pick(rng, [(1,), (3,), (2, 9), (40,)])
        return matmul_cases.node_of(form, *leading, outputs=int(rng.integers(1, 40)))
    if operator == "GatedHadamard":
        return hadamard_cases.node_of(pick(rng, list(hadamard_cases.FACTORS)), 3)
    forms = attention_cases.FORMS | attention_cases.NORMED
    if rng.random() < RAGGED:
        form = attention_cases.form_of(ragged=True)
        ragged = pick(rng, list(ragged_cases.SHAPES.values()))
        return attention_cases.ragged_node_of(form, ragged)
    shape = pick(rng, list(SHAPES.values()))
    return attention_cases.node_of(pick(rng, list(forms.values())), shape)


def pick(rng: np.random.Generator, choices: Any) -> Any:
    """One of them."""
    return choices[int(rng.integers(len(choices)))]


def spoiled(node: Node, rng: np.random.Generator) -> Node:
    """The node with one more thing done to it."""
    name = pick(rng, sorted(node.arrays))
    array = node.arrays[name]
    match pick(rng, ["attribute", "shape", "values", "values", "type", "absent", "half", "empty"]):
        case "attribute":
            return node.with_attributes(**{pick(rng, sorted(node.attributes)): another(node, rng)})
        case "shape":
            return node.with_arrays(**{name: reshaped(array, rng)})
        case "values":
            return node.with_arrays(**{name: overwritten(array, rng)})
        case "type":
            with np.errstate(all="ignore"):
                widened = array.astype(np.float32)  # some types have no cast to some others
            return node.with_arrays(**{name: widened.astype(pick(rng, TYPES))})
        case "absent":
            return node.with_arrays(**{name: None})
        case "half":
            return node.in_half()
    shape = list(array.shape)
    if shape:
        shape[int(rng.integers(len(shape)))] = 0
    return node.with_arrays(**{name: np.zeros(shape, array.dtype)})


def another(node: Node, rng: np.random.Generator) -> int | float | str | None:
    """A value for an attribute, of any type."""
    near = pick(rng, [v for v in node.attributes.values() if isinstance(v, int)] or [1])
    choices = [
        pick(rng, INTEGERS),
        near + int(rng.integers(-2, 3)),
        pick(rng, FLOATS),
        "gelu",
        None,
    ]
    value: int | float | str | None = pick(rng, [*choices[:2], *choices])
    return max(min(value, 2**63 - 1), -(2**63)) if isinstance(value, int) else value


def reshaped(array: Array, rng: np.random.Generator) -> Array:
    """The same values, repeated or left out, in another shape."""
    shape = list(array.shape)
    axis = int(rng.integers(len(shape))) if shape else 0
    match pick(rng, ["resize", "insert", "remove", "swap"]):
        case "resize" if shape:
            shape[axis] = max(shape[axis] + int(rng.integers(-3, 4)), 0)
        case "insert":
            shape.insert(axis, pick(rng, [1, 1, 2]))
        case "remove" if shape:
            del shape[axis]
        case _:
            shape.reverse()
    return np.resize(array, shape) if array.size else np.zeros(shape, array.dtype)


def overwritten(array: Array, rng: np.random.Generator) -> Array:
    """Some of the values replaced by any that the type has."""
    if array.dtype == np.float32 or array.dtype == np.float16:
        with np.errstate(over="ignore"):
            others = rng.choice(np.array(FLOATS), array.shape).astype(array.dtype)
    elif array.dtype == np.int64:
        others = rng.choice(np.array(INTEGERS), array.shape)
    else:
        others = rng.integers(0, 256, array.shape).astype(np.uint8).astype(array.dtype)
    replaced = rng.random(array.shape) < pick(rng, [0.02, 0.3, 1.0])
    return np.where(replaced, others, array)


def run(operator: str, seed: int) -> str:
    """What happened in one case."""
    rng = np.random.default_rng(seed)
    node = valid(operator, rng)
    for _ in range(int(rng.integers(1, 4))):
        if node.arrays:
            node = spoiled(node, rng)
    fed = node.fed | (set(node.arrays) if rng.random() < 0.03 else set())
    node = dataclasses.replace(node, fed=frozenset(fed))
    try:
        session = node.open(threads=int(rng.integers(1, 3)))
    except Exception:  # of ONNX Runtime, which have no common base but this
        return "refused when opened"
    try:
        session.run(None, node.feeds())
    except Exception:
        return "refused when run"
    return "accepted"


def main(operator: str, first: int, count: int) -> None:
    """Run the cases and print how many ended in which way."""
    if "ASAN_OPTIONS" not in os.environ:  # AddressSanitizer maps all of the address space
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    outcomes: Counter[str] = Counter()
    for seed in range(first, first + count):
        print(operator, "case", seed, flush=True)
        outcomes[run(operator, seed)] += 1
    print(*(f"{count} {outcome}" for outcome, count in sorted(outcomes.items())), sep=", ")


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
