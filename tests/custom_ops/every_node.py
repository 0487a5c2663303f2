"""Runs every node of `NODES` with our library: `python -m tests.custom_ops.every_node OUTPUTS`.

OUTPUTS will be an .npz file of all outputs, named "node/output". The name of the instruction set
that ran is printed.
"""

from __future__ import annotations

import sys
from itertools import product

import numpy as np

from resq_onnx.functions import MatMulForm
from resq_onnx.recipe import BitSplit
from resq_onnx.runtime import library
from tests.custom_ops import attention_cases, hadamard_cases, matmul_cases
from tests.custom_ops.kernels import Node
from tests.functions.attention_cases import Shape
from tests.functions.ragged_cases import Ragged


def float32_nodes() -> dict[str, Node]:
    """A node of every form, with few rows and with many."""
    return {
        **{
            f"MixedPrecisionMatMul, {name}, {rows} rows": matmul_cases.node_of(
                form, rows, outputs=37
            )
            for name, form in matmul_cases.FORMS.items()
            for rows in (1, 21)
        },
        **{
            f"MixedPrecisionMatMul, extremes, {rows} rows, {level}, {lowest}": matmul_cases.extreme(
                MatMulForm(BitSplit(matmul_cases.LONG, 520)), rows, 37, level, lowest
            )
            for rows, level, lowest in product((1, 21), (1.0, -1.0), (True, False))
        },
        **{
            f"GatedHadamard, {name}": hadamard_cases.node_of(name, 9)
            for name in hadamard_cases.FACTORS
        },
        **{
            f"MixedPrecisionAttention, {name}, {new} new": attention_cases.node_of(
                form, Shape(2, new, 75, 75 - new), exact=False
            )
            for name, form in (attention_cases.FORMS | attention_cases.NORMED).items()
            for new in (1, 75)
        },
        **{
            f"MixedPrecisionAttention, ragged, {new} new": attention_cases.ragged_node_of(
                attention_cases.form_of(heads=9, shared=3, dim=64, ragged=True),
                Ragged((0, 130, 63, 64, 7), (5, 0, 2, 1, 3), new, 150, 6),
                exact=False,
            )
            for new in (1, 12)
        },
    }


def nodes() -> dict[str, Node]:
    """All of them in float32 and in float16."""
    nodes = float32_nodes()
    return nodes | {f"{name}, float16": node.in_half() for name, node in nodes.items()}


def main(outputs: str) -> None:
    """Run the nodes once."""
    found = {
        f"{name}/{output}": array
        for name, node in nodes().items()
        for output, array in zip(node.outputs, node.run(threads=2), strict=True)
    }
    np.savez(outputs, allow_pickle=False, **found)
    print(library.instruction_set())


if __name__ == "__main__":
    main(sys.argv[1])
