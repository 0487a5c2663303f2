"""Tiny models taken through the passes one by one, and what to compare each graph with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from transformers import DynamicCache, PreTrainedModel

from resq_onnx.checkpoint.source import ModelSource
from resq_onnx.families import ModelLayout
from resq_onnx.graph.modules import make_linear, new_initializer
from resq_onnx.graph.names import cache_names
from resq_onnx.graph.tensors import read_float64
from resq_onnx.passes import Statistics, exporting, folding, lifting
from resq_onnx.projections.bases import Projections, compute_projections
from resq_onnx.projections.moments import Moments
from resq_onnx.projections.sums import sums_of
from resq_onnx.recipe import Recipe
from resq_onnx.runtime import Decoder
from resq_onnx.runtime.decoder import decode_logits
from resq_onnx.tracing.trace import TRACED_BATCH, TRACED_PAST, TRACED_TOKENS, trace
from tests import tiny_models
from tests.calibration.whole_model import collect_moments
from tests.functions.engines import assert_close, empty_model

Array = NDArray[Any]

CASES: Final[dict[str, tuple[str, bool]]] = {
    "llama tied": ("llama", True),
    "llama untied with biases": ("llama_with_biases", False),
    "qwen2 tied": ("qwen2", True),
    "qwen2 untied": ("qwen2", False),
}
"""By name, a kind of `tiny_models.KINDS` and whether its embedding is tied."""

FAMILY_CASES: Final[dict[str, tuple[str, bool]]] = {
    "qwen3 with windows": ("qwen3_with_windows", False),
    "qwen2 yarn": ("qwen2_yarn", True),
    "smollm3 tied": ("smollm3", True),
    "phi3 partly rotary": ("phi3_partly_rotary", False),
    "gemma2 tied": ("gemma2", True),
    "gemma3 untied": ("gemma3", False),
    "qwen2-vl tied": ("qwen2_vl", True),
}
"""Models that differ in some passes only; few tests look at them."""

FLOAT_TOLERANCE: Final = 1e-5
"""Of the largest logit or cached number: two layers of float32 sums in another order come out
below 1e-6 apart; one row with the wrong sign gives 0.05, one gain in one matrix 0.005."""

FOLD_TOLERANCE: Final = 1e-12
"""Of the largest weight: folds are computed in float64, as in the tests."""

SWEEP: Final = ir.passes.Sequential
"""The type of the pass that ends the lifting."""


@dataclass
class Case:
    """A tiny model, its bases, and its graph after every pass of an export."""

    source: ModelSource
    model: PreTrainedModel
    recipe: Recipe = field(default_factory=lambda: Recipe(weights="rtn"))

    @property
    def shares_table(self) -> bool:
        return self.recipe.shares_table(tied=self.layout.tied)

    @property
    def head_weight(self) -> str:
        """Name of the float weight that lm_head reads, once the folding began."""
        return f"{'model.embed_tokens' if self.shares_table else 'lm_head'}.weight"

    def with_recipe(self, **choices: Any) -> Case:
        """The same model, to be taken through the passes anew."""
        return Case(self.source, self.model, replace(self.recipe, **choices))

    @property
    def layout(self) -> ModelLayout:
        return self.source.layout

    @cached_property
    def traced(self) -> ir.Model:
        return trace(self.source)

    @cached_property
    def moments(self) -> Moments:
        return collect_moments(self.model, self.layout, random_tokens(4, 32, seed=1))

    @cached_property
    def statistics(self) -> Statistics:
        return Statistics(self.moments, sums_of(self.layout, self.moments))

    @cached_property
    def projections(self) -> Projections:
        return self.projections_of(self.recipe)

    def projections_of(self, recipe: Recipe) -> Projections:
        return compute_projections(recipe, self.layout, self.moments)

    def folding(self, projections: Projections) -> list[ir.passes.PassBase]:
        return folding(self.layout, self.recipe, projections)

    def passes(self) -> list[ir.passes.PassBase]:
        return [
            *lifting(self.layout),
            *self.folding(self.projections),
            *exporting(self.layout, self.recipe, self.projections, self.statistics),
        ]

    @cached_property
    def _stages(self) -> dict[type, tuple[ir.Model, ir.Model]]:
        stages, before = {}, self.traced
        for one in self.passes():
            after = before.clone()
            one(after)
            stages[type(one)] = (before, after)
            before = after
        return stages

    def before(self, one: type) -> ir.Model:
        """The graph as the pass of this type finds it: a copy, to be changed."""
        return self._stages[one][0].clone()

    def after(self, one: type) -> ir.Model:
        """The graph as the pass of this type leaves it: shared by all tests, not to be changed."""
        return self._stages[one][1]

    @property
    def lifted(self) -> ir.Model:
        """The graph that the folding starts from: a copy, to be changed."""
        return self.after(SWEEP).clone()

    @cached_property
    def token_ids(self) -> NDArray[np.int64]:
        return random_tokens(TRACED_BATCH, TRACED_PAST + TRACED_TOKENS)

    @cached_property
    def whole(self) -> tuple[Array, list[Array]]:
        """PyTorch's logits and cache of `token_ids` in one pass."""
        return self.run_torch(input_ids=self.token_ids)

    @cached_property
    def past(self) -> list[Array]:
        """PyTorch's cache of the first of `token_ids`, as many as were cached at tracing."""
        return self.run_torch(input_ids=self.token_ids[:, :TRACED_PAST])[1]

    @property
    def logits(self) -> Array:
        return self.whole[0]

    def run_torch(self, **inputs: Array) -> tuple[Array, list[Array]]:
        """PyTorch's logits, and its cache: key and value of layer 0, of layer 1, ..."""
        with torch.inference_mode():
            arguments = {name: torch.from_numpy(array) for name, array in inputs.items()}
            # A cache of the model's own making would forget what leaves a sliding window.
            result = self.model(**arguments, past_key_values=DynamicCache(), use_cache=True)
        layers = result.past_key_values.layers
        return result.logits.numpy(), [
            tensor.numpy() for layer in layers for tensor in (layer.keys, layer.values)
        ]

    def stored(self, caches: list[Array], *, keys: bool, values: bool) -> list[Array]:
        """PyTorch's cache in the bases in which a graph keeps it."""
        bases = [
            (self.projections.key if keys else None, self.projections.value if values else None)
            for _ in range(self.layout.num_layers)
        ]
        flat = [basis for pair in bases for basis in pair]
        return [
            cache if basis is None else (cache @ basis[index // 2]).astype(np.float32)
            for index, (cache, basis) in enumerate(zip(caches, flat, strict=True))
        ]


def make_case(name: str, folder: Path) -> Case:
    """Write the model of a key of `CASES` or `FAMILY_CASES`."""
    kind, tied = (CASES | FAMILY_CASES)[name]
    model = tiny_models.write_model(folder, kind, tied=tied)
    return Case(ModelSource(folder, name), model)


def random_tokens(batch: int, length: int, seed: int = 0) -> NDArray[np.int64]:
    vocabulary = tiny_models.SIZES["vocab_size"]
    return np.random.default_rng(seed).integers(0, vocabulary, (batch, length))


def session_of(model: ir.Model, *, fold_weights: bool = False) -> ort.InferenceSession:
    """The graph in ONNX Runtime, with the weights it only points to.

    Args:
        model: The graph.
        fold_weights: As for `create_session`.
    """
    options = ort.SessionOptions()
    options.add_session_config_entry("session.disable_quant_qdq", str(int(fold_weights)))
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    content = ir.to_proto(with_weights_inside(model)).SerializeToString()
    return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def with_weights_inside(model: ir.Model) -> ir.Model:
    """A copy that holds the weights that a traced graph only points to."""
    copy = model.clone()
    for value in copy.graph.initializers.values():
        if isinstance(value.const_value, ir.ExternalTensor):
            values = read_float64(value.const_value).astype(np.float32)
            value.const_value = ir.tensor(values, name=value.name)
    return copy


def decoder_of(model: ir.Model) -> Decoder:
    return Decoder(session_of(model))


def assert_same_function(
    case: Case,
    model: ir.Model,
    *,
    keys: bool = False,
    values: bool = False,
    any_size: bool = True,
) -> None:
    """The graph computes what PyTorch computes, from a filled cache and from an empty one.

    Args:
        case: The model in PyTorch.
        model: The graph.
        keys: Whether the graph keeps its keys in the bases U_C.
        values: Whether it keeps its values in the bases U_B.
        any_size: Whether it runs on other sizes than those it was traced with.
    """
    positions = np.arange(case.token_ids.shape[1])[TRACED_PAST:]
    feeds: dict[str, Array] = {
        "input_ids": case.token_ids[:, TRACED_PAST:],
        "attention_mask": np.ones_like(case.token_ids),
        "position_ids": np.stack([positions] * TRACED_BATCH),
    }
    names = cache_names(case.layout.num_layers)
    past, expected = (
        case.stored(cache, keys=keys, values=values) for cache in (case.past, case.whole[1])
    )
    session = session_of(model)
    feeds |= dict(zip(names[0], past, strict=True))
    logits, *presents = session.run(["logits", *names[1]], feeds)
    assert_close(logits, case.logits[:, TRACED_PAST:], FLOAT_TOLERANCE)
    for found, wanted in zip(presents, expected, strict=True):
        assert_close(found, wanted, FLOAT_TOLERANCE)
    if any_size:
        decoder = Decoder(session)
        assert_close(decoder.run(case.token_ids)[0], case.logits, FLOAT_TOLERANCE)
        assert_close(decode_logits(decoder, case.token_ids), case.logits, FLOAT_TOLERANCE)


def assert_equal_functions(case: Case, found: ir.Model, expected: ir.Model) -> None:
    """Two graphs compute the same logits, in one pass and token by token with the cache."""
    ways = [
        (decoder.run(case.token_ids)[0], decode_logits(decoder, case.token_ids))
        for decoder in (
            Decoder(session_of(_with_exact_products(graph), fold_weights=True))
            for graph in (found, expected)
        )
    ]
    for one, other in zip(*ways, strict=True):
        assert_close(one, other, FLOAT_TOLERANCE)


def _with_exact_products(model: ir.Model) -> ir.Model:
    """A copy whose MatMulNBits read their input as it is.

    By default they round it to 8 bits: the last bit of a float sum can then move an integer by one,
    and whether it does depends on the machine.
    """
    copy = model.clone()
    for node in copy.graph:
        if node.op_type == "MatMulNBits":
            node.attributes["accuracy_level"] = ir.AttrInt64("accuracy_level", 0)
    return copy


def weights_of(model: ir.Model) -> dict[str, Array]:
    """Every initializer by name, float ones in float64."""
    return {name: weight_of(model, name) for name in model.graph.initializers}


def weight_of(model: ir.Model, name: str) -> Array:
    """One initializer, in float64."""
    return read_float64(model.graph.initializers[name].const_value)


def changed(before: Mapping[str, Array], after: Mapping[str, Array]) -> set[str]:
    """Names of the weights of which one side has none, or another one."""
    return {
        name
        for name in before.keys() | after.keys()
        if name not in before or name not in after or not np.array_equal(before[name], after[name])
    }


def assert_weights(found: Mapping[str, Array], expected: Mapping[str, Array]) -> None:
    """Equal to float64 precision, for every expected one."""
    for name, wanted in expected.items():
        assert_close(found[name], wanted, FOLD_TOLERANCE)


def ops_of(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def one_linear(
    rows: int,
    width: int,
    reads: Callable[[ir.Value, ir.Value], list[ir.Node]] = lambda _y, _x: [],
) -> ir.Model:
    """x → linear layer `layer` (rows, width) → the nodes that `reads` makes of its result and x."""
    model = empty_model()
    x = ir.Value(name="x", shape=ir.Shape(["n", width]), type=ir.TensorType(ir.DataType.FLOAT))
    model.graph.inputs.append(x)
    values = np.random.default_rng(0).standard_normal((rows, width)).astype(np.float32)
    weight = new_initializer(model, "layer.weight", ir.tensor(values))
    nodes, result = make_linear("layer", x, weight, None)
    behind = reads(result, x)
    model.graph.extend([*nodes, *behind])
    last = behind[-1].outputs[0] if behind else result
    last.name, last.type, last.shape = "y", x.type, ir.Shape(["n", rows])
    model.graph.outputs.append(last)
    return model
