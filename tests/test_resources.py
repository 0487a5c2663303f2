"""How much memory there is."""

from __future__ import annotations

from pathlib import Path

import pytest

from resq_onnx import resources
from resq_onnx.resources import available_bytes


def test_a_container_gives_what_is_left_of_its_limit_and_what_it_can_give_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resources, "CONTAINER", tmp_path)
    of_machine = available_bytes()
    assert of_machine is not None
    (tmp_path / "memory.current").write_text("7000\n")
    (tmp_path / "memory.stat").write_text("anon 5000\ninactive_file 600\n")
    (tmp_path / "memory.max").write_text("9000\n")
    assert available_bytes() == 2600
    (tmp_path / "memory.max").write_text("max\n")
    unlimited = available_bytes()
    assert unlimited is not None
    assert unlimited > 9000
