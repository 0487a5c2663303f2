"""What an exported file holds: read from its graph, without running it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import onnx_ir as ir

from resq_onnx.errors import blaming
from resq_onnx.files.contents import parse_json, read_json
from resq_onnx.graph.files import read_graph
from resq_onnx.graph.names import CONTRIB_DOMAIN, RECIPE_KEY

LAYER: Final = re.compile(r"\.\d+\.")
BITS: Final = {"INT4": 4, "INT8": 8}
"""By element type, the bits of a quantised coefficient."""

GATHERS: Final = ("GatherBlockQuantized",)

ROWS: Final = "_rows"
VIEWS: Final = (ROWS, "packed_low")
"""Ends of the names of tensors that may be the bytes of another one."""


@dataclass(frozen=True)
class TensorGroup:
    """The tensors of one kind in all layers.

    Attributes:
        name: Their name, with `*` for the layer's number.
        count: How many there are.
        dtype: Their element type.
        values: Coefficients in all of them.
        columns: Size of the last dimension, in the mean; 1 for a scalar.
        bytes: Bytes in the file.
    """

    name: str
    count: int
    dtype: str
    values: int
    columns: int
    bytes: int


@dataclass(frozen=True)
class QuantisedKind:
    """The quantised matrices of one kind in all layers.

    Attributes:
        name: The module's name, with `*` for the layer's number.
        count: How many there are.
        columns: Columns stored in each number of bits, {bits: columns}, in the mean over layers.
        bytes: Bytes in the file, scales included.
    """

    name: str
    count: int
    columns: dict[int, int]
    bytes: int


@dataclass(frozen=True)
class Inspection:
    """Everything `inspect` shows.

    Attributes:
        graph_bytes: Size of the .onnx file.
        data_bytes: Size of the file with the weights.
        operators: How often each operator occurs in the graph.
        matrices: Quantised matrices, the largest kind first.
        groups: All tensors, the largest group first.
        layer_weight_bits: Mean bits of a coefficient in the layers' quantised matrices, scales
            not counted; None in a file without any.
        cache_bytes_per_token: Keys and values of all layers.
        cache_bytes_per_token_float16: What they would take in float16; None where the head size
            is not known.
        recipe: What the file was made by; None if it does not say.
    """

    path: Path
    graph_bytes: int
    data_bytes: int
    operators: dict[str, int]
    matrices: list[QuantisedKind]
    groups: list[TensorGroup]
    layer_weight_bits: float | None
    cache_bytes_per_token: int
    cache_bytes_per_token_float16: int | None
    recipe: dict[str, Any] | None


def inspect_model(path: Path) -> Inspection:
    """Read an exported file.

    Raises:
        ResqError: It cannot be read as an ONNX model, or its data is missing or cut off.
    """
    model = read_graph(path)
    with blaming(path, "not as resq-onnx export writes it", "export the model again"):
        return _inspect(path, model)


def _inspect(path: Path, model: ir.Model) -> Inspection:
    graph = model.graph
    operators: dict[str, int] = {}
    for node in graph:
        name = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
        operators[name] = operators.get(name, 0) + 1
    groups = _groups(graph.initializers, _blocks(graph))
    data = path.with_name(f"{path.name}.data")
    return Inspection(
        path=path,
        graph_bytes=path.stat().st_size,
        data_bytes=data.stat().st_size if data.is_file() else 0,
        operators=dict(sorted(operators.items(), key=lambda item: -item[1])),
        matrices=_matrices(groups),
        groups=groups,
        layer_weight_bits=_mean_bits(groups),
        cache_bytes_per_token=_cache_bytes(graph),
        cache_bytes_per_token_float16=_float16_cache_bytes(graph, path.parent),
        recipe=_recipe(model, path),
    )


def _recipe(model: ir.Model, path: Path) -> dict[str, Any] | None:
    said = model.metadata_props.get(RECIPE_KEY)
    if said is None:
        return None
    return parse_json(said, f"{path}: its metadata {RECIPE_KEY}", "export the model again")


@dataclass(frozen=True)
class _Stored:
    """What a tensor holds: its type and sizes, or what its bytes stand for."""

    dtype: str
    values: int
    columns: int


def _blocks(graph: ir.Graph) -> dict[str, _Stored]:
    """Weights of ONNX Runtime's own operators, by name: bytes, and the node says of what."""
    found = {}
    for node in graph:
        if node.domain != CONTRIB_DOMAIN or node.op_type not in ("MatMulNBits", *GATHERS):
            continue
        value = node.inputs[0 if node.op_type in GATHERS else 1]
        if value is None or value.name is None or value.const_value is None:
            continue
        bits, (rows, *_) = node.attributes.get_int("bits"), value.const_value.shape.numpy()
        columns = node.attributes.get_int("K", 8 * value.const_value.nbytes // rows // bits)
        found[value.name] = _Stored(f"INT{bits}", rows * columns, columns)
    return found


def _groups(
    initializers: Mapping[str, ir.Value], blocks: Mapping[str, _Stored]
) -> list[TensorGroup]:
    found: dict[tuple[str, str], list[tuple[_Stored, int]]] = {}
    again = _views(initializers)
    for name, value in initializers.items():
        tensor = value.const_value
        if tensor is not None and name not in again:
            plain = _Stored(tensor.dtype.name, tensor.size, _last_dimension(tensor))
            stored = blocks.get(name, plain)
            key = (LAYER.sub(".*.", name.removesuffix(ROWS)), stored.dtype)
            found.setdefault(key, []).append((stored, tensor.nbytes))
    groups = [
        TensorGroup(
            name=name,
            count=len(tensors),
            dtype=dtype,
            values=sum(stored.values for stored, _ in tensors),
            columns=round(sum(stored.columns for stored, _ in tensors) / len(tensors)),
            bytes=sum(size for _, size in tensors),
        )
        for (name, dtype), tensors in found.items()
    ]
    return sorted(groups, key=lambda group: -group.bytes)


def _views(initializers: Mapping[str, ir.Value]) -> set[str]:
    """Tensors that are the bytes of others: what lies at their place is counted once."""
    places: dict[tuple[Any, ...], list[str]] = {}
    for name, value in initializers.items():
        if isinstance(tensor := value.const_value, ir.ExternalTensor):
            places.setdefault((tensor.path, tensor.offset), []).append(name)
    shared = [names for names in places.values() if len(names) > 1]
    return {name for names in shared for name in names if name.endswith(VIEWS)}


def _matrices(groups: list[TensorGroup]) -> list[QuantisedKind]:
    """Put the low and the high columns of a matrix, and their scales, together."""
    parts: dict[str, list[TensorGroup]] = {}
    for group in groups:
        module, _, part = group.name.rpartition(".")
        if part in ("weight_low", "weight_high", "scale_low", "scale_high"):
            parts.setdefault(module, []).append(group)
    kinds = [
        QuantisedKind(
            name=module,
            count=max(part.count for part in found),
            columns=_columns(found),
            bytes=sum(part.bytes for part in found),
        )
        for module, found in parts.items()
    ]
    return sorted(kinds, key=lambda kind: -kind.bytes)


def _columns(parts: list[TensorGroup]) -> dict[int, int]:
    """Columns by bits; both parts may have the same number of bits, and a layer may lack one."""
    columns: dict[int, int] = {}
    most = max(part.count for part in parts)
    for part in parts:
        if part.dtype in BITS:
            bits = BITS[part.dtype]
            columns[bits] = columns.get(bits, 0) + round(part.columns * part.count / most)
    return columns


def _last_dimension(tensor: ir.TensorProtocol) -> int:
    return int(tensor.shape.numpy()[-1]) if tensor.shape.rank() else 1


def _mean_bits(groups: list[TensorGroup]) -> float | None:
    matrices = [g for g in groups if ".*." in g.name and g.dtype in BITS]
    values = sum(group.values for group in matrices)
    return 8 * sum(group.bytes for group in matrices) / values if values else None


def _cache_inputs(graph: ir.Graph) -> list[tuple[int, int, int]]:
    """Kv heads, last dimension and bytes of an element, for each cache input."""
    found = []
    for value in graph.inputs:
        if not (value.name or "").startswith("past_key_values.") or value.shape is None:
            continue
        heads, last = value.shape[1], value.shape[3]
        if isinstance(heads, int) and isinstance(last, int) and value.dtype is not None:
            found.append((heads, last, int(value.dtype.itemsize)))
    return found


def _cache_bytes(graph: ir.Graph) -> int:
    return sum(heads * last * size for heads, last, size in _cache_inputs(graph))


def _float16_cache_bytes(graph: ir.Graph, folder: Path) -> int | None:
    config = read_json(folder / "config.json", "export the model again", optional=True)
    if "hidden_size" not in config:
        return None
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    return sum(heads * int(head_dim) * 2 for heads, _, _ in _cache_inputs(graph))
