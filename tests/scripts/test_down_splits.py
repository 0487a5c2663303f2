from __future__ import annotations

from pathlib import Path

from scripts import down_splits


def test_the_document_has_the_table_that_the_script_prints() -> None:
    document = Path(__file__).parents[2] / "docs" / "quality.md"
    assert "\n".join(["", *down_splits.table(), ""]) in document.read_text()
