from __future__ import annotations

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest

from resq_onnx.errors import ResqError
from resq_onnx.graph.inspection import Inspection, QuantisedKind, inspect_model
from resq_onnx.graph.names import RECIPE_KEY
from tests.runtime import toy

LAYERS = 3
ROWS = 4


def save(
    path: Path,
    columns: dict[str, tuple[str, int]],
    module: str = "model.layers.{}.mlp.down_proj",
) -> Path:
    """Write a graph whose layers hold one matrix; `columns` gives type and width of its parts."""
    initializers = []
    for layer in range(LAYERS):
        for part, (dtype, width) in columns.items():
            stored = ml_dtypes.int4 if dtype == "INT4" else np.int8
            arrays = {
                f"weight_{part}": np.ones((ROWS, width), stored),
                f"scale_{part}": np.ones(ROWS, np.float32),
            }
            for name, array in arrays.items():
                full = f"{module.format(layer)}.{name}"
                initializers.append(ir.Value(name=full, const_value=ir.tensor(array, name=full)))
    node = ir.node("Identity", [initializers[0]], version=23)
    graph = ir.Graph([], node.outputs, nodes=[node], initializers=initializers)
    graph.opset_imports[""] = 23
    model = ir.Model(graph, ir_version=10, metadata_props={RECIPE_KEY: '{"method": "resq"}'})
    ir.save(model, path, external_data=f"{path.name}.data", size_threshold_bytes=0)
    return path


def the_kind(inspection: Inspection) -> QuantisedKind:
    (kind,) = inspection.matrices
    return kind


def test_of_layers_that_differ_the_mean_is_told(tmp_path: Path) -> None:
    """One layer has no high part at all."""
    path = save(tmp_path / "a.onnx", {"low": ("INT4", 12), "high": ("INT8", 4)})
    model = ir.load(path)
    initializers = model.graph.initializers
    for part, dtype, width in (("low", ml_dtypes.int4, 16), ("high", np.int8, 0)):
        name = f"model.layers.1.mlp.down_proj.weight_{part}"
        if width:
            initializers[name].const_value = ir.tensor(np.ones((ROWS, width), dtype), name=name)
        else:
            del initializers[name], initializers[f"model.layers.1.mlp.down_proj.scale_{part}"]
    other = tmp_path / "b.onnx"
    ir.save(model, other, external_data="b.onnx.data", size_threshold_bytes=0)
    found = inspect_model(other)
    assert the_kind(found).count == LAYERS
    assert the_kind(found).columns == {4: round((12 + 16 + 12) / 3), 8: round(8 / 3)}
    assert found.layer_weight_bits == pytest.approx((40 * 4 + 8 * 8) / 48)


