"""Each operator on a GPU against its kernel on the CPU, in float32 and float16."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from numpy.typing import NDArray

from resq_onnx.functions import AttentionForm, MatMulForm
from resq_onnx.runtime import create_session
from tests.custom_ops import attention_cases, hadamard_cases, matmul_cases
from tests.custom_ops.kernels import Node, assert_identical
from tests.functions.attention_cases import SHAPES, Shape, read
from tests.simt.casting import UNIT_ROUNDOFF, with_rounded
from tests.simt.tensor_core_cases import LONG, MANY, ROUNDINGS

Array = NDArray[Any]
Run = Callable[[Node], list[Array]]

MATMUL: Final = 2 * matmul_cases.TOLERANCE
"""Of all that is summed up for a result: either side is so near to exact integer sums."""

FLIPPED_ROWS: Final = 1
"""Rows of a node in which an activation may be rounded the other way. A square root or a mean that
differs in its last bit moves one in millions of them."""

STEP: Final = 2 / 15
"""What that does, of all that is summed up: a step of 4 bits is so much of the largest one."""

ATTENTION: Final = 5e-5
"""Of the largest value attended to. Scores of 50 have steps of 4e-6 in float32, which become errors
of the weights; a GPU's exponential adds two units in the last place."""

HADAMARD: Final = 1e-5
"""Of a row's length: sums of up to 512 float32 products, and a sigmoid. One wrong sign of a factor
moves a row by more than 1e-2."""

HALF: Final = 2.0**-10
"""Relative: results that are equal in float32 but for the last bits may round to either side."""


@pytest.fixture
def run(provider: str, tmp_path: Path) -> Run:
    """Runs a node on the provider under test, as a file of its own."""

    def run_node(node: Node) -> list[Array]:
        path = tmp_path / "node.onnx"
        path.write_bytes(node.model())
        session = create_session(path, threads=1, provider=provider)
        return list(session.run(None, node.feeds()))

    return run_node


def in_type(node: Node, half: bool) -> Node:
    return node.in_half() if half else node


def errors(actual: Array, wanted: Array, sizes: Array, half: bool) -> Array:
    """The largest error of each row, as a share of `sizes`; float16's own rounding is taken off."""
    assert (actual.dtype, actual.shape) == (wanted.dtype, wanted.shape)
    one, other = actual.astype(np.float64), wanted.astype(np.float64)
    differences = np.where(one == other, 0.0, np.abs(one - other))  # infinities may be equal
    if half:
        smallest = float(np.finfo(np.float16).smallest_subnormal)
        differences = np.maximum(differences - HALF * np.abs(other) - smallest, 0.0)
    shares: Array = (differences / sizes).reshape(-1, actual.shape[-1]).max(axis=-1)
    return shares


@pytest.mark.parametrize("half", [False, True], ids=["float32", "float16"])
@pytest.mark.parametrize("rows", [1, 4, 21, 130])
@pytest.mark.parametrize("form", matmul_cases.FORMS.values(), ids=matmul_cases.FORMS)
def test_a_matmul_is_that_of_the_cpu(run: Run, form: MatMulForm, rows: int, half: bool) -> None:
    node = in_type(matmul_cases.node_of(form, rows, outputs=35), half)
    (wanted,), (found,) = node.run(), run(node)
    rows_off = np.sort(errors(found, wanted, matmul_cases.sizes_of(form, node), half))
    assert rows_off[-1] <= STEP
    assert np.all(rows_off[:-FLIPPED_ROWS] <= MATMUL)
    if not form.norm:  # then nothing precedes the rounding that could differ
        assert rows_off[-1] <= MATMUL


def test_a_wide_matmul_is_that_of_the_cpu(run: Run) -> None:
    form = matmul_cases.FORMS["as SmolLM2's down"]
    for rows, outputs in ((1, 576), (16, 577), (200, 576)):
        node = matmul_cases.node_of(form, rows, outputs=outputs)
        (wanted,), (found,) = node.run(), run(node)
        assert errors(found, wanted, matmul_cases.sizes_of(form, node), False).max() <= MATMUL


