"""A model directory as a graph without weights: names, tags, pointers, frequencies."""

from __future__ import annotations

import dataclasses
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from resq_onnx.checkpoint.source import ModelSource
from resq_onnx.errors import ResqError
from resq_onnx.graph.names import MODULE_KEY, OPSET
from resq_onnx.graph.tensors import FoldedTensor
from resq_onnx.tracing.trace import IR_VERSION, computed_buffers, trace, with_weights
from tests import tiny_models

LARGEST_CONSTANT = 64
"""Numbers a tensor of the graph may hold that is not a weight: sizes, axes, frequencies."""


@dataclass
class Traced:
    source: ModelSource
    model: PreTrainedModel
    graph: ir.Model


def traced(folder: Path, kind: str, *, tied: bool, dtype: torch.dtype) -> Traced:
    model = tiny_models.write_model(folder, kind, tied=tied, dtype=dtype)
    source = ModelSource(folder, str(folder))
    return Traced(source, model, trace(source))


@pytest.fixture(scope="module")
def float32(tmp_path_factory: pytest.TempPathFactory) -> Traced:
    """A tied Qwen2 in float32."""
    return traced(tmp_path_factory.mktemp("float32"), "qwen2", tied=True, dtype=torch.float32)


@pytest.fixture(scope="module")
def bfloat16(tmp_path_factory: pytest.TempPathFactory) -> Traced:
    """An untied Llama with Llama 3's RoPE in bfloat16."""
    return traced(tmp_path_factory.mktemp("bfloat16"), "llama3", tied=False, dtype=torch.bfloat16)


@pytest.fixture(params=["float32", "bfloat16"])
def either(request: pytest.FixtureRequest) -> Traced:
    found: Traced = request.getfixturevalue(request.param)
    return found


def parameters(found: Traced) -> dict[str, ir.Value]:
    """Initializers that are parameters of the model in PyTorch."""
    names = {name for name, _ in found.model.named_parameters()}
    return {name: value for name, value in found.graph.graph.initializers.items() if name in names}


def test_inputs_and_outputs_are_those_of_the_contract(either: Traced) -> None:
    graph, layout = either.graph.graph, either.source.layout
    cache = [f"{layer}.{part}" for layer in range(layout.num_layers) for part in ("key", "value")]
    tokens: list[str | int] = ["batch", "sequence"]

    def records(length: str) -> list[str | int]:
        return ["batch", layout.num_kv_heads, length, layout.head_dim]

    expected: list[tuple[str, list[str | int], ir.DataType]] = [
        ("input_ids", tokens, ir.DataType.INT64),
        ("attention_mask", ["batch", "total"], ir.DataType.INT64),
        ("position_ids", tokens, ir.DataType.INT64),
        *((f"past_key_values.{name}", records("past"), ir.DataType.FLOAT) for name in cache),
        ("logits", [*tokens, layout.vocab_size], ir.DataType.FLOAT),
        *((f"present.{name}", records("present"), ir.DataType.FLOAT) for name in cache),
    ]
    for value, (name, shape, dtype) in zip([*graph.inputs, *graph.outputs], expected, strict=True):
        assert value.name == name
        assert value.shape == ir.Shape(shape)
        assert value.dtype == dtype


def test_initializers_have_the_names_of_the_parameters(either: Traced) -> None:
    names = {name for name, _ in either.model.named_parameters()}
    assert parameters(either).keys() == names
    others = either.graph.graph.initializers.keys() - names
    assert "model.rotary_emb.inv_freq" in others
    assert not [name for name in others if name.startswith("traced")]


def test_no_weight_is_in_memory(either: Traced) -> None:
    for name, value in either.graph.graph.initializers.items():
        tensor = value.const_value
        assert tensor is not None
        assert isinstance(tensor, ir.ExternalTensor | FoldedTensor) == (name in parameters(either))
        assert name in parameters(either) or tensor.size <= LARGEST_CONSTANT
    for node in either.graph.graph:
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.TENSOR:
                assert attribute.as_tensor().size <= LARGEST_CONSTANT


def test_float32_weights_are_ranges_of_bytes_of_the_file(float32: Traced) -> None:
    file = float32.source.folder / "model.safetensors"
    stored = load_file(file)
    content = file.read_bytes()
    for name, value in parameters(float32).items():
        tensor = value.const_value
        assert isinstance(tensor, ir.ExternalTensor)
        assert Path(tensor.path) == file
        assert tensor.offset is not None
        assert tensor.length is not None
        found = content[tensor.offset : tensor.offset + tensor.length]
        assert found == stored[name].numpy().tobytes()


def test_bfloat16_weights_are_computed_as_float32(bfloat16: Traced) -> None:
    for name, value in parameters(bfloat16).items():
        tensor = value.const_value
        assert isinstance(tensor, FoldedTensor)
        assert tensor.dtype == value.dtype == ir.DataType.FLOAT
        parameter = bfloat16.model.get_parameter(name)
        np.testing.assert_array_equal(tensor.numpy(), parameter.detach().numpy())


