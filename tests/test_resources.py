"""How much memory there is."""

from __future__ import annotations

from pathlib import Path

import pytest

from resq_onnx import resources
from resq_onnx.control_groups import Limit
from resq_onnx.resources import available_bytes, total_bytes


def test_the_nearest_limit_counts_and_what_is_left_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resources, "memory_limits", list)
    unlimited = available_bytes()
    assert unlimited is not None
    assert unlimited > 10_000
    limits = [Limit(9000, 2600), Limit(8000, 3100), Limit(10**15, 10**15)]
    monkeypatch.setattr(resources, "memory_limits", lambda: limits)
    assert (available_bytes(), total_bytes()) == (2600, 8000)


def test_a_machine_that_does_not_say_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "meminfo"
    monkeypatch.setattr(resources, "memory_limits", list)
    monkeypatch.setattr(resources, "MEMINFO", info)
    assert (available_bytes(), total_bytes()) == (None, None)
    info.write_text("MemTotal:  4 kB\nMemFree: 1 kB\n")
    assert (available_bytes(), total_bytes()) == (None, 4096)