@pytest.mark.parametrize("half", [False, True], ids=["float32", "float16"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("form", attention_cases.FORMS.values(), ids=attention_cases.FORMS)
def test_attention_writes_the_bytes_of_the_cpu_and_finds_the_same(
    run: Run, form: AttentionForm, shape: Shape, half: bool
) -> None:
    node = in_type(attention_cases.node_of(form, shape), half)
    assert_attended_alike(form, node, run(node), half)


@pytest.mark.parametrize("total", [63, 64, 65, 129, 300])
@pytest.mark.parametrize("new", [1, 3, None], ids=["one token", "three tokens", "all at once"])
def test_attention_over_long_contexts_is_that_of_the_cpu(
    run: Run, total: int, new: int | None
) -> None:
    form = attention_cases.form_of(heads=9, shared=3, dim=64)
    new = new or total
    node = attention_cases.node_of(form, Shape(2, new, total, total - new))
    assert_attended_alike(form, node, run(node), False)


def assert_attended_alike(
    form: AttentionForm, node: Node, outputs: list[Array], half: bool
) -> None:
    (wanted, *wanted_caches), (found, *caches) = node.run(), outputs
    assert_identical(caches, wanted_caches)
    total = node.arrays["attention_mask"].shape[1]
    values = read(form, caches[1][:, :, :total])
    largest = np.abs(values).max() + np.finfo(np.float32).tiny
    assert errors(found, wanted, largest, half).max() <= ATTENTION


@pytest.mark.parametrize("shape", LONG.values(), ids=LONG)
@pytest.mark.parametrize("form", MANY.values(), ids=MANY)
def test_attention_on_tensor_cores_is_near_that_of_the_cpu_in_float32(
    run: Run, form: AttentionForm, shape: Shape
) -> None:
    node = with_rounded(attention_cases.node_of(form, shape, exact=False), "float16")
    (wanted, *wanted_caches), (found, *caches) = node.run(), run(node.in_half())
    for cache, other in zip(caches, wanted_caches, strict=True):
        attention_cases.assert_within_a_step(form, cache, other)
    total = node.arrays["attention_mask"].shape[1]
    largest = np.abs(read(form, caches[1][:, :, :total])).max()
    allowed = ROUNDINGS * UNIT_ROUNDOFF["float16"] * largest
    np.testing.assert_allclose(found.astype(np.float32), wanted, rtol=0, atol=allowed)


@pytest.mark.parametrize("form", attention_cases.NORMED.values(), ids=list(attention_cases.NORMED))
def test_attention_on_any_numbers_is_within_a_step_of_the_cpu(
    run: Run, form: AttentionForm
) -> None:
    node = attention_cases.node_of(form, Shape(2, 70, 70, 0), exact=False)
    (_, *wanted), (_, *caches) = node.run(), run(node)
    for cache, other in zip(caches, wanted, strict=True):
        attention_cases.assert_within_a_step(form, cache, other)


@pytest.mark.parametrize("half", [False, True], ids=["float32", "float16"])
@pytest.mark.parametrize("rows", [1, 5, 33])
@pytest.mark.parametrize("activation", ["silu", "gelu_tanh"])
@pytest.mark.parametrize("name", hadamard_cases.FACTORS)
def test_a_gated_hadamard_is_that_of_the_cpu(
    run: Run, name: str, activation: str, rows: int, half: bool
) -> None:
    node = in_type(hadamard_cases.node_of(name, rows, activation=activation), half)
    (wanted,), (found,) = node.run(), run(node)
    lengths = np.linalg.norm(wanted.astype(np.float64), axis=-1, keepdims=True)
    assert errors(found, wanted, lengths, half).max() <= HADAMARD
