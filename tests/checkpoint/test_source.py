"""What the user calls a model: a directory or a .gguf file."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from resq_onnx.checkpoint.folder import COMPANION_FILES
from resq_onnx.checkpoint.safetensors_store import BYTES_AT_A_TIME
from resq_onnx.checkpoint.source import ModelSource, open_model
from resq_onnx.errors import ResqError
from tests import tiny_models


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_models.write_model(tmp_path / "model", "qwen2", tied=False)
    return tmp_path / "model"


def test_a_directory_is_opened_where_it_is(folder: Path) -> None:
    with open_model(str(folder)) as source:
        assert source.folder == folder
        assert source.name == str(folder)
        assert source.layout.family.name == "Qwen2"
        assert {tensor.name for tensor in source.weights} == set(
            load_file(folder / "model.safetensors")
        )
        source.check()


def refusal(path: Path) -> str:
    with pytest.raises(ResqError) as error, open_model(path):
        pass
    return str(error.value)


@pytest.mark.parametrize("name", ["absent", "absent.gguf"])
def test_a_model_that_is_not_there_is_refused(tmp_path: Path, name: str) -> None:
    assert f"{name}: no such model directory or .gguf file" in refusal(tmp_path / name)


def test_another_file_is_refused(folder: Path) -> None:
    line = refusal(folder / "model.safetensors")
    assert "neither a model directory nor a .gguf file" in line


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "config.json: cannot be read: not JSON"),
        ("[]", "must hold a JSON object"),
        ("\udcff", "config.json: cannot be read: not UTF-8 text"),
        (None, "no config.json; is this a model directory?"),
    ],
)
def test_a_config_that_cannot_be_read_is_refused(
    tmp_path: Path, text: str | None, words: str
) -> None:
    if text is not None:
        (tmp_path / "config.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ResqError, match=words) as error:
        _ = ModelSource(tmp_path, "the model").config
    assert str(error.value).startswith("the model: ")


def test_weights_that_are_not_finite_are_found_early(folder: Path) -> None:
    file = folder / "model.safetensors"
    weights = load_file(file)
    weights["model.norm.weight"][3] = float("nan")
    save_file(weights, file)
    with pytest.raises(ResqError, match=r"tensor model\.norm\.weight holds NaN"):
        ModelSource(folder, "the model").check()


def test_the_digest_is_that_of_config_and_weights_and_of_nothing_else(folder: Path) -> None:
    digest = ModelSource(folder, "one name").digest
    assert len(digest) == 64
    (folder / "tokenizer.json").write_text("{}")
    assert ModelSource(folder, "another name").digest == digest


def change_a_bit(folder: Path) -> None:
    file = folder / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def change_the_epsilon(folder: Path) -> None:
    tiny_models.change_config(folder, rms_norm_eps=1e-3)


def rename_a_tensor(folder: Path) -> None:
    file = folder / "model.safetensors"
    weights = load_file(file)
    weights["other"] = weights.pop("model.norm.weight")
    save_file(weights, file)


@pytest.mark.parametrize("change", [change_a_bit, change_the_epsilon, rename_a_tensor])
def test_every_change_of_the_model_changes_the_digest(folder: Path, change: Any) -> None:
    before = ModelSource(folder, "model").digest
    change(folder)
    assert ModelSource(folder, "model").digest != before


def test_no_tensor_is_held_in_memory_for_the_digest(folder: Path) -> None:
    file = folder / "model.safetensors"
    large = torch.zeros(4 * BYTES_AT_A_TIME // 4)
    save_file({**load_file(file), "other": large}, file)
    source = ModelSource(folder, "model")
    tracemalloc.start()
    assert len(source.digest) == 64
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 3 * BYTES_AT_A_TIME


def test_the_digest_does_not_depend_on_how_the_config_is_laid_out(folder: Path) -> None:
    before = ModelSource(folder, "model").digest
    path = folder / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(dict(reversed(config.items())), indent=7))
    assert ModelSource(folder, "model").digest == before


def test_what_belongs_beside_a_model_is_copied_and_nothing_else(
    folder: Path, tmp_path: Path
) -> None:
    (folder / "notes.txt").write_text("private")
    target = tmp_path / "target"
    target.mkdir()
    copied = ModelSource(folder, "model").copy_companions(target)
    expected = {"config.json", "generation_config.json", "tokenizer.json"}
    expected |= {"tokenizer_config.json", "chat_template.jinja"}
    assert set(copied) == {path.name for path in target.iterdir()} == expected
    assert set(copied) <= set(COMPANION_FILES)
    for name in copied:
        assert (target / name).read_bytes() == (folder / name).read_bytes()
