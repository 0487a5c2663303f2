"""Files with which the `tokenizers` library would abort the process: each is tried in its own."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from resq_onnx.errors import ResqError
from resq_onnx.runtime.tokenizer import Tokenizer
from resq_onnx.runtime.tokenizer_file import check_tokenizer_file
from tests.command_line import error_line, program
from tests.tiny_models import write_model, write_tokenizer

TEXT = "The sea is wide."


def change_model(folder: Path, **entries: Any) -> None:
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    content["model"] |= entries
    path.write_text(json.dumps(content))


def test_a_command_refuses_a_prefix_that_no_merge_has(tmp_path: Path) -> None:
    write_model(tmp_path, "llama", tied=True, num_hidden_layers=1)
    change_model(tmp_path, continuing_subword_prefix="\u0120")
    command = program("calibrate", tmp_path, tmp_path.with_name("p.safetensors"))
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    line = error_line(done.stderr)
    assert f"{tmp_path}/tokenizer.json: not a tokenizer: the merge " in line
    assert "its continuing_subword_prefix, '\u0120'; put the right tokenizer.json" in line


@pytest.mark.parametrize("prefix", ["x", "\0", "xx"])
def test_so_does_the_check_before_the_library_reads_it(tmp_path: Path, prefix: str) -> None:
    write_tokenizer(tmp_path, 256)
    change_model(tmp_path, continuing_subword_prefix=prefix)
    with pytest.raises(ResqError, match="does not go on with its continuing_subword_prefix"):
        check_tokenizer_file(tmp_path / "tokenizer.json", "give another")


@pytest.mark.parametrize("merges", [[""], [[]], [5], ["a b", "a ##c"]])
def test_merges_of_any_other_form_are_refused(tmp_path: Path, merges: list[Any]) -> None:
    write_tokenizer(tmp_path, 256)
    change_model(tmp_path, continuing_subword_prefix="##", merges=merges)
    with pytest.raises(ResqError, match=r"tokenizer\.json: not a tokenizer: the merge"):
        Tokenizer.load(tmp_path)


def test_a_prefix_that_all_merges_have_is_fine(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, 256)
    plain = Tokenizer.load(tmp_path)
    content = json.loads((tmp_path / "tokenizer.json").read_text())["model"]
    vocabulary = content["vocab"] | {"##b": 256, "ab": 257}
    change_model(tmp_path, continuing_subword_prefix="##", vocab=vocabulary, merges=[["a", "##b"]])
    assert Tokenizer.load(tmp_path).backend.get_vocab_size() == plain.backend.get_vocab_size() + 2
