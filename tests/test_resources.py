"""How much memory there is."""

from __future__ import annotations

from pathlib import Path

import pytest

from resq_onnx import resources
from resq_onnx.resources import available_bytes


def _write(group: Path, limit: str) -> None:
    group.mkdir(parents=True, exist_ok=True)
    (group / "memory.max").write_text(f"{limit}\n")
    (group / "memory.current").write_text("7000\n")
    (group / "memory.stat").write_text("anon 5000\ninactive_file 600\n")


def test_what_is_left_of_the_nearest_limit_and_what_can_be_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups, top = tmp_path / "cgroup", tmp_path / "top"
    groups.write_text("0::/slice/job\n")
    monkeypatch.setattr(resources, "GROUPS", groups)
    monkeypatch.setattr(resources, "CONTAINER", top)
    unlimited = available_bytes()
    assert unlimited is not None
    assert unlimited > 10_000
    _write(top / "slice", "10000")
    _write(top / "slice" / "job", "max")
    assert available_bytes() == 3600
    _write(top / "slice" / "job", "9000")
    assert available_bytes() == 2600
    groups.write_text("0::/\n")
    _write(top, "8000")
    assert available_bytes() == 1600
