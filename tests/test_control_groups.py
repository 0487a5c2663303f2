"""Limits of the groups that a process is in, in both versions of Linux's control groups."""

from __future__ import annotations

from pathlib import Path

import pytest

from resq_onnx import control_groups
from resq_onnx.control_groups import Limit, memory_limits


class Groups:
    """Files as Linux shows them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.own = folder, folder / "own"

    def in_group(self, lines: str) -> None:
        self.own.write_text(lines)

    def write(self, group: str, version: tuple[Path, tuple[str, str]], limit: str) -> None:
        top, names = version
        (top / group).mkdir(parents=True, exist_ok=True)
        for name, value in zip(names, (limit, "7000"), strict=True):
            (top / group / name).write_text(f"{value}\n")
        (top / group / "memory.stat").write_text(
            "anon 5000\ninactive_file 400\nactive_file 200\nslab_reclaimable 30\n"
        )


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Groups:
    made = Groups(tmp_path)
    monkeypatch.setattr(control_groups, "GROUPS", made.own)
    for version, folder in (("FIRST", "top/memory"), ("SECOND", "top")):
        names = getattr(control_groups, version)[1]
        monkeypatch.setattr(control_groups, version, (tmp_path / folder, names))
    return made


def test_a_group_and_those_around_it_limit_a_process(groups: Groups) -> None:
    groups.in_group("0::/slice/job\n")
    assert memory_limits() == []
    groups.write("slice", control_groups.SECOND, "10000")
    groups.write("slice/job", control_groups.SECOND, "9000")
    groups.write("slice/other", control_groups.SECOND, "1")
    assert memory_limits() == [Limit(9000, 2630), Limit(10_000, 3630)]


def test_a_group_without_a_limit_says_max(groups: Groups) -> None:
    groups.in_group("0::/slice/job\n")
    groups.write("slice/job", control_groups.SECOND, "max")
    assert memory_limits() == []
    groups.write("slice", control_groups.SECOND, "10000")
    assert memory_limits() == [Limit(10_000, 3630)]


def test_in_a_container_the_limit_is_that_of_the_top(groups: Groups) -> None:
    groups.in_group("0::/\n")
    groups.write("", control_groups.SECOND, "8000")
    assert memory_limits() == [Limit(8000, 1630)]


def test_the_first_version_has_a_tree_for_memory(groups: Groups) -> None:
    groups.in_group("3:cpu,cpuacct:/job\n7:memory:/job\n")
    groups.write("job", control_groups.FIRST, "9500")
    assert memory_limits() == [Limit(9500, 3130)]


def test_other_systems_have_no_groups(groups: Groups) -> None:
    assert not groups.own.exists()
    assert memory_limits() == []
