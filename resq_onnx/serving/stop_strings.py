"""Stop strings in streamed text: they end an answer and are never sent, even in part."""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Passes text on piece by piece, up to the first stop string.

    The first is the one that is complete first, and of those that end together the longest: so the
    choice does not depend on how the text is divided into pieces.

    Attributes:
        found: Whether a stop string has come, which ends the text.
        held: Text held back, because it may be the beginning of one.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        """Take the strings, none of them empty."""
        self._stops = tuple(stops)
        self.held = ""
        self.found = False

    def feed(self, piece: str) -> str:
        """Take the next piece; return the text that cannot be part of a stop string."""
        text = self.held + piece
        starts = ((text.find(stop), stop) for stop in self._stops)
        ends = [(start + len(stop), start) for start, stop in starts if start >= 0]
        if ends:
            self.found, self.held = True, ""
            return text[: min(ends)[1]]
        kept = max((overlap(text, stop) for stop in self._stops), default=0)
        self.held = text[len(text) - kept :]
        return text[: len(text) - kept]

    def rest(self) -> str:
        """The text held back, once all text has come: it is not a complete stop string."""
        held, self.held = self.held, ""
        return held


def overlap(text: str, stop: str) -> int:
    """Length of the longest suffix of a text that is a prefix of a stop string."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
