"""The Markdown files: their links, as GitHub shows them, and the code they quote.

`make docs` checks links between the pages of the site, but none of README.md or of other files
outside docs/.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "passes").glob("*.md"),
        *(ROOT / "tests").rglob("*.md"),
    ]
)

SOURCES = [
    *(ROOT / "passes").glob("*.py"),
    *(ROOT / "resq_onnx").rglob("*.py"),
    *(ROOT / "custom_ops").rglob("*.hpp"),
]

LINK = re.compile(r"\]\((?!\w+:)([^)#\s]*)(?:#([^)\s]+))?\)")
"""A link's file and heading; none that names a protocol."""


def text_of(file: Path) -> str:
    """A file without its blocks of code, in which a # begins a comment."""
    return re.sub(r"^ *```.*?^ *```", "", file.read_text(), flags=re.M | re.S)


def anchors_of(file: Path) -> set[str]:
    """What GitHub calls the headings of a file."""
    seen: Counter[str] = Counter()
    anchors = set()
    for heading in re.findall(r"^#+ (.+)$", text_of(file), re.M):
        anchor = re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
        anchors.add(f"{anchor}-{seen[anchor]}" if seen[anchor] else anchor)
        seen[anchor] += 1
    return anchors


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(file: Path) -> None:
    for path, anchor in LINK.findall(text_of(file)):
        target = (file.parent / path).resolve() if path else file
        assert target.exists(), path
        if anchor and target.suffix == ".md":
            assert anchor in anchors_of(target), f"{path}#{anchor}"


def test_the_code_that_the_guide_quotes_stands_in_the_sources() -> None:
    guide = (ROOT / "docs" / "adding.md").read_text()
    quotes = re.findall(r"^```(?:python|cpp)\n(.*?)^```", guide, re.M | re.S)
    sources = [_without_margins(file.read_text()) for file in SOURCES]
    assert len(quotes) > 3
    for quote in quotes:
        assert any(_without_margins(quote) in source for source in sources), quote


def _without_margins(code: str) -> str:
    return "\n".join(line.strip() for line in code.strip().splitlines())


def test_the_tests_that_hold_the_answers_to_hostile_inputs_are_there() -> None:
    page = (ROOT / "docs" / "hostile-inputs.md").read_text()
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", page)
    assert len(named) > 50
    missing = [
        f"{file}::{name}"
        for file, name in named
        if f"def {name}(" not in (ROOT / "tests" / file).read_text()
    ]
    assert missing == []


def test_every_hostile_input_has_such_a_test() -> None:
    page = (ROOT / "docs" / "hostile-inputs.md").read_text()
    rows = [line for line in page.splitlines() if re.match(r"\| (?!input)", line)]
    assert len(rows) > 50
    assert [row for row in rows if ".py::test_" not in row] == []
