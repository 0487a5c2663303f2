"""Models that cannot be exported: one line says why, and the output folder has not changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

from resq_onnx.families import FAMILIES
from tests.bad_input.refusals import refusal
from tests.tiny_models import SIZES, change_config


def test_a_model_that_is_not_there(tmp_path: Path, out: Path) -> None:
    assert f"{tmp_path / 'absent'}: no such model" in refusal(out, tmp_path / "absent")


def test_a_file_that_is_no_model(model: Path, out: Path) -> None:
    line = refusal(out, model / "config.json")
    assert "config.json: neither a model directory nor a .gguf file" in line


def test_a_damaged_gguf_file(tmp_path: Path, out: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF, or not")
    refusal(out, file)


def test_a_folder_without_weights(damaged: Path, out: Path) -> None:
    (damaged / "model.safetensors").unlink()
    assert f"{damaged}: no .safetensors file" in refusal(out, damaged)


def test_pickled_weights_are_refused(damaged: Path, out: Path) -> None:
    (damaged / "model.safetensors").rename(damaged / "pytorch_model.bin")
    line = refusal(out, damaged)
    assert "only pickled weights (pytorch_model.bin)" in line
    assert "convert them to .safetensors" in line


@pytest.mark.parametrize("kept", [0, 5, 100, -1], ids=["all", "length", "header", "a byte"])
def test_weights_that_are_cut_off(damaged: Path, out: Path, kept: int) -> None:
    file = damaged / "model.safetensors"
    file.write_bytes(file.read_bytes()[:kept])
    assert f"{file}: not a complete .safetensors file" in refusal(out, damaged)


def test_a_shard_that_is_missing(damaged: Path, out: Path) -> None:
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (damaged / "model.safetensors").rename(damaged / shards["a"])
    (damaged / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": shards})
    )
    line = refusal(out, damaged)
    assert "model-00002-of-00002.safetensors named by model.safetensors.index.json is miss" in line
    assert shards["a"] not in line


def test_a_tensor_that_is_missing(damaged: Path, out: Path) -> None:
    change_config(damaged, num_hidden_layers=2)
    line = refusal(out, damaged)
    assert f"{damaged}: the safetensors files have no tensor model.layers.1." in line


def test_a_tensor_of_another_shape(damaged: Path, out: Path) -> None:
    change_config(damaged, intermediate_size=128)
    line = refusal(out, damaged)
    assert "model.layers.0.mlp.gate_proj.weight has shape (192, 64); config.json requires" in line


@pytest.mark.parametrize("value", [np.nan, np.inf], ids=["nan", "inf"])
def test_weights_that_are_no_numbers(damaged: Path, out: Path, value: float) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    file = damaged / "model.safetensors"
    tensors = load_file(file)
    tensors[name][3, 5] = value
    save_file(tensors, file, {"format": "pt"})
    line = refusal(out, damaged)
    assert f"{file}: tensor {name} holds NaN or infinite values" in line


def test_weights_that_are_quantised_already(damaged: Path, out: Path) -> None:
    file = damaged / "model.safetensors"
    tensors: dict[str, NDArray[Any]] = dict(load_file(file))
    tensors["model.norm.weight"] = tensors["model.norm.weight"].astype(np.int8)
    save_file(tensors, file, {"format": "pt"})
    assert "already quantised" in refusal(out, damaged)


def test_a_mixture_of_experts(tmp_path: Path, out: Path) -> None:
    sizes = SIZES | {"moe_intermediate_size": 32, "num_experts": 4, "num_experts_per_tok": 2}
    Qwen3MoeForCausalLM(Qwen3MoeConfig(**sizes)).save_pretrained(tmp_path / "experts")
    line = refusal(out, tmp_path / "experts")
    assert "Qwen3MoeForCausalLM is a mixture of experts, which is not supported" in line
    assert "export a dense model, such as Qwen3ForCausalLM" in line


def test_an_unknown_architecture_is_told_the_known_ones(damaged: Path, out: Path) -> None:
    change_config(damaged, architectures=["GPT2LMHeadModel"])
    line = refusal(out, damaged)
    assert "GPT2LMHeadModel is not supported" in line
    assert [name for name in FAMILIES if name not in line] == []


@pytest.mark.parametrize("text", ["", "{", "[]", '{"architectures": ["LlamaForCausalLM"]}'])
def test_a_damaged_config(damaged: Path, out: Path, text: str) -> None:
    (damaged / "config.json").write_text(text)
    line = refusal(out, damaged)
    assert f"{damaged}: config.json" in line
    assert "unexpected" not in line


def test_an_adapter_is_to_be_merged_first(damaged: Path, out: Path) -> None:
    (damaged / "adapter_config.json").write_text("{}")
    (damaged / "config.json").unlink()
    line = refusal(out, damaged)
    assert f"{damaged}: an adapter, not a model: merge it into its base model" in line


def test_a_folder_that_is_no_model(tmp_path: Path, out: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "no config.json; is this a model directory?" in refusal(out, tmp_path / "empty")


def test_a_model_without_a_tokenizer(damaged: Path, out: Path) -> None:
    for file in damaged.glob("tokenizer*"):
        file.unlink()
    line = refusal(out, damaged)
    assert f"{damaged}: no tokenizer" in line
    assert "put the right tokenizer.json beside the weights" in line
