"""The table of calibration texts: held-out texts, and its numbers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scripts import calibration_table
from scripts.calibration_table import KINDS, Bench, print_table, written_chats
from tests.tiny_models import write_model


def test_the_table_has_mean_and_spread_of_what_was_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "held-out.txt").write_text("prose")
    (tmp_path / "chat.txt").write_text("chat")
    for name, value in {"float-8-0": 10.0, "self-8-0": 12.0, "self-8-1": 14.0}.items():
        measured = {"seconds": 60.0} | dict.fromkeys(KINDS, value)
        (tmp_path / f"{name}.json").write_text(json.dumps(measured))
    bench = Bench(tmp_path / "model", tmp_path, samples=8, windows=2)
    print_table(bench, ["self"], [0, 1], tmp_path)
    cell = "1.300 ± 0.141"
    assert f"| `self` | {cell} | {cell} | {cell} | 60 |" in capsys.readouterr().out
    assert "def " in (tmp_path / "code.txt").read_text()


def test_chats_are_prompts_with_answers_of_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration_table, "ANSWER", 80)
    write_model(tmp_path / "model", "llama", tied=True)
    text = written_chats(tmp_path / "model")
    assert text.count("assistant\n") >= len(calibration_table.PROMPTS)
