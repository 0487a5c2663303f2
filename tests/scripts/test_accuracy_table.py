from __future__ import annotations

import json
from pathlib import Path

from scripts import accuracy_table
from scripts.quality_rows import TABLES

RESULTS = {
    "wordnet_definitions": {"acc,none": 0.75, "acc_stderr,none": 0.02},
    "wordnet_kinds": {"acc,none": 0.5, "acc_stderr,none": 0.025},
}


def test_a_line_has_accuracies_and_their_errors_in_per_cent() -> None:
    found = accuracy_table.accuracies_in(RESULTS)
    assert accuracy_table.line("`resq`", found) == "| `resq` | 75.0 ± 2.0 | 50.0 ± 2.5 |"


def test_what_was_measured_is_not_measured_again(tmp_path: Path) -> None:
    (tmp_path / "accuracy.json").write_text(json.dumps(RESULTS))
    found = accuracy_table.measured(tmp_path / "model.onnx", tmp_path / "no tasks")
    assert found["wordnet_kinds"] == (0.5, 0.025)


def test_all_rows_are_rows_of_the_quality_tables() -> None:
    known = {row.file for table in TABLES.values() for row in table}
    assert set(accuracy_table.ROWS.split(",")) <= known
