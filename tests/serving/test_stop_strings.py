"""Stop strings, against a twin that looks at one character after the other."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from resq_onnx.serving.stop_strings import StopStrings

LETTERS = st.text("ab", max_size=12)
"""Two letters only, so that beginnings of stop strings are everywhere."""


def obvious(text: str, stops: list[str]) -> str:
    """What is before the stop string that is complete first; the longest of those."""
    for end in range(len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            return text[: end - max(map(len, found))]
    return text


def passed_on(pieces: list[str], stops: list[str]) -> list[str]:
    filter_ = StopStrings(stops)
    found = []
    for piece in pieces:
        found.append(filter_.feed(piece))
        if filter_.found:
            return found
    return [*found, filter_.rest()]


@given(
    pieces=st.lists(LETTERS, max_size=8),
    stops=st.lists(st.text("ab", min_size=1, max_size=5), max_size=4),
)
def test_what_is_passed_on_does_not_depend_on_the_pieces(
    pieces: list[str], stops: list[str]
) -> None:
    text = "".join(pieces)
    assert "".join(passed_on(pieces, stops)) == obvious(text, stops)
    assert "".join(passed_on(list(text), stops)) == obvious(text, stops)


@given(pieces=st.lists(LETTERS, max_size=8), stop=st.text("ab", min_size=1, max_size=5))
def test_no_more_is_held_back_than_might_be_part_of_a_stop_string(
    pieces: list[str], stop: str
) -> None:
    filter_ = StopStrings([stop])
    said, sent = "", ""
    for piece in pieces:
        said += piece
        sent += filter_.feed(piece)
        if filter_.found:
            return
        held = said[len(sent) :]
        assert sent + held == said
        assert held == "" or stop.startswith(held)


@pytest.mark.parametrize("pieces", [["abc"], ["a", "b", "c"], ["ab", "c"]])
def test_of_two_stop_strings_the_one_that_is_complete_first_counts(pieces: list[str]) -> None:
    assert "".join(passed_on(pieces, ["abc", "b"])) == "a"
    assert "".join(passed_on(pieces, ["c", "bc"])) == "a"