def test_the_frequencies_are_those_of_transformers(either: Traced) -> None:
    value = either.graph.graph.initializers["model.rotary_emb.inv_freq"]
    assert value.const_value is not None
    rotary = either.model.get_submodule("model.rotary_emb")
    expected = rotary.get_buffer("inv_freq").numpy()
    np.testing.assert_array_equal(value.const_value.numpy(), expected)
    assert value.const_value.dtype == ir.DataType.FLOAT


def test_the_frequencies_of_llama_3_are_scaled(bfloat16: Traced) -> None:
    """Frequencies of arXiv 2407.21783's released code: kept, divided, and between."""
    rope = tiny_models.LLAMA3_ROPE
    size, theta, factor = 16, rope["rope_theta"], rope["factor"]
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    expected = []
    for i in range(0, size, 2):
        frequency = theta ** (-i / size)
        turns = rope["original_max_position_embeddings"] * frequency / (2 * np.pi)
        smooth = min(max((turns - low) / (high - low), 0.0), 1.0)
        expected.append((1 - smooth) * frequency / factor + smooth * frequency)
    value = bfloat16.graph.graph.initializers["model.rotary_emb.inv_freq"]
    assert value.const_value is not None
    np.testing.assert_allclose(value.const_value.numpy(), expected, rtol=1e-6)
    plain = [theta ** (-i / size) for i in range(0, size, 2)]
    ratios = np.array(plain) / np.array(expected)
    assert ratios[0] == 1.0
    assert ratios[-1] == factor
    assert ((ratios > 1.001) & (ratios < factor - 0.001)).any()


def test_every_node_is_tagged_with_a_module_of_the_model(either: Traced) -> None:
    modules = {name for name, _ in either.model.named_modules()}
    for node in either.graph.graph:
        assert set(node.metadata_props) == {MODULE_KEY}
        assert node.metadata_props[MODULE_KEY] in modules


def test_operators_carry_the_tag_of_the_module_that_owns_their_weight(either: Traced) -> None:
    for name, value in parameters(either).items():
        module, _, _ = name.rpartition(".")
        readers = [node.metadata_props[MODULE_KEY] for node in value.consumers()]
        shared = name == "model.embed_tokens.weight" and either.source.layout.tied
        assert readers == ([module, "lm_head"] if shared else [module])


def test_each_layer_has_one_attention_tagged_as_its_own(either: Traced) -> None:
    layers = range(either.source.layout.num_layers)
    found = Counter(
        node.metadata_props[MODULE_KEY]
        for node in either.graph.graph
        if node.op_type == "Attention"
    )
    assert found == {f"model.layers.{layer}.self_attn": 1 for layer in layers}


def test_versions_are_those_the_functions_need(either: Traced) -> None:
    assert either.graph.ir_version == IR_VERSION
    assert either.graph.graph.opset_imports == {"": OPSET}
    assert either.graph.producer_name == "resq-onnx"


def test_a_copy_with_other_weights_is_the_graph_of_the_other_model(
    either: Traced, tmp_path: Path
) -> None:
    name, before = "model.layers.0.mlp.up_proj.weight", ir.to_proto(either.graph)
    weight = either.model.get_parameter(name).detach()
    save_file({name: 2 * weight}, tmp_path / "changed.safetensors")
    other = dataclasses.replace(either.source, changed=tmp_path / "changed.safetensors")
    found = with_weights(either.graph, other)
    assert ir.to_proto(found) == ir.to_proto(trace(other)) != before
    assert ir.to_proto(either.graph) == before


def test_a_weight_of_another_shape_than_the_config_says_is_refused_by_name(tmp_path: Path) -> None:
    tiny_models.write_model(tmp_path, "llama", tied=True, num_hidden_layers=1)
    file, name = tmp_path / "model.safetensors", "model.layers.0.mlp.up_proj.weight"
    weights = load_file(file)
    weights[name] = weights[name][:-2].clone()
    save_file(weights, file)
    with pytest.raises(ResqError) as error:
        trace(ModelSource(tmp_path, "model"))
    for word in (name, str(file), "(190, 64)", "(192, 64)"):
        assert word in str(error.value)


def test_buffers_are_those_of_the_float32_model_whatever_the_files_hold(tmp_path: Path) -> None:
    """With 640 channels the factor of Gemma's embedding is no number that bfloat16 has."""
    gemma = tiny_models.write_model(
        tmp_path, "gemma3", tied=True, dtype=torch.bfloat16, hidden_size=640
    )
    expected = {name: buffer.numpy() for name, buffer in gemma.named_buffers()}
    found = computed_buffers(ModelSource(tmp_path, "gemma"))
    assert found.keys() == expected.keys()
    for name, buffer in expected.items():
        np.testing.assert_array_equal(found[name], buffer, err_msg=name)
    assert found["model.embed_tokens.embed_scale"] == np.float32(640**0.5)
