"""Trace a Hugging Face model directory into an ONNX graph without weights.

    config.json  ── torch.export under fake tensors ──►  onnx_ir.Model

The graph keeps the exporter's nodes, one by one (`optimize=False`), and the passes rely on three
properties of it:

1. every node is tagged with its module (`MODULE_KEY`);
2. an initializer has the name of the Hugging Face parameter, and points to its bytes in the
   safetensors file;
3. inputs and outputs have the names of the graph contract: `input_ids`, `attention_mask`,
   `position_ids`, `past_key_values.{i}.key|value` → `logits`, `present.{i}.key|value`.
"""

from __future__ import annotations

import ast
from typing import Any, Final

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import nn

from resq_onnx.checkpoint.quiet import quiet_libraries
from resq_onnx.checkpoint.source import ModelSource
from resq_onnx.errors import ResqError
from resq_onnx.families import ModelLayout
from resq_onnx.graph.names import MODULE_KEY, OPSET, cache_names
from resq_onnx.graph.tensors import FoldedTensor
from resq_onnx.tracing.configuration import load_config

IR_VERSION: Final = 10
TRACED_BATCH, TRACED_TOKENS, TRACED_PAST = 2, 3, 5
"""Sizes for tracing: none is 0 or 1, which broadcast, and no two are equal.

They are fixed, since symbolic sizes make tracing four times slower. The lifting passes replace all
nodes that depend on them (masks, views, the cache).
"""

_WRAPPED: Final = "traced"
_SCOPES_KEY: Final = "pkg.torch.onnx.name_scopes"


class _WithCacheAsTensors(nn.Module):
    """The causal LM with its cache as plain tensors, so that the exporter can name them."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.traced = model

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        position_ids: torch.Tensor,
        past: list[tuple[torch.Tensor, torch.Tensor]],
    ) -> tuple[torch.Tensor, list[tuple[torch.Tensor, torch.Tensor]]]:
        from transformers.cache_utils import DynamicCache

        cache: Any = DynamicCache()
        for layer, (key, value) in enumerate(past):
            cache.update(key, value, layer)
        result = self.traced(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=True,
        )
        return result.logits, [(layer.keys, layer.values) for layer in cache.layers]


def trace(source: ModelSource) -> ir.Model:
    """Trace the model of `source`; its weights are neither loaded nor copied.

    Raises:
        ResqError: A parameter of the graph is missing in the safetensors files, or has
            another shape there.
    """
    with quiet_libraries():
        model = _export_without_weights(source)
    tag_nodes_with_modules(model, f"{_WRAPPED}.")
    _name_inputs_and_outputs(model, source.layout)
    _name_initializers(model, source.layout)
    _set_weights(model, source)
    model.ir_version = IR_VERSION
    model.producer_name, model.producer_version = "resq-onnx", None
    return model


def with_weights(traced: ir.Model, source: ModelSource) -> ir.Model:
    """A copy of a traced graph, with the weights of another model of the same sizes.

    Raises:
        ResqError: As for `trace`.
    """
    model = traced.clone()
    _set_weights(model, source)
    return model


def _export_without_weights(source: ModelSource) -> ir.Model:
    import transformers
    from torch._subclasses.fake_tensor import FakeTensorMode
    from transformers.initialization import no_init_weights

    layout = source.layout
    config = load_config(source)
    batch, tokens, past = TRACED_BATCH, TRACED_TOKENS, TRACED_PAST
    cache = (batch, layout.num_kv_heads, past, layout.head_dim)
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        with no_init_weights():  # a vision tower's read the values, and there are none
            causal_lm = getattr(transformers, layout.family.auto_class).from_config(
                config, attn_implementation=layout.family.traced_attention, dtype=torch.float32
            )
        causal_lm.tie_weights()
        keep_frequencies(causal_lm, layout)
        arguments = (
            torch.zeros(batch, tokens, dtype=torch.int64),
            torch.ones(batch, tokens + past, dtype=torch.int64),
            torch.zeros(batch, tokens, dtype=torch.int64),
            [(torch.zeros(cache), torch.zeros(cache)) for _ in range(layout.num_layers)],
        )
        program = torch.onnx.export(
            _WithCacheAsTensors(causal_lm).eval(),
            arguments,
            dynamo=True,
            opset_version=OPSET,
            optimize=False,
            verbose=False,
        )
    assert program is not None
    return program.model


def keep_frequencies(model: nn.Module, layout: ModelLayout) -> None:
    """Make LongRoPE's module keep its frequencies, which are those of the exported model's length.

    At each call it would choose between two lists and write them into a buffer.
    """
    if layout.longrope is not None:
        rotary: Any = model.get_submodule(layout.family.rotary)
        rotary.rope_type = "default"


def tag_nodes_with_modules(model: ir.Model, prefix: str) -> None:
    """Tag every node with its module: the exporter's scope without the name of a wrapper."""
    for node in model.graph:
        scopes = ast.literal_eval(node.metadata_props.get(_SCOPES_KEY, "['', '']"))
        module = scopes[-2] if len(scopes) > 1 else ""
        node.metadata_props.clear()
        node.metadata_props[MODULE_KEY] = f"{module}.".removeprefix(prefix).removesuffix(".")