def test_both_parts_of_a_matrix_and_their_scales_are_one_kind(tmp_path: Path) -> None:
    found = inspect_model(save(tmp_path / "a.onnx", {"low": ("INT4", 14), "high": ("INT8", 2)}))
    assert the_kind(found) == QuantisedKind(
        name="model.layers.*.mlp.down_proj",
        count=LAYERS,
        columns={4: 14, 8: 2},
        bytes=LAYERS * ROWS * (14 // 2 + 2 + 2 * 4),
    )


def test_parts_of_the_same_number_of_bits_are_counted_together(tmp_path: Path) -> None:
    found = inspect_model(save(tmp_path / "a.onnx", {"low": ("INT8", 14), "high": ("INT8", 2)}))
    assert the_kind(found).columns == {8: 16}


def test_the_mean_bits_are_those_of_the_layers_coefficients(tmp_path: Path) -> None:
    found = inspect_model(save(tmp_path / "a.onnx", {"low": ("INT4", 14), "high": ("INT8", 2)}))
    assert found.layer_weight_bits == (14 * 4 + 2 * 8) / 16


def test_matrices_outside_of_the_layers_do_not_count_for_the_mean_bits(tmp_path: Path) -> None:
    path = save(tmp_path / "a.onnx", {"high": ("INT8", 16)}, module="lm_head{}")
    assert inspect_model(path).layer_weight_bits is None


def test_groups_hold_the_tensors_of_all_layers_the_largest_first(tmp_path: Path) -> None:
    found = inspect_model(save(tmp_path / "a.onnx", {"low": ("INT4", 14), "high": ("INT8", 2)}))
    assert [(g.name.rpartition(".")[2], g.dtype, g.count, g.values) for g in found.groups] == [
        ("weight_low", "INT4", LAYERS, LAYERS * ROWS * 14),
        ("scale_low", "FLOAT", LAYERS, LAYERS * ROWS),
        ("scale_high", "FLOAT", LAYERS, LAYERS * ROWS),
        ("weight_high", "INT8", LAYERS, LAYERS * ROWS * 2),
    ]


def test_sizes_are_those_of_the_files(tmp_path: Path) -> None:
    path = save(tmp_path / "a.onnx", {"low": ("INT4", 14)})
    found = inspect_model(path)
    assert found.graph_bytes == path.stat().st_size
    assert found.data_bytes == (tmp_path / "a.onnx.data").stat().st_size > 0


def test_the_recipe_is_read_from_the_file_itself(tmp_path: Path) -> None:
    found = inspect_model(save(tmp_path / "a.onnx", {"low": ("INT4", 14)}))
    assert found.recipe == {"method": "resq"}


def test_a_file_of_someone_else_has_no_recipe(tmp_path: Path) -> None:
    found = inspect_model(toy.save_toy(tmp_path / "a.onnx"))
    assert found.recipe is None
    assert found.matrices == []
    assert found.layer_weight_bits is None
    assert found.data_bytes == 0


@pytest.mark.parametrize(
    ("cache_type", "size"), [(onnx.TensorProto.UINT8, 1), (onnx.TensorProto.FLOAT, 4)]
)
def test_the_cache_is_counted_in_bytes_of_all_layers(
    tmp_path: Path, cache_type: int, size: int
) -> None:
    found = inspect_model(toy.save_toy(tmp_path / "a.onnx", cache_type))
    records = 2 * toy.LAYERS * toy.KV_HEADS
    assert found.cache_bytes_per_token == records * toy.RECORD * size


@pytest.mark.parametrize(
    ("config", "head_dim"),
    [
        ({"hidden_size": 48, "num_attention_heads": 6}, 8),
        ({"hidden_size": 48, "num_attention_heads": 6, "head_dim": 16}, 16),
        ({"hidden_size": 48, "num_attention_heads": 6, "head_dim": None}, 8),
    ],
)
def test_the_cache_is_compared_with_float16_of_the_head_size_in_config_json(
    tmp_path: Path, config: dict[str, int | None], head_dim: int
) -> None:
    path = toy.save_toy(tmp_path / "a.onnx")
    assert inspect_model(path).cache_bytes_per_token_float16 is None
    (tmp_path / "config.json").write_text(json.dumps(config))
    records = 2 * toy.LAYERS * toy.KV_HEADS
    assert inspect_model(path).cache_bytes_per_token_float16 == records * head_dim * 2


def test_operators_are_counted_the_most_frequent_first(tmp_path: Path) -> None:
    operators = inspect_model(toy.save_toy(tmp_path / "a.onnx")).operators
    assert operators["Concat"] == 2 * toy.LAYERS
    assert list(operators.values()) == sorted(operators.values(), reverse=True)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ResqError, match=r"absent\.onnx: no such file"):
        inspect_model(tmp_path / "absent.onnx")


@pytest.mark.parametrize("content", [b"", b"This is no model.", b"\x08\x0a"])
def test_a_file_that_is_no_model_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.onnx"
    path.write_bytes(content)
    with pytest.raises(ResqError, match=r"a\.onnx: not an ONNX model"):
        inspect_model(path)


def test_a_model_without_its_data_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.onnx", {"low": ("INT4", 14)})
    (tmp_path / "a.onnx.data").unlink()
    with pytest.raises(ResqError, match=r"a\.onnx\.data: tensor .* the file does not exist"):
        inspect_model(path)


def test_a_model_whose_data_is_cut_off_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.onnx", {"low": ("INT4", 14)})
    data = tmp_path / "a.onnx.data"
    data.write_bytes(data.read_bytes()[:-1])
    with pytest.raises(ResqError, match=f"the file has {data.stat().st_size} bytes"):
        inspect_model(path)


@pytest.mark.parametrize("said", ["", "{", "[1]", "null"])
def test_a_recipe_that_is_no_object_is_refused(tmp_path: Path, said: str) -> None:
    path = save(tmp_path / "a.onnx", {"low": ("INT4", 14)})
    model = onnx.load(path, load_external_data=False)
    model.metadata_props[0].value = said
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ResqError, match=f"its metadata {RECIPE_KEY}: .*; export the model again"):
        inspect_model(path)
