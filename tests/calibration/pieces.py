"""Tokenizers of sentencepiece, as Meta and Google give them."""

from __future__ import annotations

import io
import json
from functools import cache
from pathlib import Path
from pydoc_data.topics import topics

import sentencepiece

VOCABULARY = 256


def write_pieces(folder: Path) -> None:
    """Put a tokenizer.model in the place of a model's tokenizer.json."""
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.model").write_bytes(trained_pieces())
    said = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(said))


@cache
def trained_pieces() -> bytes:
    """A tokenizer.model of 256 pieces."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter("\n".join(list(topics.values())[:9]).splitlines()),
        model_writer=model,
        vocab_size=VOCABULARY,
        model_type="bpe",
        character_coverage=0.99,
        minloglevel=2,
    )
    return model.getvalue()
