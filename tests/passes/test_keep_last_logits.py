"""Only the last position's logits: the same numbers, one row of them, float and quantised."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from resq_onnx.graph.modules import module_of, only_node
from resq_onnx.graph.names import DOMAIN
from resq_onnx.passes.clean_up import CleanUp, sweep
from resq_onnx.passes.keep_last_logits import KeepLastLogits
from resq_onnx.passes.quantise_embedding import QuantiseEmbedding
from resq_onnx.recipe import Recipe
from tests.functions.engines import assert_close
from tests.passes.cases import FLOAT_TOLERANCE, Case, decoder_of, ops_of, with_weights_inside


def keeping_last(case: Case) -> Case:
    return Case(case.source, case.model, Recipe(weights="rtn", logits="last"))


def test_the_logits_are_those_of_the_last_position(case: Case) -> None:
    decoder = decoder_of(keeping_last(case).after(KeepLastLogits))
    logits, state = decoder.run(case.token_ids)
    assert decoder.signature.last_only
    assert_close(logits, case.logits[:, -1:], FLOAT_TOLERANCE)
    assert state.length == case.token_ids.shape[1]


def test_padding_is_no_last_token(llama: Case) -> None:
    """Sequences of unequal length in one batch, padded on the right and on the left."""
    decoder = decoder_of(keeping_last(llama).after(KeepLastLogits))
    width = llama.token_ids.shape[1]
    lengths, places = [width, width - 1, 3], np.arange(width)
    for padded_right in (True, False):
        mask = np.array(
            [places < n if padded_right else places >= width - n for n in lengths], np.int64
        )
        ids = np.zeros_like(mask)
        for row, length in enumerate(lengths):
            ids[row, mask[row] == 1] = llama.token_ids[0, :length]
        logits, _ = decoder.run(ids, attention_mask=mask)
        expected = np.stack([llama.logits[0, length - 1] for length in lengths])
        assert_close(logits[:, 0], expected, FLOAT_TOLERANCE)


def test_any_portion_of_a_text_gives_one_row(llama: Case) -> None:
    decoder, state = decoder_of(keeping_last(llama).after(KeepLastLogits)), None
    for start, end in ((0, 3), (3, 4), (4, 8)):
        logits, state = decoder.run(llama.token_ids[:, start:end], state)
        assert_close(logits, llama.logits[:, end - 1 : end], FLOAT_TOLERANCE)


def test_the_quantised_head_and_its_norm_read_the_last_token(case: Case) -> None:
    last = keeping_last(case)
    graph, family = last.after(QuantiseEmbedding), last.layout.family
    kept = only_node(graph, family.final_norm, "GatherND")
    head = only_node(graph, family.head, "MixedPrecisionMatMul")
    if last.shares_table:
        norm = only_node(graph, family.final_norm, "RMSNormalization")
        assert norm.inputs[0] is kept.outputs[0]
    else:
        assert head.inputs[0] is kept.outputs[0]
    added = Counter(ops_of(graph)) - Counter(ops_of(case.after(QuantiseEmbedding)))
    assert added == Counter(["Shape", "Neg", "Slice", "ArgMax", "Unsqueeze", "GatherND"])


def test_the_quantised_logits_are_those_of_all_positions(case: Case) -> None:
    every = decoder_of(case.after(CleanUp)).run(case.token_ids)[0]
    last = decoder_of(keeping_last(case).after(CleanUp)).run(case.token_ids)[0]
    np.testing.assert_array_equal(last, every[:, -1:])


def test_the_graph_says_how_many_rows_there_are(llama: Case) -> None:
    graph = keeping_last(llama).after(CleanUp)
    assert graph.graph.outputs[0].name == "logits"
    assert str(graph.graph.outputs[0].shape) == f"[batch,1,{llama.layout.vocab_size}]"
    onnx.checker.check_model(ir.to_proto(with_weights_inside(graph)), full_check=True)


@pytest.mark.parametrize("logits", ["all", "last"])
def test_a_quantised_layer_is_six_nodes(case: Case, logits: str) -> None:
    """Six that run: U_C is cast from float16 once, when a runtime folds what is constant."""
    chosen = case if logits == "all" else keeping_last(case)
    graph, layout = chosen.after(QuantiseEmbedding).clone(), case.layout
    sweep()(graph)
    for layer in range(layout.num_layers):
        module = layout.family.layer.format(layer)
        inside = [node for node in graph.graph if f"{module_of(node)}.".startswith(f"{module}.")]
        constant = [node for node in inside if all(v and v.is_initializer() for v in node.inputs)]
        assert [node.op_type for node in constant] == ["Cast"]
        nodes = [node for node in inside if node not in constant]
        assert [node.op_type for node in nodes] == [
            "MixedPrecisionMatMul",  # q, k and v, with the norm
            "MixedPrecisionAttention",
            "MixedPrecisionMatMul",  # o, and the residual
            "MixedPrecisionMatMul",  # gate and up, with the norm
            "GatedHadamard",
            "MixedPrecisionMatMul",  # down, and the residual
        ]
        assert {node.domain for node in nodes} == {DOMAIN}


def test_a_norm_written_otherwise_is_refused_by_name(llama: Case) -> None:
    graph, norm = llama.lifted, llama.layout.family.final_norm
    only_node(graph, norm, "RMSNormalization").op_type = "Identity"
    with pytest.raises(ValueError, match=f"{norm}: 0 RMSNormalization nodes"):
        KeepLastLogits(llama.layout)(graph)
