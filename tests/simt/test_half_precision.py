"""The kernels in float16 and bfloat16, against themselves in float32."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from resq_onnx.functions import AttentionForm
from tests.custom_ops import attention_cases, hadamard_cases, matmul_cases
from tests.custom_ops.kernels import Node, assert_identical
from tests.functions.attention_cases import SHAPES, Shape, read
from tests.simt.casting import UNIT_ROUNDOFF, rounded, run_in, with_rounded
from tests.simt.tensor_core_cases import LONG, MANY, ROUNDINGS

Array = NDArray[Any]


@pytest.fixture(params=UNIT_ROUNDOFF)
def dtype(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def assert_rounded_at_the_end(node: Node, dtype: str) -> None:
    node = with_rounded(node, dtype)
    y, *others = node.run()
    assert_identical(run_in(node, dtype), [rounded(y, dtype), *others])


@pytest.mark.parametrize("rows", [1, 9, 40])
@pytest.mark.parametrize("name", ["both parts", "odd widths", "as SmolLM2's o", "every option"])
def test_a_matmul_is_rounded_once_at_the_end(name: str, rows: int, dtype: str) -> None:
    assert_rounded_at_the_end(matmul_cases.node_of(matmul_cases.FORMS[name], rows), dtype)


@pytest.mark.parametrize("rows", [1, 9])
@pytest.mark.parametrize("name", ["both parts", "as SmolLM2", "not rotated"])
def test_a_gated_hadamard_is_rounded_once_at_the_end(name: str, rows: int, dtype: str) -> None:
    assert_rounded_at_the_end(hadamard_cases.node_of(name, rows), dtype)


@pytest.mark.parametrize("shape", ["decode", "buffer, decode"])
@pytest.mark.parametrize("name", ["plain", "head of 80", "head of 128", "window"])
def test_attention_of_few_tokens_is_rounded_once_at_the_end(
    name: str, shape: str, dtype: str
) -> None:
    form = attention_cases.FORMS[name]
    node = attention_cases.node_of(form, SHAPES[shape], exact=False)
    assert_rounded_at_the_end(node, dtype)


def assert_near(form: AttentionForm, node: Node, dtype: str) -> None:
    """Caches are the same; y within `ROUNDINGS` of the largest value."""
    node = with_rounded(node, dtype)
    wanted, *wanted_caches = node.run()
    y, *caches = run_in(node, dtype)
    assert_identical(caches, wanted_caches)
    total = node.arrays["attention_mask"].shape[1]
    largest = np.abs(read(form, caches[1][:, :, :total])).max()
    np.testing.assert_allclose(y, wanted, rtol=0, atol=ROUNDINGS * UNIT_ROUNDOFF[dtype] * largest)


@pytest.mark.parametrize("shape", LONG.values(), ids=LONG)
@pytest.mark.parametrize("form", MANY.values(), ids=MANY)
def test_attention_on_tensor_cores_is_near_that_in_float32(
    form: AttentionForm, shape: Shape, dtype: str
) -> None:
    assert_near(form, attention_cases.node_of(form, shape, exact=False), dtype)


def test_tensor_cores_see_no_hidden_slots(dtype: str) -> None:
    form = MANY["head of 64, three for each kv head"]
    node = attention_cases.node_of(form, Shape(2, 40, 100, 60), exact=False)
    mask = node.arrays["attention_mask"]
    mask[0, :30] = 0
    mask[1, 3:70:2] = 0
    assert_near(form, node, dtype)
    y, *_ = run_in(node, dtype)
    for name in ("past_key", "past_value"):  # records of all ones decode to no number at all
        node.arrays[name][
            np.broadcast_to(mask[:, None, :60, None] == 0, node.arrays[name].shape)
        ] = 255
    assert_identical(run_in(node, dtype)[:1], [y])


def test_a_query_that_sees_nothing_gives_zeros(dtype: str) -> None:
    form = MANY["head of 128"]
    node = attention_cases.node_of(form, Shape(2, 20, 20, 0), exact=False)
    node.arrays["attention_mask"][0, :5] = 0
    node.arrays["attention_mask"][1] = 0
    y, *_ = run_in(node, dtype)
    assert np.all(y[0, :5] == 0)
    assert np.all(y[1] == 0)
    assert np.any(y[0, 5:] != 0)