def contract_shapes(layout: ModelLayout) -> dict[str, tuple[int | str, ...]]:
    """Shapes of a decoder graph's inputs and outputs, by name, in order."""
    past, present = cache_names(layout.num_layers)
    cache = (layout.num_kv_heads, layout.head_dim)
    tokens = ("batch", "sequence")
    return {
        "input_ids": tokens,
        "attention_mask": ("batch", "total"),
        "position_ids": tokens,
        **dict.fromkeys(past, ("batch", cache[0], "past", cache[1])),
        "logits": (*tokens, layout.vocab_size),
        **dict.fromkeys(present, ("batch", cache[0], "present", cache[1])),
    }


def _name_inputs_and_outputs(model: ir.Model, layout: ModelLayout) -> None:
    for node in model.graph:
        for value in node.outputs:
            value.shape = None
    values = [*model.graph.inputs, *model.graph.outputs]
    for value, (name, shape) in zip(values, contract_shapes(layout).items(), strict=True):
        value.name = name
        value.shape = ir.Shape(shape)


def _name_initializers(model: ir.Model, layout: ModelLayout) -> None:
    for value in list(model.graph.initializers.values()):
        assert value.name is not None
        if not value.uses():  # a weight of another part of a larger model
            model.graph.initializers.pop(value.name)
            continue
        name = value.name.removeprefix(f"{_WRAPPED}.")
        if layout.tied and name == f"{layout.family.head}.weight":
            name = f"{layout.family.embedding}.weight"
        value.name = name


def _set_weights(model: ir.Model, source: ModelSource) -> None:
    computed = _set_buffers(model, source)
    for name, value in model.graph.initializers.items():
        if name in computed:
            continue
        stored = source.weights[name]
        expected = value.shape.numpy() if value.shape is not None else ()
        if stored.shape != expected:
            raise ResqError(
                f"{stored.file}: tensor {name} has shape {stored.shape}; config.json requires "
                f"{expected}"
            )
        if stored.dtype == ir.DataType.FLOAT:
            value.const_value = stored.external()
        else:
            value.const_value = FoldedTensor(stored.float32, stored.shape, name, stored.rows)


def computed_buffers(source: ModelSource) -> dict[str, NDArray[np.float32]]:
    """Buffers that are not stored in a checkpoint, such as RoPE's frequencies, by name.

    transformers computes them, for a small model with the sizes that matter here, and in float32
    whatever the type of the files: in bfloat16, Gemma's embedding scale would be 25.25, not 25.298.
    """
    import transformers

    config = load_config(source)
    text = config.get_text_config()
    text.vocab_size = 8
    text.pad_token_id = None  # it may be outside so small a vocabulary
    text.intermediate_size = 8
    for part in (text, getattr(config, "vision_config", text)):
        part.num_hidden_layers = 1
    with quiet_libraries():
        smallest = getattr(transformers, source.layout.family.auto_class).from_config(
            config, dtype=torch.float32
        )
    return {name: buffer.numpy() for name, buffer in smallest.named_buffers()}


def _set_buffers(model: ir.Model, source: ModelSource) -> set[str]:
    """Store the buffers that the graph reads; returns their names."""
    buffers, initializers = computed_buffers(source), model.graph.initializers
    for name in buffers.keys() & initializers.keys():
        initializers[name].const_value = ir.tensor(buffers[name], name=name)
    return buffers.keys() & initializers.keys()
