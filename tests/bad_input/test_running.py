"""Files and texts that the commands which run a model refuse, in one clear line."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.command_line import error_line, run
from tests.runtime import toy
from tests.tiny_models import write_tokenizer


@pytest.fixture
def toy_model(tmp_path: Path) -> Path:
    """A decoder that runs, with a tokenizer beside it."""
    folder = tmp_path / "toy"
    folder.mkdir()
    write_tokenizer(folder, 256)
    return toy.save_toy(folder / "model.onnx")


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("A text of several words.")
    return path


def error_of(*arguments: object) -> str:
    result = run(*arguments)
    assert result.exit_code == 1
    assert result.stdout == ""
    return error_line(result.stderr)


def test_the_toy_model_is_good(toy_model: Path, text: Path) -> None:
    asked = ("--prompt", "A", "--max-new-tokens", 1)
    assert run("generate", toy_model, *asked).exit_code == 0
    assert run("generate", toy_model, *asked, "--chat").exit_code == 0
    assert run("inspect", toy_model).exit_code == 0


@pytest.mark.parametrize("command", ["generate", "evaluate", "inspect"])
@pytest.mark.parametrize("content", [None, b"", b"no model"], ids=["absent", "empty", "text"])
def test_an_exported_file_that_cannot_be_read(
    toy_model: Path, text: Path, command: str, content: bytes | None
) -> None:
    toy_model.unlink()
    if content is not None:
        toy_model.write_bytes(content)
    options: dict[str, list[object]] = {
        "generate": ["--prompt", "A"],
        "evaluate": ["--text", text],
        "inspect": [],
    }
    assert f"{toy_model}: " in error_of(command, toy_model, *options[command])


@pytest.mark.parametrize("command", [["generate", "--prompt", "A"], ["evaluate", "--text"]])
def test_a_tokenizer_that_is_not_beside_the_file(
    toy_model: Path, text: Path, command: list[str]
) -> None:
    (toy_model.parent / "tokenizer.json").unlink()
    options = [*command[1:], text] if command[0] == "evaluate" else command[1:]
    line = error_of(command[0], toy_model, *options)
    assert f"{toy_model.parent / 'tokenizer.json'}: no such file" in line


def test_an_empty_prompt(toy_model: Path) -> None:
    assert "give a --prompt to continue" in error_of("generate", toy_model, "--prompt", "")


def test_a_chat_with_a_model_that_has_no_template(toy_model: Path) -> None:
    (toy_model.parent / "chat_template.jinja").unlink()
    line = error_of("generate", toy_model, "--prompt", "A", "--chat")
    assert "no chat template" in line


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("absent.txt", None, "no such file"),
        ("empty.txt", b"", "the text has 0 tokens"),
        ("latin1.txt", b"\xff", "not UTF-8 text"),
    ],
)
def test_a_text_that_cannot_be_evaluated(
    toy_model: Path, tmp_path: Path, name: str, content: bytes | None, words: str
) -> None:
    text = tmp_path / name
    if content is not None:
        text.write_bytes(content)
    assert words in error_of("evaluate", toy_model, "--text", text)


def test_a_model_that_is_no_decoder(toy_model: Path) -> None:
    toy.save_toy(toy_model, without="logits")
    line = error_of("generate", toy_model, "--prompt", "A")
    assert "the model is not a decoder with a cache: it has no logits" in line
