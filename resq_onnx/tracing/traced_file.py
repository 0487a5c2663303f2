"""Read a file written by torch.onnx.export into the form that `tracing.trace` returns.

Parameters have their names in the checkpoint, with the name of a wrapping module as a prefix, and
nodes name their modules. The inputs for tokens, mask and cache, and whether there is a cache, do
not matter, because the lifting passes replace all nodes that read them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import onnx_ir as ir

from resq_onnx.checkpoint.source import ModelSource
from resq_onnx.errors import ResqError
from resq_onnx.families import ModelLayout
from resq_onnx.graph.files import read_graph
from resq_onnx.graph.modules import new_initializer, tag
from resq_onnx.graph.names import DOMAIN, MODULE_KEY, OPSET, cache_names
from resq_onnx.graph.tensors import dims
from resq_onnx.tracing.trace import (
    IR_VERSION,
    computed_buffers,
    contract_shapes,
    tag_nodes_with_modules,
)

ASKED = "export it in float32 by torch.onnx.export(model, ..., dynamo=True)"


@dataclass(frozen=True)
class TracedFile(ModelSource):
    """A model whose weights are in an ONNX file.

    Attributes:
        folder: Directory of the model that was exported; it may lack the weights.
        path: The file.
        calibrated: Digest of the model for which the projections were computed.
    """

    path: Path
    calibrated: str

    @cached_property
    def digest(self) -> str:
        """Digest of the model in the folder if it has weights, else of the calibrated model."""
        names = ("model.safetensors", "model.safetensors.index.json")
        has_weights = any((self.folder / name).is_file() for name in names)
        return super().digest if has_weights else self.calibrated

    @cached_property
    def float32_bytes(self) -> int:
        """Bytes of the file's weights."""
        tensors = (value.const_value for value in read_graph(self.path).graph.initializers.values())
        return sum(tensor.nbytes for tensor in tensors if tensor is not None)


def read_traced(source: TracedFile) -> ir.Model:
    """Read the file of `source`; its tags, names, inputs and outputs become those of a trace.

    Raises:
        ResqError: The file was not written by torch.onnx.export, is of another model, or is not
            in float32.
    """
    path, layout = source.path, source.layout
    model = read_graph(path)
    if any(node.domain == DOMAIN for node in model.graph):
        raise ResqError(f"{path}: already quantised by resq-onnx; pass the original file")
    prefix = _unwrap(model, layout, path)
    tag_nodes_with_modules(model, prefix)
    if not any(node.metadata_props[MODULE_KEY] for node in model.graph):
        raise ResqError(f"{path}: its nodes do not name their modules; {ASKED}")
    table = model.graph.initializers[f"{layout.family.embedding}.weight"].const_value
    assert table is not None
    expected = (layout.vocab_size, layout.hidden_size)
    if table.dtype != ir.DataType.FLOAT:
        raise ResqError(f"{path}: weights are {table.dtype.name}; {ASKED}")
    if dims(table) != expected:
        raise ResqError(
            f"{path}: the embedding has shape {dims(table)}; config.json in {source.folder} "
            f"requires {expected}: pass the directory of this very model with --model"
        )
    _set_contract(model, layout, path)
    _add_frequencies(model, source)
    model.opset_imports[""], model.ir_version = OPSET, IR_VERSION
    model.producer_name, model.producer_version = "resq-onnx", None
    return model


def check_factors(source: TracedFile) -> None:
    """Refuse LongRoPE's long factors: in the short texts of our checks the graph has the others.

    Raises:
        ResqError: The length asked for needs the long ones.
    """
    if source.layout.longrope == "long":
        raise ResqError(
            f"{source.path}: takes LongRoPE's long factors in long texts only, and a max_length of "
            f"{source.max_length} needs them always; use resq-onnx export {source.folder}, or a "
            f"smaller --max-length"
        )


def check_lifted(model: ir.Model, path: Path) -> None:
    """Refuse a graph in which a node still depends on an original input of the file.

    Raises:
        ResqError: Such a node remains after lifting.
    """
    given = {*model.graph.inputs, *model.graph.initializers.values()}
    for node in model.graph:
        for value in node.inputs:
            if value is not None and value.producer() is None and value not in given:
                raise ResqError(
                    f"{path}: {node.op_type} {node.name} depends on {value.name}; {ASKED}"
                )


def _unwrap(model: ir.Model, layout: ModelLayout, path: Path) -> str:
    """Rename the parameters to their names in the checkpoint; returns the removed prefix."""
    family, initializers = layout.family, model.graph.initializers
    table = f"{family.embedding}.weight"
    names = [table, f"{family.head}.weight"] if layout.tied else [table]
    found = [
        (name, end) for end in names for name in initializers if f".{name}".endswith(f".{end}")
    ]
    if not found:
        raise ResqError(f"{path}: no parameter is named {table}; {ASKED}")
    name, end = found[0]
    prefix = name.removesuffix(end)
    for value in list(initializers.values()):
        assert value.name is not None
        value.name = value.name.removeprefix(prefix)
    if end != table:  # exporters store tied weights under either name
        initializers[end].name = table
    return prefix


def _set_contract(model: ir.Model, layout: ModelLayout, path: Path) -> None:
    """Give the graph the inputs and outputs of the contract.

    Its own inputs, except the token ids, remain as values without a producer: only nodes that the
    lifting passes replace read them. Until then the present is a copy of the past.
    """
    graph, shapes = model.graph, contract_shapes(layout)
    table = graph.initializers[f"{layout.family.embedding}.weight"]
    gathers = [node for node in table.consumers() if node.op_type == "Gather"]
    ids = gathers[0].inputs[1] if len(gathers) == 1 else None
    if ids is None or ids not in graph.inputs:
        raise ResqError(f"{path}: the embedding does not read an input of token ids; {ASKED}")
    for node in graph:
        for value in node.outputs:
            value.shape = None
    for value in graph.inputs:
        value.name = f"traced.{value.name}"
    logits = graph.outputs[0]
    ids.name, logits.name = "input_ids", "logits"
    past, present = cache_names(layout.num_layers)
    integer, real = (ir.TensorType(one) for one in (ir.DataType.INT64, ir.DataType.FLOAT))
    others = [ir.Value(name=name, type=integer) for name in ("attention_mask", "position_ids")]
    caches = [ir.Value(name=name, type=real) for name in past]
    copies = [ir.node("Identity", [value], name=f"{value.name}.copy") for value in caches]
    for node, name in zip(copies, present, strict=True):
        tag(node, "").outputs[0].name = name
    graph.extend(copies)
    graph.inputs[:] = [ids, *others, *caches]
    graph.outputs[:] = [logits, *(node.outputs[0] for node in copies)]
    for value in [*graph.inputs, *graph.outputs]:
        assert value.name is not None
        value.shape = ir.Shape(shapes[value.name])


def _add_frequencies(model: ir.Model, source: TracedFile) -> None:
    """Add RoPE's frequencies, which an exporter may have folded into cosines and sines."""
    rotary = source.layout.family.rotary
    for name, values in computed_buffers(source).items():
        if name.startswith(f"{rotary}.") and name not in model.graph.initializers:
            new_initializer(model, name, ir.tensor(values))
