"""How much memory there is."""

from __future__ import annotations

from pathlib import Path

import pytest

from resq_onnx import control_groups, resources
from resq_onnx.resources import available_bytes, total_bytes


def _write(group: Path, names: tuple[str, str], limit: str) -> None:
    group.mkdir(parents=True, exist_ok=True)
    for name, value in zip(names, (limit, "7000"), strict=True):
        (group / name).write_text(f"{value}\n")
    (group / "memory.stat").write_text("anon 5000\ninactive_file 400\nactive_file 200\n")


def test_what_is_left_of_the_nearest_limit_and_what_can_be_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups, top, old = tmp_path / "cgroup", tmp_path / "top", tmp_path / "top" / "memory"
    names, old_names = control_groups.SECOND[1], control_groups.FIRST[1]
    monkeypatch.setattr(control_groups, "GROUPS", groups)
    monkeypatch.setattr(control_groups, "SECOND", (top, names))
    monkeypatch.setattr(control_groups, "FIRST", (old, old_names))
    groups.write_text("0::/slice/job\n")
    unlimited = available_bytes()
    assert unlimited is not None
    assert unlimited > 10_000
    _write(top / "slice", names, "10000")
    _write(top / "slice" / "job", names, "max")
    assert (available_bytes(), total_bytes()) == (3600, 10_000)
    _write(top / "slice" / "job", names, "9000")
    assert available_bytes() == 2600
    groups.write_text("0::/\n")
    _write(top, names, "8000")
    assert available_bytes() == 1600
    groups.write_text("3:cpu,cpuacct:/job\n7:memory:/job\n")
    _write(old / "job", old_names, "9500")
    assert available_bytes() == 3100


def test_a_machine_that_does_not_say_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "meminfo"
    monkeypatch.setattr(control_groups, "GROUPS", tmp_path / "none")
    monkeypatch.setattr(resources, "MEMINFO", info)
    assert (available_bytes(), total_bytes()) == (None, None)
    info.write_text("MemTotal:  4 kB\nMemFree: 1 kB\n")
    assert (available_bytes(), total_bytes()) == (None, 4096)
