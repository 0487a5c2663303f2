"""What a shell asks for after `eval "$(_RESQ_ONNX_COMPLETE=bash_source resq-onnx)"`."""

from __future__ import annotations

import os
import subprocess

import pytest

from tests.command_line import program


def answer(instruction: str, words: str = "", place: int = 0) -> list[str]:
    asked = {"_RESQ_ONNX_COMPLETE": instruction, "COMP_WORDS": words, "COMP_CWORD": str(place)}
    result = subprocess.run(
        program(), capture_output=True, text=True, env={**os.environ, **asked}, check=True
    )
    return result.stdout.splitlines()


@pytest.mark.parametrize(
    ("words", "place", "completed"),
    [
        ("resq-onnx ex", 1, "plain,export"),
        ("resq-onnx export --quie", 2, "plain,--quiet"),
        ("resq-onnx export a b --method qua", 5, "plain,quarot"),
        ("resq-onnx generate ", 2, "file,"),
    ],
)
def test_a_shell_completes_commands_options_values_and_files(
    words: str, place: int, completed: str
) -> None:
    assert answer("bash_complete", words, place) == [completed]


def test_a_shell_gets_the_function_that_completes() -> None:
    assert answer("zsh_source")[0] == "#compdef resq-onnx"
