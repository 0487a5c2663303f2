"""The tokenizer of the original model, in whatever form it is there."""

from __future__ import annotations

from pathlib import Path

import pytest

from resq_onnx.calibration.reference import load_tokenizer, write_tokenizer
from resq_onnx.checkpoint.source import ModelSource
from resq_onnx.errors import ResqError
from resq_onnx.runtime.tokenizer import Tokenizer
from tests.calibration.pieces import write_pieces
from tests.tiny_models import write_model

TEXT = "The sea is wide, and so is the sky."


@pytest.fixture
def source(tmp_path: Path) -> ModelSource:
    """A Llama whose tokenizer is tokenizer.model alone, as Meta gave it."""
    folder = tmp_path / "model"
    write_model(folder, "llama", tied=True, num_hidden_layers=1)
    write_pieces(folder)
    return ModelSource(folder, "the model")


def test_tokenizer_json_is_made_of_tokenizer_model(source: ModelSource, tmp_path: Path) -> None:
    expected = load_tokenizer(source)([TEXT], add_special_tokens=False)["input_ids"][0]
    write_tokenizer(source, tmp_path)
    made = Tokenizer.load(tmp_path)
    assert made.encode(TEXT, add_special_tokens=False) == expected
    assert made.decode(expected) == TEXT
    assert len(expected) < len(TEXT)


def test_a_tokenizer_json_that_is_there_is_left_alone(source: ModelSource, tmp_path: Path) -> None:
    (source.folder / "tokenizer.json").touch()
    write_tokenizer(source, tmp_path)
    assert not (tmp_path / "tokenizer.json").exists()


def test_a_folder_without_a_tokenizer_is_refused(source: ModelSource) -> None:
    (source.folder / "tokenizer.model").unlink()
    with pytest.raises(ResqError, match=r"^the model: its tokenizer has no tokens .*; put the"):
        load_tokenizer(source)


@pytest.mark.parametrize("length", [0, 100])
def test_a_damaged_tokenizer_model_is_refused(source: ModelSource, length: int) -> None:
    file = source.folder / "tokenizer.model"
    file.write_bytes(file.read_bytes()[:length])
    words = r"tokenizer\.model: not a SentencePiece model: .*; download it again"
    with pytest.raises(ResqError, match=words):
        load_tokenizer(source)


def test_a_tokenizer_model_of_tiktoken_is_left_to_transformers(source: ModelSource) -> None:
    (source.folder / "tokenizer.model").write_bytes(b"IQ== 0\nIg== 1\n")
    with pytest.raises(ResqError, match=r"^the model: .*; put the right tokenizer\.json beside"):
        load_tokenizer(source)
