"""The tokenizer of the original model, in whatever form it is there."""

from __future__ import annotations

import io
import json
from pathlib import Path
from pydoc_data.topics import topics

import pytest
import sentencepiece

from resq_onnx.calibration.reference import load_tokenizer, write_tokenizer
from resq_onnx.checkpoint.source import ModelSource
from resq_onnx.errors import ResqError
from resq_onnx.runtime.tokenizer import Tokenizer
from tests.tiny_models import write_model

TEXT = "The sea is wide, and so is the sky."


@pytest.fixture(scope="module")
def trained() -> bytes:
    """A tokenizer.model."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter("\n".join(list(topics.values())[:9]).splitlines()),
        model_writer=model,
        vocab_size=256,
        model_type="bpe",
        character_coverage=0.99,
        minloglevel=2,
    )
    return model.getvalue()


@pytest.fixture
def source(tmp_path: Path, trained: bytes) -> ModelSource:
    """A Llama whose tokenizer is tokenizer.model alone, as Meta gave it."""
    folder = tmp_path / "model"
    write_model(folder, "llama", tied=True, num_hidden_layers=1)
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.model").write_bytes(trained)
    said = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(said))
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


def test_a_damaged_tokenizer_model_is_refused(source: ModelSource) -> None:
    (source.folder / "tokenizer.model").write_bytes(b"no model")
    with pytest.raises(ResqError, match=r"^the model: no tokenizer that transformers can load: "):
        load_tokenizer(source)
