"""How many positions a model has, by the config.json beside it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from resq_onnx.errors import ResqError
from resq_onnx.runtime.positions import positions_of


@pytest.mark.parametrize(
    ("content", "positions"),
    [
        ('{"max_position_embeddings": 64}', 64),
        ('\ufeff{"max_position_embeddings": 64}', 64),
        ('{"max_position_embeddings": 9, "text_config": {"max_position_embeddings": 64}}', 64),
        ("{}", None),
        ('{"max_position_embeddings": 0}', None),
        ('{"max_position_embeddings": true}', None),
        ('{"max_position_embeddings": "64", "text_config": 5}', None),
    ],
)
def test_positions_are_those_of_the_language_model(
    tmp_path: Path, content: str, positions: int | None
) -> None:
    (tmp_path / "config.json").write_text(content, encoding="utf-8")
    assert positions_of(tmp_path) == positions


def test_without_the_file_they_are_not_known(tmp_path: Path) -> None:
    assert positions_of(tmp_path) is None


@pytest.mark.parametrize("content", ["{", "[]", "[" * 100_000])
def test_a_damaged_file_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ResqError, match=r"config\.json: .*; put the original model's file there"):
        positions_of(tmp_path)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(ResqError, match="not a regular file"):
        positions_of(tmp_path)
