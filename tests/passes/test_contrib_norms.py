"""Residual and norm as one node."""

from __future__ import annotations

from resq_onnx.passes.contrib_norms import ContribNorms
from tests.functions.engines import assert_close
from tests.passes.cases import FLOAT_TOLERANCE, Case, assert_equal_functions, decoder_of, ops_of

FUSED = "SkipSimplifiedLayerNormalization"


def test_the_function_stays(any_contrib: Case) -> None:
    case = any_contrib
    assert_equal_functions(case, case.after(ContribNorms), case.before(ContribNorms))


def test_only_the_first_norm_has_no_sum_before_it(contrib: Case) -> None:
    operators = ops_of(contrib.after(ContribNorms))
    assert operators.count(FUSED) == 2 * contrib.layout.num_layers
    assert operators.count("RMSNormalization") == 1


def test_with_last_logits_the_last_sum_is_cut_before_its_norm(contrib: Case) -> None:
    case = contrib.with_recipe(logits="last")
    operators = ops_of(case.after(ContribNorms))
    assert operators.count(FUSED) == 2 * case.layout.num_layers - 1
    assert operators.count("RMSNormalization") == 2
    found, expected = (
        decoder_of(graph).run(case.token_ids)[0]
        for graph in (case.after(ContribNorms), case.before(ContribNorms))
    )
    assert_close(found, expected, FLOAT_TOLERANCE)
