"""One tensor for embedding and lm_head becomes two of the same values."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from resq_onnx.graph.modules import find_linear
from resq_onnx.passes.untie_embedding import UntieEmbedding
from tests.passes.cases import CASES, Case, assert_same_function, changed, weights_of

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


@pytest.fixture(scope="module", params=CASES)
def case(cases: Callable[[str], Case], request: pytest.FixtureRequest) -> Case:
    """Every model, with two tables."""
    return cases(request.param).with_recipe(tables="separate")


def test_the_logits_stay(case: Case) -> None:
    assert_same_function(case, case.after(UntieEmbedding))


def test_a_tied_weight_gets_a_twin_of_the_same_values(case: Case) -> None:
    before, after = (
        weights_of(graph) for graph in (case.before(UntieEmbedding), case.after(UntieEmbedding))
    )
    if not case.layout.tied:
        assert not changed(before, after)
        return
    assert changed(before, after) == {HEAD}
    assert np.array_equal(after[HEAD], before[EMBEDDING])


def test_afterwards_each_weight_has_one_reader(case: Case) -> None:
    graph = case.after(UntieEmbedding)
    readers = graph.graph.initializers[EMBEDDING].consumers()
    assert [node.op_type for node in readers] == ["Gather"]
    assert find_linear(graph, "lm_head").weight.name == HEAD


def test_an_untied_model_is_reported_as_not_modified(cases: Callable[[str], Case]) -> None:
    tied, untied = cases("qwen2 tied"), cases("qwen2 untied")
    assert UntieEmbedding(tied.layout)(tied.lifted).modified
    assert not UntieEmbedding(untied.layout)(untied.lifted).modified


def test_the_twin_holds_no_values_of_its_own(separate: Case) -> None:
    graph = separate.after(UntieEmbedding)
    twin, own = (graph.graph.initializers[name].const_value for name in (HEAD, EMBEDDING))
    assert twin is not None
    assert own is not None
    assert twin.shape == own.shape
    assert twin.numpy() is not twin.numpy()  # made anew each time it is asked for


def test_a_graph_without_an_embedding_is_refused_by_name(separate: Case) -> None:
    graph = separate.before(UntieEmbedding)
    del graph.graph.initializers[EMBEDDING]
    with pytest.raises(ValueError, match=r"model\.embed_tokens"):
        UntieEmbedding(separate.layout)(graph)
