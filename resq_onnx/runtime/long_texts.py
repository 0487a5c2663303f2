"""Token ids of texts from anywhere: one far too long is refused before it costs time and memory.

A tokenizer takes a second and some 100 MB for a megabyte, and all that time `encode` holds Python's
lock. So a long text is refused by its bytes where no tokens could be as few as are allowed; else it
is counted slice by slice, until there are too many or somebody says that nobody waits any more.
"""

from __future__ import annotations

import threading
from typing import Final

import tokenizers

SLICE: Final = 2**14
"""Characters that are tokenised together; a shorter text takes no longer than a token does."""

SLACK: Final = 64
"""More tokens than a cut between two slices makes of the text around it."""


class TooLongError(Exception):
    """A text has more tokens than are allowed."""


class EncodingCancelledError(Exception):
    """Nobody wants the tokens any more."""


def encode_at_most(
    backend: tokenizers.Tokenizer,
    text: str,
    limit: int,
    longest: int,
    cancelled: threading.Event,
    add_special_tokens: bool = True,
) -> list[int]:
    """Token ids of a text, if they may be as few as is allowed.

    Args:
        backend: The tokenizer.
        text: However long.
        limit: Tokens that are allowed. There may be some more; a text of many more is refused.
        longest: Bytes of the longest token.
        cancelled: Set by another thread when nobody wants the tokens any more.
        add_special_tokens: Whether to add what the tokenizer begins and ends a text with.

    Raises:
        TooLongError: There are too many.
        EncodingCancelledError: `cancelled` was set.
    """
    if len(text) > SLICE:
        if len(text.encode()) > limit * longest:
            raise TooLongError
        count = 0
        for start in range(0, len(text), SLICE):
            if cancelled.is_set():
                raise EncodingCancelledError
            count += len(_encode(backend, text[start : start + SLICE], False)) - SLACK
            if count > limit:
                raise TooLongError
    return _encode(backend, text, add_special_tokens)


def _encode(backend: tokenizers.Tokenizer, text: str, add_special_tokens: bool) -> list[int]:
    """Without Python's lock, which `encode` holds, and without the places of tokens in the text."""
    (found,) = backend.encode_batch_fast([text], add_special_tokens=add_special_tokens)
    return list(found.ids)
