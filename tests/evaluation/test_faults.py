"""A layer that is wrong is reported with the weight, or with the operator, that is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from resq_onnx.errors import ResqError
from resq_onnx.evaluation import layer_by_layer
from resq_onnx.graph.modules import find_linear
from resq_onnx.graph.pieces import HALVES
from resq_onnx.graph.tensors import fold
from resq_onnx.passes.merge_projections import merged_module
from resq_onnx.recipe import Recipe
from tests.evaluation.test_layer_by_layer import RECIPE, Made, make

LAYER = 1

QUICK = ["llama"]
SLOW = ["gemma3", "llama_with_biases", "phi3", "qwen3", "smollm3"]
"""Post-norms and norms of heads, biases, fused weights, norms of heads, layers without RoPE."""


@pytest.fixture(
    scope="module",
    params=[*QUICK, *(pytest.param(kind, marks=pytest.mark.slow) for kind in SLOW), "float"],
)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A folded graph, or one that is not, in which faults are planted one after the other."""
    kind = request.param
    recipe, kind = (Recipe(method="none"), "llama") if kind == "float" else (RECIPE, kind)
    return make(tmp_path_factory.mktemp(kind), kind, tied=True, recipe=recipe)


def weight_of(made: Made, role: str) -> tuple[ir.Value, slice]:
    """The initializer with the weight of a role, and the rows that are the role's."""
    layout = made.measured.layout
    roles = next((roles for roles in HALVES.values() if role in roles), ())
    if not roles or not made.measured.recipe.how.quantises:
        return find_linear(made.graph, layout.module(LAYER, role)).weight, slice(None)
    start = sum(layout.outputs_of(one) for one in roles[: roles.index(role)])
    merged = find_linear(made.graph, merged_module(layout, LAYER, roles[0]))
    return merged.weight, slice(start, start + layout.outputs_of(role))


@contextmanager
def planted(value: ir.Value, rows: slice = slice(None)) -> Iterator[None]:
    """Multiply every other of these rows: a norm of heads would undo a factor of all."""

    def change(weight: NDArray[Any]) -> NDArray[Any]:
        changed = weight.copy()
        changed[rows][::2] *= 1.5
        return changed

    before = value.const_value
    fold(value, change)
    try:
        yield
    finally:
        value.const_value = before


def report(made: Made) -> str:
    for finished in made.work.folder.glob("matrices-*"):
        finished.unlink()
    with pytest.raises(ResqError) as error:
        made.run()
    return str(error.value)


@pytest.mark.parametrize("role", ["query", "key", "value", "attention_out", "gate", "up", "down"])
def test_the_weight_that_is_wrong_is_named(made: Made, role: str) -> None:
    layout = made.measured.layout
    with planted(*weight_of(made, role)):
        found = report(made)
    fused = {one: name for name, roles in layout.family.fused.items() for one in roles}
    name = layout.module(LAYER, role)
    if role in fused:
        name = f"{layout.family.layer.format(LAYER)}.{fused[role]} ({role})"
    assert found.startswith(f"parity: layer {LAYER}: ")
    assert f"; the first difference is in the output of {name}; nothing was written" in found


def test_all_first_weights_of_a_half_may_be_what_they_read(made: Made) -> None:
    layout = made.measured.layout
    gate, up = (weight_of(made, role) for role in ("gate", "up"))
    with planted(*gate), planted(*up):
        found = report(made)
    assert found.count(", or what they read; nothing") == 1
    assert layout.module(LAYER, "down") in found


def test_what_has_no_weight_is_told_from_what_has_one(made: Made) -> None:
    attention = made.measured.layout.module(LAYER, "attention")
    basis = made.graph.graph.initializers.get(f"{attention}.key_projection")
    if basis is None:
        pytest.skip("a float graph has no basis of keys")
    with planted(basis):
        found = report(made)
    out = made.measured.layout.module(LAYER, "attention_out")
    assert f"the first difference is in the input of {out}: the attention" in found


def test_a_wrong_norm_behind_the_last_weight_is_none_of_the_weights(made: Made) -> None:
    layout = made.measured.layout
    for role, out in zip(layout.post_norms, HALVES, strict=False):
        gain = made.graph.graph.initializers[f"{layout.module(LAYER, role)}.weight"]
        with planted(gain):
            found = report(made)
        assert f"up to the output of {layout.module(LAYER, out)} nothing differs" in found


def test_where_nothing_is_wrong_no_layer_runs_twice(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layer_by_layer, "name_fault", lambda *_: pytest.fail("asked"))
    made.run()
