"""No stop and no second writer leaves a mixture of two exports."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.files.publishers import NAMES

TOP = Path(__file__).parents[2]

pytestmark = pytest.mark.slow

PAIRS = 60
"""Of publishers: without a lock, 2 % of them left a mixture."""


def tried(*arguments: object) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "tests.files.publishers", *map(str, arguments)]
    done = subprocess.run(command, cwd=TOP, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def whole(text: str) -> dict[str, str]:
    return dict.fromkeys(NAMES, text)


@pytest.fixture(scope="module")
def replacing(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Publishers that were killed at one point after the other; the last one lived."""
    return tried("killed", tmp_path_factory.mktemp("replacing") / "out", "old")


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The same where there was no export before."""
    return tried("killed", tmp_path_factory.mktemp("first") / "out", "none")


def test_a_killed_publisher_leaves_no_model_beside_anothers_files(
    replacing: list[dict[str, Any]],
) -> None:
    assert len(replacing) > 3 * len(NAMES)
    for one in replacing:
        found = one["killed"]
        if "model.onnx" in found:
            assert found in (whole("old"), whole("new"))


def test_whoever_reads_next_finds_the_old_files_or_the_new_ones(
    replacing: list[dict[str, Any]],
) -> None:
    read = [one["read"] for one in replacing]
    assert all(found in (whole("old"), whole("new")) for found in read)
    assert read[0] == whole("old")
    assert read[-1] == whole("new")


def test_a_first_export_that_is_killed_is_not_there_or_whole(first: list[dict[str, Any]]) -> None:
    for one in first:
        if "model.onnx" in one["killed"]:
            assert one["killed"] == whole("new")
        assert one["read"] in ({}, whole("new"))


def test_the_next_export_replaces_all_of_it_and_cleans_up(
    first: list[dict[str, Any]], replacing: list[dict[str, Any]]
) -> None:
    for one in (*first, *replacing):
        assert one["next"] == whole("next")
        assert one["left"] == []


def test_of_two_exports_to_one_place_one_wins_whole_and_the_other_is_told(tmp_path: Path) -> None:
    found = tried("paired", tmp_path / "out", PAIRS)
    assert len(found) == PAIRS
    for one in found:
        winners = [text for text, code in zip("AB", one["codes"], strict=True) if code == 0]
        assert one["codes"] in ([0, 0], [0, 1], [1, 0])
        # Where both had their turn, either may have had the second: nothing tells which.
        assert one["files"] in [whole(winner) for winner in winners]
        assert one["left"] == []
    assert any(1 in one["codes"] for one in found)
