"""Calibration texts: reading them and cutting them into sequences."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from resq_onnx.calibration import corpus
from resq_onnx.calibration.corpus import calibration_sequences
from resq_onnx.errors import ResqError


class CharacterTokenizer:
    """One token per character, its code point: the tokens are the text."""

    def __call__(self, text: list[str], *, add_special_tokens: bool, verbose: bool) -> Any:
        assert not add_special_tokens
        return {"input_ids": [[ord(character) for character in piece] for piece in text]}


@pytest.fixture
def numbered(tmp_path: Path) -> str:
    """A text whose character at place i has the code point 256 + i; 100 characters."""
    path = tmp_path / "numbered.txt"
    path.write_text("".join(chr(256 + i) for i in range(100)), encoding="utf-8")
    return str(path)


def test_sequences_are_whole_windows_of_the_text_in_its_order(numbered: str) -> None:
    sequences = calibration_sequences(CharacterTokenizer(), numbered, 4, 10, seed=0)
    assert sequences.dtype == np.int64
    assert sequences.shape == (4, 10)
    starts = sequences[:, 0] - 256
    assert (starts % 10 == 0).all()
    assert (np.diff(starts) > 0).all()
    np.testing.assert_array_equal(sequences, sequences[:, :1] + np.arange(10))


def test_each_sequence_begins_with_the_opening(numbered: str) -> None:
    sequences = calibration_sequences(CharacterTokenizer(), numbered, 4, 10, 0, opening=[7])
    assert sequences.shape == (4, 10)
    assert (sequences[:, 0] == 7).all()
    assert ((sequences[:, 1] - 256) % 9 == 0).all()
    np.testing.assert_array_equal(sequences[:, 1:], sequences[:, 1:2] + np.arange(9))


def test_the_seed_chooses_the_sequences(numbered: str) -> None:
    def chosen(seed: int) -> list[int]:
        sequences = calibration_sequences(CharacterTokenizer(), numbered, 4, 5, seed)
        return [int(first) for first in sequences[:, 0]]

    assert chosen(1) == chosen(1)
    assert chosen(1) != chosen(2)


def test_a_text_with_too_few_sequences_is_used_whole_with_a_warning(numbered: str) -> None:
    with pytest.warns(UserWarning, match="only 3 sequences of 30 tokens, 8 were asked for"):
        sequences = calibration_sequences(CharacterTokenizer(), numbered, 8, 30, seed=0)
    assert (sequences[:, 0] - 256).tolist() == [0, 30, 60]


def test_the_warning_may_go_elsewhere(numbered: str) -> None:
    heard: list[str] = []
    calibration_sequences(CharacterTokenizer(), numbered, 8, 30, seed=0, warn=heard.append)
    assert len(heard) == 1


def test_a_text_shorter_than_one_sequence_says_which_length_would_do(numbered: str) -> None:
    with pytest.raises(ResqError, match=r"has 100 tokens, .* --sequence-length 100 or less"):
        calibration_sequences(CharacterTokenizer(), numbered, 1, 101, seed=0)


def test_an_empty_text_is_refused_without_advising_length_zero(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(ResqError, match=r"has 0 tokens.*choose a longer text"):
        calibration_sequences(CharacterTokenizer(), str(tmp_path / "a.txt"), 1, 1, seed=0)


@pytest.mark.parametrize(
    "text", ["word " * 50, "line\n" * 50, "\n" * 100, "x" * 100, " leading", "é\n\nö " * 30]
)
def test_cutting_a_text_into_pieces_loses_nothing(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setattr(corpus, "PIECE_LENGTH", 16)
    pieces = list(corpus._pieces(text))
    assert "".join(pieces) == text
    assert all(0 < len(piece) <= 16 for piece in pieces)


def test_pieces_are_cut_in_front_of_line_breaks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "PIECE_LENGTH", 12)
    assert list(corpus._pieces("ab cd\nef gh ij")) == ["ab cd", "\nef gh ij"]


def test_a_hugging_face_tokenizer_does_not_warn_of_a_text_longer_than_the_model_reads(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    vocabulary = {"[UNK]": 0, "a": 1, "[BOS]": 2}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, model_max_length=8, bos_token="[BOS]"
    )
    (tmp_path / "a.txt").write_text("a " * 100)
    sequences = calibration_sequences(tokenizer, str(tmp_path / "a.txt"), 10, 10, seed=0)
    assert (sequences == 1).all()
    assert not caplog.records
    assert not capfd.readouterr().err
