"""Single entries and single bytes of a model's files: what is wrong with them is said by name."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from tests.bad_input.refusals import refusal
from tests.command_line import QUICK, run, run_successfully
from tests.tiny_models import change_config


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"pad_token_id": 256}, "pad_token_id is 256, and the vocabulary has 256 tokens"),
        ({"eos_token_id": "</s>"}, "eos_token_id is '</s>'; it must be a token's number"),
        ({"rope_parameters": {"rope_type": "llama3"}}, "has no factor, which the rope_type"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000"),
        ({"initializer_range": "x"}, "initializer_range"),
        ({"architectures": 5}, "architecture 5 is not supported"),
    ],
)
def test_an_entry_of_the_configuration_is_named(
    damaged: Path, out: Path, entries: dict[str, Any], words: str
) -> None:
    change_config(damaged, **entries)
    assert words in refusal(out, damaged)


def test_an_attention_that_is_not_installed_does_not_matter(damaged: Path, tmp_path: Path) -> None:
    change_config(damaged, _attn_implementation="flash_attention_2")
    run_successfully("calibrate", damaged, tmp_path / "p.safetensors", *QUICK)


def test_bytes_behind_the_weights_are_counted(damaged: Path, out: Path) -> None:
    with (damaged / "model.safetensors").open("ab") as file:
        file.write(b"x")
    assert "1 bytes follow its last tensor" in refusal(out, damaged)


def test_an_index_without_metadata_says_what_to_add(damaged: Path, out: Path) -> None:
    names = load_file(damaged / "model.safetensors")
    (damaged / "model.safetensors").rename(damaged / "w.safetensors")
    index = {"weight_map": dict.fromkeys(names, "w.safetensors")}
    (damaged / "model.safetensors.index.json").write_text(json.dumps(index))
    line = refusal(out, damaged)
    assert "model.safetensors.index.json: not a valid index of weights: it has no metadata" in line


def test_half_a_character_in_an_index_is_one_line(damaged: Path, out: Path) -> None:
    index = damaged / "model.safetensors.index.json"
    index.write_text('{"metadata": {}, "weight_map": {"x": "\\ud800"}}')
    assert "half a character (a lone surrogate)" in refusal(out, damaged)


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", ["[" * 100_000, "{", "3", '{"a": "\\ud800"}'])
def test_a_damaged_json_file_is_named(damaged: Path, out: Path, name: str, content: str) -> None:
    (damaged / name).write_text(content)
    line = refusal(out, damaged)
    assert name in line
    assert "unexpected" not in line


def test_a_length_that_is_no_number_is_named(damaged: Path, out: Path) -> None:
    file = damaged / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"model_max_length": "long"}))
    assert "tokenizer_config.json says model_max_length is 'long'" in refusal(out, damaged)


def test_a_pipe_in_the_place_of_weights_is_not_waited_for(damaged: Path, out: Path) -> None:
    (damaged / "model.safetensors").unlink()
    os.mkfifo(damaged / "model.safetensors")
    refusal(out, damaged)


def test_a_name_that_is_not_utf8_is_printed_as_it_can_be(out: Path) -> None:
    assert "caf\\udce9: no such model directory" in refusal(out, "caf\udce9")


def test_an_adapter_beside_a_model_is_a_warning(damaged: Path, tmp_path: Path) -> None:
    (damaged / "adapter_config.json").write_text("{}")
    result = run_successfully("calibrate", damaged, tmp_path / "p.safetensors", *QUICK)
    assert "the adapter in it (adapter_config.json) is left out" in " ".join(result.stderr.split())


def test_a_chat_is_calibrated_on_by_the_chat_template(damaged: Path, tmp_path: Path) -> None:
    text = tmp_path / "chats.jsonl"
    chat = [{"role": "user", "content": "Tell me about the sea, at length. " * 20}]
    text.write_text(json.dumps({"messages": chat}) + "\n")
    options = ("--calibration", text, "--samples", "1", "--sequence-length", "32")
    run_successfully("calibrate", damaged, tmp_path / "p.safetensors", *options)


def test_a_package_that_is_not_installed_names_the_extra(
    damaged: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_arguments: object, **_options: object) -> None:
        raise ModuleNotFoundError("No module named 'torch'", name="torch.nn")

    monkeypatch.setattr("resq_onnx.pipeline.export", missing)
    line = refusal(out, damaged)
    assert line == 'Error: this needs torch, which is absent: run pip install "resq-onnx[export]"'


def test_a_name_too_long_for_the_system_is_no_defect(tmp_path: Path) -> None:
    result = run("inspect", tmp_path / ("x" * 5000))
    assert result.exit_code == 1
    assert "unexpected" not in result.stderr
