"""How much memory there is."""

from __future__ import annotations

from pathlib import Path

import pytest

from resq_onnx import resources
from resq_onnx.resources import available_bytes


def _write(group: Path, names: tuple[str, str], limit: str) -> None:
    group.mkdir(parents=True, exist_ok=True)
    for name, value in zip(names, (limit, "7000"), strict=True):
        (group / name).write_text(f"{value}\n")
    (group / "memory.stat").write_text("anon 5000\ninactive_file 400\nactive_file 200\n")


def test_what_is_left_of_the_nearest_limit_and_what_can_be_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups, top, old = tmp_path / "cgroup", tmp_path / "top", tmp_path / "top" / "memory"
    names, old_names = resources.SECOND[1], resources.FIRST[1]
    monkeypatch.setattr(resources, "GROUPS", groups)
    monkeypatch.setattr(resources, "SECOND", (top, names))
    monkeypatch.setattr(resources, "FIRST", (old, old_names))
    groups.write_text("0::/slice/job\n")
    unlimited = available_bytes()
    assert unlimited is not None
    assert unlimited > 10_000
    _write(top / "slice", names, "10000")
    _write(top / "slice" / "job", names, "max")
    assert available_bytes() == 3600
    _write(top / "slice" / "job", names, "9000")
    assert available_bytes() == 2600
    groups.write_text("0::/\n")
    _write(top, names, "8000")
    assert available_bytes() == 1600
    groups.write_text("3:cpu,cpuacct:/job\n7:memory:/job\n")
    _write(old / "job", old_names, "9500")
    assert available_bytes() == 3100
