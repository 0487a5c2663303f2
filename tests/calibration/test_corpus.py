"""Calibration texts: reading them and cutting them into sequences."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from resq_onnx.calibration import corpus
from resq_onnx.calibration.corpus import calibration_sequences, load_text
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


def test_a_txt_file_is_one_document(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("première ligne\n\nsecond", encoding="utf-8")
    assert load_text(str(tmp_path / "a.txt")) == ["première ligne\n\nsecond"]


def test_a_jsonl_file_is_a_document_a_line_and_blank_lines_are_skipped(tmp_path: Path) -> None:
    lines = [json.dumps({"text": "one"}), "", '{"text": "two\u2028lines", "id": 2}', ""]
    (tmp_path / "a.jsonl").write_text("\n".join(lines), encoding="utf-8")
    assert load_text(str(tmp_path / "a.jsonl")) == ["one", "two\u2028lines"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [("{", "not JSON"), ('{"body": "x"}', 'field "text"'), ("[1]", 'field "text"')],
)
def test_a_bad_jsonl_line_is_named(tmp_path: Path, line: str, reason: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "good"}\n' + line + "\n", encoding="utf-8")
    with pytest.raises(ResqError, match=reason) as refusal:
        load_text(str(path))
    assert f"{path}, line 2" in str(refusal.value)


def test_the_python_docs_are_english_and_in_a_fixed_order() -> None:
    documents = load_text("python-docs")
    assert sum(map(len, documents)) > 400_000
    assert documents == load_text("python-docs")
    assert any("assignment statement" in document.lower() for document in documents)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ResqError, match=r"nowhere\.txt: cannot read"):
        load_text(str(tmp_path / "nowhere.txt"))


def test_a_file_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"abc\xff")
    with pytest.raises(ResqError, match=r"not UTF-8 text \(byte 3\)"):
        load_text(str(tmp_path / "a.txt"))


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(b"%PDF")
    with pytest.raises(ResqError, match=r"must be a \.txt or a \.jsonl file"):
        load_text(str(tmp_path / "a.pdf"))


class FakeRows(dict[str, list[str]]):
    @property
    def column_names(self) -> list[str]:
        return list(self)


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str | None, str]]:
    """Replaces `datasets`; the list holds what was asked of it."""
    asked: list[tuple[str, str | None, str]] = []

    def load_dataset(name: str, configuration: str | None, split: str) -> FakeRows:
        asked.append((name, configuration, split))
        if name == "unreachable":
            raise ConnectionError("no route to host\nand a long story")
        return FakeRows(body=["x"]) if name == "bodies" else FakeRows(text=["a", "b"])

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    return asked


def test_wikitext_is_the_raw_training_text_of_wikitext_2(
    requests: list[tuple[str, str | None, str]],
) -> None:
    assert load_text("wikitext") == ["a", "b"]
    assert requests == [("Salesforce/wikitext", "wikitext-2-raw-v1", "train")]


def test_a_data_set_may_name_its_configuration(
    requests: list[tuple[str, str | None, str]],
) -> None:
    load_text("wikitext:wikitext-103-raw-v1")
    load_text("someone/books")
    assert requests == [
        ("Salesforce/wikitext", "wikitext-103-raw-v1", "train"),
        ("someone/books", None, "train"),
    ]


@pytest.mark.usefixtures("requests")
def test_a_data_set_without_a_text_column_is_refused() -> None:
    with pytest.raises(ResqError, match='no column "text", only body'):
        load_text("bodies")


@pytest.mark.usefixtures("requests")
def test_a_data_set_out_of_reach_is_one_line_that_says_what_would_do() -> None:
    with pytest.raises(ResqError, match=r"no route to host; give a \.txt") as refusal:
        load_text("unreachable")
    assert "\n" not in str(refusal.value)


def test_a_data_set_without_the_library_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ResqError, match="pip install datasets"):
        load_text("wikitext")


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
