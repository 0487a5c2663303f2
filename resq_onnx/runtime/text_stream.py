"""Text of tokens that come one at a time, in whole characters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

INCOMPLETE: Final = "\N{REPLACEMENT CHARACTER}"
"""Placeholder of a decoder for a character whose bytes are not complete yet."""


class TextStream:
    """Decodes tokens as they come; a piece holds whole UTF-8 characters only.

    The joined pieces and the rest equal the text of all tokens.
    """

    def __init__(self, decode: Callable[[list[int]], str]) -> None:
        """Begin a text; `decode` gives the text of token ids."""
        # A token's text may depend on the one before it (a leading space), so each step
        # decodes from the last piece on and emits what its tokens add.
        self._decode = decode
        self._window: list[int] = []
        self._shown = ""
        self._shown_tokens = 0

    def feed(self, token: int) -> str:
        """Take the next token; return the characters that it completes."""
        self._window.append(token)
        text = self._decode(self._window)
        if len(text) <= len(self._shown) or text.endswith(INCOMPLETE):
            return ""
        piece = text[len(self._shown) :]
        self._window = self._window[self._shown_tokens :]
        self._shown_tokens = len(self._window)
        self._shown = self._decode(self._window)
        return piece

    def rest(self) -> str:
        """What the tokens leave incomplete, once all have come."""
        return self._decode(self._window)[len(self._shown) :]
