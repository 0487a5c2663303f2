"""What other libraries raise, in words for the user."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import pytest

from resq_onnx.errors import ResqError, blaming, first_line, lines_of, reason
from resq_onnx.files.contents import MOST_BYTES, parse_json, read_json, read_text

AGAIN = "download it again"


def refusal(path: Path, **how: Any) -> str:
    with pytest.raises(ResqError) as error:
        read_json(path, AGAIN, **how)
    line = str(error.value)
    assert line.startswith(f"{path}: ")
    assert line.endswith(AGAIN)
    assert "\n" not in line
    return line


def test_the_first_line_of_an_error_is_the_first_that_says_anything() -> None:
    assert first_line(ValueError("\n  \n  what \nmore")) == "what"
    assert lines_of(ValueError("a\n\nb\n")) == ["a", "b"]


@pytest.mark.parametrize("error", [IndexError(), ValueError("\n"), StopIteration()])
def test_an_error_without_a_message_is_called_by_its_type(error: Exception) -> None:
    assert first_line(error) == type(error).__name__


class StrictDataclassFieldValidationError(Exception):
    """As huggingface_hub raises it."""


FOREIGN = [
    (KeyError("weight_map"), "it has no 'weight_map'"),
    (FileNotFoundError(2, "No such file or directory", "x"), "no such file"),
    (PermissionError(13, "Permission denied"), "Permission denied"),
    (MemoryError(), "it asks for more memory than there is"),
    (RecursionError("maximum recursion depth"), "it is nested too deeply"),
    (struct.error("unpack requires 8 bytes"), "it is cut off (unpack requires 8 bytes)"),
    (
        StrictDataclassFieldValidationError(
            "Validation error for field 'eos_token_id':\n    TypeError: Field 'eos_token_id' "
            "expected int, got str"
        ),
        "eos_token_id: Field 'eos_token_id' expected int, got str",
    ),
]


@pytest.mark.parametrize(("error", "words"), FOREIGN, ids=[type(e).__name__ for e, _ in FOREIGN])
def test_errors_of_other_libraries_are_told_in_words(error: Exception, words: str) -> None:
    assert reason(error) == words
    with pytest.raises(ResqError) as refused, blaming("x.json", "not a model", AGAIN):
        raise error
    assert str(refused.value) == f"x.json: not a model: {words}; {AGAIN}"


def test_what_is_said_already_is_said_once() -> None:
    with pytest.raises(ResqError) as error, blaming("x", "wrong", AGAIN):
        raise ResqError("as it is")
    assert str(error.value) == "as it is"


def test_a_missing_package_and_ctrl_c_are_no_fault_of_an_input() -> None:
    with pytest.raises(ModuleNotFoundError), blaming("x", "wrong", AGAIN):
        raise ModuleNotFoundError("no torch", name="torch")
    with pytest.raises(KeyboardInterrupt), blaming("x", "wrong", AGAIN):
        raise KeyboardInterrupt


def test_a_fault_of_a_library_in_rust_is_one_of_its_input() -> None:
    panic = type("PanicException", (BaseException,), {})
    with pytest.raises(ResqError, match="wrong: out of bounds"), blaming("x", "wrong", AGAIN):
        raise panic("out of bounds")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{", "not JSON (Expecting property name"),
        (b"", "not JSON (Expecting value: line 1 column 1)"),
        (b"[]", "must hold a JSON object"),
        (b"\xff", "not UTF-8 text (byte 0)"),
        (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "it is nested too deeply"),
        (b'{"a": "\\ud800"}', "half a character (a lone surrogate)"),
        (b'{"a": ' + b"1" * 5000 + b"}", "Exceeds the limit"),
    ],
    ids=["cut", "empty", "list", "latin1", "deep", "surrogate", "digits"],
)
def test_a_damaged_json_file_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content)
    assert words in refusal(path)
    assert words in refusal(path, optional=True)


def test_a_json_file_that_is_not_there_may_be_an_empty_object(tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path / "x.json")
    assert read_json(tmp_path / "x.json", AGAIN, optional=True) == {}


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "it is not a regular file" in refusal(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    assert "it is not a regular file" in refusal(tmp_path / "folder")


def test_a_file_beyond_all_measure_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    with path.open("wb") as file:
        file.truncate(MOST_BYTES + 1)
    assert f"the most that make sense are {MOST_BYTES}" in refusal(path)


def test_a_byte_order_mark_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_json(path, AGAIN) == {"a": 1}
    assert read_text(path, AGAIN) == '{"a": 1}'


def test_a_message_may_call_a_file_otherwise(tmp_path: Path) -> None:
    with pytest.raises(ResqError, match=r"^my model: config.json: cannot be read: no such file"):
        read_json(tmp_path / "x", AGAIN, shown="my model: config.json")
    with pytest.raises(ResqError, match=r"^its header: cannot be read: not JSON"):
        parse_json(b"{", "its header", AGAIN)
    assert parse_json(json.dumps({"a": "ü"}), "it", AGAIN) == {"a": "ü"}
